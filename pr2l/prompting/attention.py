"""What a policy looks at: how its query token weighs image patches and words, drawn on the frame.

Attention says what is mixed into the summary, not why an action was taken; take it as a hint (Jain and Wallace 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.encoders.common.states import pooled_length
from pr2l.encoders.prompted import PromptedEncoder


class Seen(NamedTuple):
    """One frame's attention, which sums to 1. words: of all other tokens than patches.

    patches: [S, S]; None without the image, or where its tokens have no place in it, as a Q-Former's.
    """

    patches: npt.NDArray[np.float32] | None
    words: list[tuple[str, float]]


@torch.no_grad()
def query_attention(network: Any, tokens: Tokens) -> torch.Tensor:
    """float32 [B, T]: how a token_transformer network weighs the tokens, mean over heads and queries; 0 at padding."""
    if not hasattr(network, "decoder"):
        raise UserError(
            f"this {type(network).__module__} has no query token; train with network=token_transformer and "
            "network_options.queries=1 or more"
        )
    calls: list[tuple[Any, Any]] = []
    attend = network.decoder.multihead_attn
    hook = attend.register_forward_pre_hook(lambda module, *call: calls.append(call), with_kwargs=True)
    try:
        network.summarise(tokens.values.float().masked_fill(~tokens.mask[..., None], 0.0), tokens.mask)
    finally:
        hook.remove()
    [(given, options)] = calls
    _, weights = attend(*given, **{**options, "need_weights": True})
    return torch.as_tensor(weights.mean(1))


def seen(encoder: Any, weights: torch.Tensor, text: str, answer: str) -> Seen:
    """The weights [T] of one frame, by what they lie on; encoder: a prompted one, which was asked `text`."""
    encoder = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    if not isinstance(encoder, PromptedEncoder) or encoder.join != "width":
        raise UserError("attention can be drawn for encoder=prompted with layer_join=width")
    vlm, patches, words = encoder.vlm, None, []
    lengths = {
        "image": pooled_length(vlm.image_length(), encoder.options.image_tokens),
        "prompt": encoder.prompt_tokens,
        "generated": vlm.new_tokens,
    }
    parts = weights.cpu().split([lengths[segment] for segment in encoder.options.segments])
    for segment, part in zip(encoder.options.segments, parts, strict=True):
        if segment == "image":
            side = isqrt(len(part))
            before = len(part) - side**2
            if before > 1:  # no square grid, such as the 32 queries of a Q-Former
                words += [(f"(image {number})", float(weight)) for number, weight in enumerate(part, start=1)]
                continue
            patches = part[before:].reshape(side, side).numpy()
            words += [("(whole image)", float(weight)) for weight in part[:before]]  # a mean over the picture
        else:
            names = _prompt_words(vlm, text) if segment == "prompt" else _answer_words(vlm, answer)
            words += [(name, float(weight)) for name, weight in zip(names, part, strict=False)]
    return Seen(patches, words)


def draw_attention(frame_axes: Axes, word_axes: Axes, frame: npt.NDArray[np.uint8], given: Seen) -> None:
    """The frame [H, W, 3], its patches the darker the less they weigh, and bars for words; dashed: an even weight."""
    height, width = frame.shape[:2]
    frame_axes.imshow(frame)
    if given.patches is not None:
        shade = np.zeros((*given.patches.shape, 4))
        shade[..., 3] = 0.85 * (1 - given.patches / given.patches.max())
        frame_axes.imshow(shade, extent=(0, width, height, 0), interpolation="nearest")
        frame_axes.set_title(f"patches: {given.patches.sum():.0%}", fontsize=9)
    frame_axes.set_axis_off()
    names: Sequence[str] = [name for name, _ in given.words]
    word_axes.barh(range(len(names)), [weight for _, weight in given.words], color="tab:orange")
    word_axes.set_yticks(range(len(names)), names, fontsize=8)
    word_axes.invert_yaxis()
    tokens = len(names) + (0 if given.patches is None else given.patches.size)
    word_axes.axvline(1 / tokens, color="black", linestyle="--", linewidth=1)
    word_axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    word_axes.spines[["top", "right"]].set_visible(False)


def _prompt_words(vlm: Any, text: str) -> list[str]:
    ids = [token for token in vlm.ids([text])[0].tolist() if token != vlm.image_token_id]
    return [str(word) for word in vlm.tokenizer.convert_ids_to_tokens(ids)]


def _answer_words(vlm: Any, answer: str) -> list[str]:
    """The answer's tokens, and its end."""
    ids = vlm.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*(f"> {word}" for word in vlm.tokenizer.convert_ids_to_tokens(ids)), "> (end)"]
