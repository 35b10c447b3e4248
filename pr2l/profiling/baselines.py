"""What other programs run: the notebook of the PR2L paper, and a plain batch of transformers.

The notebook (static/notebooks/PR2LExample.ipynb in the repository pr2l/pr2l.github.io) embeds one frame at a time with

    generate(max_new_tokens=8, min_new_tokens=8, do_sample=False,
             output_hidden_states=True, return_dict_in_generate=True)

keeps the last layers of the states, moves them to the CPU, and decodes no text. It has no states of the last token,
which is not fed back. Its decoder of an encoder-decoder has one state more, that of the start token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pr2l.core.types import Frames, Hidden
from pr2l.vlms.backends.local import PassStates, chosen_layers
from pr2l.vlms.base import VLM
from pr2l.vlms.hidden_states import HiddenBatch
from pr2l.vlms.token_ids import image_tokens_first

Ask = Callable[..., Hidden]  # VLM.hidden, or another function with its arguments and result


def as_the_notebook(
    vlm: VLM, frames: Frames, texts: Sequence[str], prompt_tokens: int | None = None, device: str = "cpu"
) -> Hidden:
    """Embed by the method of the paper's notebook: one frame at a time, with the states of all layers.

    The preprocessing is pr2l's, which is faster than the notebook's image processor and gives the same pixels.

    Args:
        vlm: The VLM.
        frames: uint8 [B, H, W, 3].
        texts: One prompt per frame.
        prompt_tokens: As in `VLM.hidden`.
        device: Device of the result.

    Returns:
        States as in `VLM.hidden`, with no answers. In an encoder-decoder the state of the start token is the first of
        the generated ones, and the state of the last token is missing; in other models the last state is masked.
    """
    width = vlm.prompt_length(texts) if prompt_tokens is None else prompt_tokens
    rows = [_notebook_row(vlm, frames[row : row + 1], text, width, device) for row, text in enumerate(texts)]
    return concatenate(rows)


@torch.no_grad()
def _notebook_row(vlm: VLM, frame: Frames, text: str, width: int, device: str) -> Hidden:
    inputs = vlm.inputs(frame, [text])
    of_input, steps = _states(vlm, inputs)
    if not vlm.is_encoder_decoder:
        steps = steps[1:]  # the first is the input
    layers, new_tokens = vlm.options.layers, vlm.new_tokens
    order, images = image_tokens_first(inputs["input_ids"], vlm.image_token_id), vlm.image_length()
    states = chosen_layers(of_input, layers)[:, :, order].to(device)
    generated = states.new_zeros(1, len(layers), new_tokens, vlm.hidden_size)
    for place, step in enumerate(steps):
        generated[:, :, place] = chosen_layers(step, layers)[:, :, -1]
    batch = HiddenBatch(
        [images],
        [states.shape[2] - images],
        prompt_tokens=width,
        new_tokens=new_tokens,
        shape=(len(layers), vlm.hidden_size),
        device=torch.device(device),
    )
    no_ids = torch.empty(1, 0, dtype=torch.long)
    batch.add([0], PassStates(states, no_ids, generated), torch.arange(new_tokens)[None] < len(steps), [""])
    return batch.result()


@torch.no_grad()
def as_plain_batch(vlm: VLM, frames: Frames, texts: Sequence[str]) -> Tensor:
    """Embed all frames in one batch with `generate`, or with a forward pass if `vlm.new_tokens` is 0.

    Args:
        vlm: The VLM.
        frames: uint8 [B, H, W, 3].
        texts: One prompt per frame, of equal length in tokens.

    Returns:
        float32 [B, T, 2 D], states of the last two layers at the tokens of the input and at generated tokens.
    """
    of_input, steps = _states(vlm, vlm.inputs(frames, list(texts)))
    return torch.cat([_last_two(of_input), *map(_last_two, steps[1:])], dim=1)


def _states(vlm: VLM, inputs: dict[str, Any]) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    """Return the states of the input in all layers, and those of every step of `generate`."""
    if not vlm.new_tokens:
        out = vlm.model(**inputs, output_hidden_states=True)
        out = getattr(out, "language_model_outputs", out)  # InstructBLIP's are nested
        return (out.encoder_hidden_states if vlm.is_encoder_decoder else out.hidden_states), []
    out = vlm.model.generate(
        **inputs,
        max_new_tokens=vlm.new_tokens,
        min_new_tokens=vlm.new_tokens,
        do_sample=False,
        eos_token_id=list(vlm.eos_token_ids) or None,
        pad_token_id=vlm.pad_token_id,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    steps = list(out.decoder_hidden_states if vlm.is_encoder_decoder else out.hidden_states)
    return (out.encoder_hidden_states if vlm.is_encoder_decoder else steps[0]), steps


def _last_two(states: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([states[-2], states[-1]], dim=-1).float()


def row_by_row(hidden: Ask) -> Ask:
    """Return a version of `VLM.hidden` that processes one frame at a time.

    Args:
        hidden: The method, or a function with the same arguments.
    """

    def by_row(frames: Frames, texts: list[str], prompt_tokens: int | None = None) -> Hidden:
        return concatenate([hidden(frames[row : row + 1], [text], prompt_tokens) for row, text in enumerate(texts)])

    return by_row


def concatenate(batches: Sequence[Hidden]) -> Hidden:
    """Join the states of several batches with equal spans of segments.

    Args:
        batches: At least one batch; the spans are those of the first.
    """
    states, mask = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("states", "mask"))
    return Hidden(states, mask, batches[0].spans, [answer for batch in batches for answer in batch.answers])
