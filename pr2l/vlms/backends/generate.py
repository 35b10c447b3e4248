"""Calls of transformers' `generate`: answers, and hidden states of families without passes of their own.

The last token of `generate` is not fed back and has no state. Therefore one more token than requested is generated and
dropped, and N generated tokens have N states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pr2l.vlms.backends.local import PassStates, chosen_layers
from pr2l.vlms.decoding import Decoding


def generate_ids(
    model: Any,
    inputs: dict[str, Tensor],
    decoding: Decoding,
    new_tokens: int,
    *,
    pad_token_id: int,
    is_encoder_decoder: bool,
) -> Tensor:
    """Generate token ids until all rows have ended.

    Args:
        model: A transformers model.
        inputs: Its inputs for B rows of equal length, or for an encoder-decoder of any lengths.
        decoding: Choice of the next token, with the ids that end an answer.
        new_tokens: Largest number of tokens.
        pad_token_id: Id that follows the end of an answer.
        is_encoder_decoder: Whether the language model is an encoder-decoder.

    Returns:
        int64 [B, N] with N <= new_tokens, without the input.
    """
    ids: Tensor = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        eos_token_id=decoding.eos or None,
        pad_token_id=pad_token_id,
        logits_processor=[decoding],
    )
    # Before the answer an encoder-decoder returns its start token, other models return their input.
    return ids[:, 1 if is_encoder_decoder else inputs["input_ids"].shape[1] :]


def generate_states(
    model: Any,
    inputs: dict[str, Tensor],
    decoding: Decoding,
    new_tokens: int,
    *,
    layers: Sequence[int],
    size: int,
    is_encoder_decoder: bool,
) -> PassStates:
    """Generate one token more than needed, and return the states of the input and of the other tokens.

    Args:
        model: As in `generate_ids`, without a token that ends `generate`.
        inputs: As in `generate_ids`.
        decoding: Choice of the next token.
        new_tokens: N, number of generated tokens that have states.
        layers: Indices of the chosen layers in the tuple of hidden states.
        size: D, width of a state.
        is_encoder_decoder: As in `generate_ids`.

    Returns:
        States of the input, in the model's own order, and of the generated tokens.
    """
    out = model.generate(
        **inputs,
        max_new_tokens=new_tokens + 1,
        logits_processor=[decoding],
        output_hidden_states=True if is_encoder_decoder else list(layers),
        return_dict_in_generate=True,
    )
    steps = out.decoder_hidden_states if is_encoder_decoder else out.hidden_states
    input_states = chosen_layers(out.encoder_hidden_states if is_encoder_decoder else steps[0], layers, size)
    generated = [chosen_layers(step, layers, size)[:, :, -1:] for step in steps[1:]]
    first = out.sequences.shape[1] - new_tokens - 1
    tokens = out.sequences[:, first : first + new_tokens]
    return PassStates(input_states, tokens, torch.cat([input_states[:, :, :0], *generated], dim=2))
