"""States of an unmodified model, with which `generic` compares its own."""

from __future__ import annotations

from typing import Any

import torch

from pr2l.vlms.backends.local import chosen_layers

# Largest relative difference allowed. Half precision rounds more; in int8, a difference in the last bits can move an
# activation to the next of 255 levels.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2, "int8": 5e-2}


def tolerance(option: str, dtype: torch.dtype) -> float:
    """Return the largest difference allowed.

    Args:
        option: The option dtype.
        dtype: Type of the model's weights.
    """
    return TOLERANCES["int8" if option == "int8" else str(dtype).removeprefix("torch.")]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest state.

    Args:
        ours: States of any shape.
        theirs: States of the same shape, which give the scale.
    """
    return float((ours - theirs).abs().max() / theirs.abs().max())


def unmodified_states(
    vlm: Any, inputs: dict[str, torch.Tensor], answer: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Return the states [1, L, T + N, D] of one plain forward pass over the input and an answer.

    Args:
        vlm: A VLM of the family `generic`.
        inputs: Its inputs for one row.
        answer: int64 [1, N], generated ids.
        order: int64 [T], order of the input's states in the result.
    """
    layers, size = vlm.options.layers, vlm.hidden_size
    if vlm.is_encoder_decoder:
        settings = vlm.model.generation_config
        start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        fed = torch.cat([torch.full_like(inputs["input_ids"][:, :1], start), answer], dim=1)
        out = vlm.model(**inputs, decoder_input_ids=fed, output_hidden_states=True)
        before, after = (
            chosen_layers(out.encoder_hidden_states, layers, size),
            chosen_layers(out.decoder_hidden_states, layers, size),
        )
        return torch.cat([before[:, :, order], after[:, :, 1:]], dim=2)
    out = vlm.model(**longer(inputs, answer), output_hidden_states=True)
    whole = chosen_layers(out.hidden_states, layers, size)
    length = whole.shape[2] - answer.shape[1]
    return torch.cat([whole[:, :, order], whole[:, :, length:]], dim=2)


def longer(inputs: dict[str, torch.Tensor], answer: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the inputs of one row with an answer at the end.

    Args:
        inputs: Inputs for one row.
        answer: int64 [1, N], token ids.
    """
    shape, changed = inputs["input_ids"].shape, {}
    ends = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
    for key, value in inputs.items():
        if not isinstance(value, torch.Tensor) or value.shape[:2] != shape:
            continue
        if value.ndim > 2:  # which images a token attends to: those of the last token
            ends[key] = value[:, -1:].expand(-1, answer.shape[1], *value.shape[2:])
        end = ends[key] if key in ends else torch.zeros_like(answer)  # type ids: text is 0
        changed[key] = torch.cat([value, end.to(value.dtype)], dim=1)
    return inputs | changed
