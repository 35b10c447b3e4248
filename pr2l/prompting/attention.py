"""Attention of a policy's query token to image patches and words, and a function to draw it.

Attention weights show which tokens contribute to the summary. They do not explain an action (Jain and Wallace 2019).
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
from pr2l.encoders.common.cache import uncached
from pr2l.encoders.common.states import pooled_length
from pr2l.encoders.prompted import PromptedEncoder
from pr2l.policies.common.tokens import without_padding


class FrameAttention(NamedTuple):
    """Attention weights of one frame; they sum to 1.

    Attributes:
        patches: [S, S] weights of image patches; None without the image segment, or if the image tokens are not on a
            square grid (for example Q-Former tokens).
        words: Name and weight of every other token.
    """

    patches: npt.NDArray[np.float32] | None
    words: list[tuple[str, float]]


@torch.no_grad()
def query_attention(network: Any, tokens: Tokens) -> torch.Tensor:
    """Return the attention weights of a token_transformer network, averaged over heads and queries.

    Args:
        network: A token_transformer with at least one query token.
        tokens: Values [B, T, D] and mask [B, T].

    Returns:
        float32 [B, T] weights. The weights of a frame sum to 1; padding has weight 0.

    Raises:
        UserError: If the network has no query token.
    """
    if not hasattr(network, "decoder"):
        raise UserError(
            f"the network {type(network).__module__} has no query tokens; train with network=token_transformer and "
            "network_options.queries of at least 1"
        )
    values = without_padding(tokens.values.float(), tokens.mask)
    weights: torch.Tensor = network.attention_weights(values, tokens.mask).mean(1)
    return weights


def frame_attention(encoder: Any, weights: torch.Tensor, text: str, answer: str) -> FrameAttention:
    """Assign the attention weights of one frame to patches and words.

    Args:
        encoder: The encoder `prompted` that computed the tokens, cached or not.
        weights: [T] weights of the frame, from query_attention.
        text: Prompt of the frame.
        answer: Answer of the VLM.

    Raises:
        UserError: If the encoder is not `prompted` with layer_join=width, or its prompt has several images or a camera.
    """
    encoder = uncached(encoder)
    if not isinstance(encoder, PromptedEncoder) or encoder.join != "width":
        raise UserError("attention can be drawn only for encoder=prompted with encoder_options.layer_join=width")
    count = max(encoder.frame_history, len(encoder.prompts.grids))
    if count > 1:
        raise UserError(f"attention can be drawn only for prompts with one image, but this prompt has {count}")
    if encoder.source.prompt is not None and encoder.source.prompt.cameras:
        raise UserError("attention can be drawn only for prompts that take the whole frame, not one camera of it")
    vlm, patches, words = encoder.vlm, None, []
    lengths = {
        "image": pooled_length(vlm.image_length(), encoder.options.image_tokens),
        "prompt": encoder.prompt_tokens,
        "generated": vlm.new_tokens,
    }
    of_segments = weights.cpu().split([lengths[segment] for segment in encoder.options.segments])
    for segment, values in zip(encoder.options.segments, of_segments, strict=True):
        if segment == "image":
            side = isqrt(len(values))
            extra = len(values) - side**2
            if extra > 1:  # no square grid, such as the 32 queries of a Q-Former
                words += [(f"(image {number})", float(weight)) for number, weight in enumerate(values, start=1)]
                continue
            patches = values[extra:].reshape(side, side).numpy()
            words += [("(whole image)", float(weight)) for weight in values[:extra]]  # a class token or mean
        else:
            names = _prompt_words(vlm, text) if segment == "prompt" else _answer_words(vlm, answer)
            words += [(name, float(weight)) for name, weight in zip(names, values, strict=False)]
    return FrameAttention(patches, words)


def draw_attention(frame_axes: Axes, word_axes: Axes, frame: npt.NDArray[np.uint8], attention: FrameAttention) -> None:
    """Draw a frame, with patches of low weight darkened, and a bar for each word.

    Args:
        frame_axes: Axes for the frame.
        word_axes: Axes for the bars. A dashed line marks the weight that all tokens would have if they were equal.
        frame: uint8 [H, W, 3].
        attention: Attention weights of the frame.
    """
    height, width = frame.shape[:2]
    frame_axes.imshow(frame)
    if attention.patches is not None:
        shade = np.zeros((*attention.patches.shape, 4))
        shade[..., 3] = 0.85 * (1 - attention.patches / attention.patches.max())
        frame_axes.imshow(shade, extent=(0, width, height, 0), interpolation="nearest")
        frame_axes.set_title(f"patches: {attention.patches.sum():.0%}", fontsize=9)
    frame_axes.set_axis_off()
    names: Sequence[str] = [name for name, _ in attention.words]
    word_axes.barh(range(len(names)), [weight for _, weight in attention.words], color="tab:orange")
    word_axes.set_yticks(range(len(names)), names, fontsize=8)
    word_axes.invert_yaxis()
    tokens = len(names) + (0 if attention.patches is None else attention.patches.size)
    word_axes.axvline(1 / tokens, color="black", linestyle="--", linewidth=1)
    word_axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    word_axes.spines[["top", "right"]].set_visible(False)


def _prompt_words(vlm: Any, text: str) -> list[str]:
    ids = [token for token in vlm.ids([text])[0].tolist() if token != vlm.image_token_id]
    return [str(word) for word in vlm.tokenizer.convert_ids_to_tokens(ids)]


def _answer_words(vlm: Any, answer: str) -> list[str]:
    """Return the tokens of the answer, and its end token."""
    ids = vlm.tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*(f"> {word}" for word in vlm.tokenizer.convert_ids_to_tokens(ids)), "> (end)"]
