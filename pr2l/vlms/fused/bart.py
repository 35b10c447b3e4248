"""BART's encoder, and its decoder token by token; the language model of Florence-2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pr2l.vlms.fused.layers import JoinedLinear, linear, linear_add, linear_gelu

UNUSED_POSITIONS = 2  # BART's position embeddings begin with two that are not used


@dataclass
class Memory:
    """What the decoder reads: the encoder's states, and the keys and values of the tokens so far.

    Args:
        states: [B, T, D], last states of the encoder.
        mask: bool [B, 1, 1, T], True = real token; None = no padding.
        of_input: By decoder layer, keys and values of the encoder's states, each [B, heads, T, D / heads].
        of_answer: By decoder layer, those of the tokens so far.
        tokens: Number of tokens so far.
    """

    states: Tensor
    mask: Tensor | None
    of_input: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    of_answer: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    tokens: int = 0


class Bart:
    """The function of a BART encoder-decoder, without gradients.

    Args:
        model: `BartModel`.
        head: Layer from the decoder's last states to logits.
    """

    def __init__(self, model: Any, head: Any) -> None:
        self.encoder, self.decoder, self.head = model.encoder, model.decoder, head
        self._encoder = [(layer, Attention(layer.self_attn)) for layer in self.encoder.layers]
        self._decoder = [
            (layer, Attention(layer.self_attn), Attention(layer.encoder_attn)) for layer in self.decoder.layers
        ]

    def encode(self, inputs: dict[str, Tensor], layers: Sequence[int]) -> tuple[Memory, tuple[Tensor, ...]]:
        """Run the encoder; see `EncoderDecoder.encode`.

        Args:
            inputs: `inputs_embeds` [B, T, D], and `attention_mask` [B, T], 1 = real token.
            layers: Not used; the states of all layers are returned.
        """
        embeds, mask = inputs["inputs_embeds"], inputs["attention_mask"].bool()
        readable = None if bool(mask.all()) else mask[:, None, None]
        states = [self.encoder.layernorm_embedding(embeds + _positions(self.encoder, 0, embeds.shape[1]))]
        for layer, attention in self._encoder:
            query, key, value = attention.all_of(states[-1])
            attended = attention.attend(query, key, value, readable, residual=states[-1])
            states.append(_mlp(layer, layer.self_attn_layer_norm(attended)))
        return Memory(states[-1], readable), tuple(states)

    def step(self, memory: Memory, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the decoder on one more token of each row; see `EncoderDecoder.step`.

        Args:
            memory: From `encode`; the token is added to it.
            tokens: int64 [B, 1].
        """
        if not memory.tokens:
            memory.of_input = [cross.keys_and_values(memory.states) for _, _, cross in self._decoder]
        embeds = self.decoder.embed_tokens(tokens) + _positions(self.decoder, memory.tokens, 1)
        states = [self.decoder.layernorm_embedding(embeds)]
        for place, (layer, attention, cross) in enumerate(self._decoder):
            query, key, value = attention.all_of(states[-1])
            if memory.tokens:
                earlier_key, earlier_value = memory.of_answer[place]
                key, value = torch.cat([earlier_key, key], dim=2), torch.cat([earlier_value, value], dim=2)
            memory.of_answer[place : place + 1] = [(key, value)]
            attended = attention.attend(query, key, value, None, residual=states[-1])
            state = layer.self_attn_layer_norm(attended)
            attended = cross.attend(cross.query(state), *memory.of_input[place], memory.mask, residual=state)
            states.append(_mlp(layer, layer.encoder_attn_layer_norm(attended)))
        memory.tokens += 1
        return self.head(states[-1]), tuple(states)


class Attention:
    """Attention layer with joined projections.

    Args:
        layer: `BartAttention`.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._all = JoinedLinear(layer, "q_proj", "k_proj", "v_proj")
        self._keys_and_values = JoinedLinear(layer, "k_proj", "v_proj")

    def all_of(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, heads, T, D / heads] of states [B, T, D]."""
        query, key, value = self._heads(self._all(states), 3)
        return query, key, value

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, heads, T, D / heads] of states [B, T, D]."""
        key, value = self._heads(self._keys_and_values(states), 2)
        return key, value

    def query(self, states: Tensor) -> Tensor:
        """Return queries [B, heads, T, D / heads] of states [B, T, D]."""
        return self._heads(linear(self.layer.q_proj, states), 1)[0]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        """Attend, project, and add a residual.

        Args:
            query: [B, heads, T, D / heads].
            key: [B, heads, S, D / heads].
            value: As `key`.
            mask: bool [B, 1, 1, S], True = readable; None = all.
            residual: [B, T, D].
        """
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return linear_add(self.layer.out_proj, attended.transpose(1, 2).reshape(residual.shape), residual)

    def _heads(self, states: Tensor, parts: int) -> tuple[Tensor, ...]:
        split = states.view(*states.shape[:2], parts, self.layer.num_heads, self.layer.head_dim)
        return split.permute(2, 0, 3, 1, 4).unbind(0)


def _positions(stack: Any, start: int, count: int) -> Tensor:
    embeddings: Tensor = stack.embed_positions.weight
    return embeddings[UNUSED_POSITIONS + start : UNUSED_POSITIONS + start + count]


def _mlp(layer: Any, states: Tensor) -> Tensor:
    normed: Tensor = layer.final_layer_norm(linear_add(layer.fc2, linear_gelu(layer.fc1, states), states))
    return normed
