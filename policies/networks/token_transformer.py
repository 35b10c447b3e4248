"""PR2L's policy network: a one-layer transformer in which one learned query attends to the tokens.

tokens [B, T, D] -> Linear -> encoder layer -> memory [B, T, W]
query  [1, 1, W] ----------> decoder layer (cross-attends to memory) -> summary [B, W]

With several queries, the network concatenates their outputs (as in Perceiver IO, Jaegle et al. 2022). With none, it has
no decoder and takes the mean of the memory over the real tokens.

The layers are torch's, and so are their weights and results. The functions `encode` and `decode` compute them with
fewer copies and products than torch does, because these layers take most of the time of a policy update.
"""

import torch
import torch.nn.functional as F
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator
from torch import nn
from typing_extensions import Self

from ..base import UserError
from .base import TokenNetwork


class Defaults(BaseModel):
    """Options of the token transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 512  # width of both layers (d_model); from the paper's notebook; small embeddings need only 64
    heads: PositiveInt = 2  # attention heads per layer; from the paper's notebook
    feedforward: PositiveInt = 512  # hidden units of the MLP in each layer; from the paper's notebook
    queries: NonNegativeInt = 1  # learned queries; the paper has 1, like a CLS token; 0 = mean of the tokens
    summary: PositiveInt = 128  # width of the summary, in units; from the paper's notebook
    input_norm: bool = False  # apply LayerNorm to the tokens, for VLMs with states in the thousands; the paper has none
    positions: bool = False  # add a learned position embedding to each token; the paper has none

    @model_validator(mode="after")
    def check_width(self) -> Self:
        """Raise UserError if the width is not a multiple of the number of heads."""
        if self.width % self.heads:
            nearest = max(1, self.width // self.heads) * self.heads
            raise UserError(f"width {self.width} is not a multiple of heads {self.heads}; try width={nearest}")
        return self


class Network(TokenNetwork):
    """Transformer in which learned queries attend to the tokens.

    Args:
        observation_space: Dict with `tokens` [T, D], `mask` [T] and perhaps `proprio` [P].
        defaults: Options of the network.
    """

    def __init__(self, observation_space: spaces.Dict, defaults: Defaults):
        super().__init__(observation_space, summary_size=defaults.summary)
        # No dropout: PPO's probability ratios would compare two different policies.
        sizes = (defaults.width, defaults.heads, defaults.feedforward, 0.0)
        self.norm = nn.LayerNorm(self.token_size) if defaults.input_norm else nn.Identity()
        self.project = nn.Linear(self.token_size, defaults.width)
        zeros = torch.zeros(self.token_count, defaults.width)
        self.positions = nn.Parameter(zeros) if defaults.positions else None
        self.encoder = nn.TransformerEncoderLayer(*sizes, batch_first=True)
        if defaults.queries:
            self.decoder = nn.TransformerDecoderLayer(*sizes, batch_first=True)
            self.query = nn.Parameter(torch.randn(1, defaults.queries, defaults.width) * 0.02)
        outputs = max(defaults.queries, 1) * defaults.width
        self.to_summary = nn.Sequential(nn.Linear(outputs, defaults.summary), nn.ReLU())
        self.queries = defaults.queries

    def summarise(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        real = attendable(mask)
        memory = encode(self.encoder, self.embed(tokens), real)
        if not self.queries:
            real = real[..., None]
            return self.to_summary(memory.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1))
        # Without the mask the query would read the encoder's output at padded slots.
        return self.to_summary(decode(self.decoder, self.query, memory, real).flatten(1))

    def attention_weights(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the weights with which the queries read the tokens, float32 [B, Q, T], means over the heads.

        Args:
            tokens: As in `summarise`.
            mask: As in `summarise`.
        """
        real, layer = attendable(mask), self.decoder
        memory = encode(self.encoder, self.embed(tokens), real)
        queries = layer.norm1(self.query + self_attention(layer.self_attn, self.query)).expand(len(memory), -1, -1)
        weights: torch.Tensor = layer.multihead_attn(queries, memory, memory, key_padding_mask=~real)[1]
        return weights

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Normalise and project the tokens [B, T, D], and add the position embeddings, to [B, T, W]."""
        if isinstance(self.norm, nn.LayerNorm):
            # project(x * scale + shift) as one product, whose backward pass needs no gradient of the tokens.
            tokens = F.layer_norm(tokens, self.norm.normalized_shape, eps=self.norm.eps)
            weight = self.project.weight
            embedded = F.linear(tokens, weight * self.norm.weight, self.project.bias + weight @ self.norm.bias)
        else:
            embedded = self.project(tokens)
        return embedded if self.positions is None else embedded + self.positions


def encode(layer: nn.TransformerEncoderLayer, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute `layer(tokens, src_key_padding_mask=~mask)`.

    Args:
        layer: Layer without dropout, with ReLU, batch first.
        tokens: [B, T, W].
        mask: bool [B, T], True = real token.
    """
    tokens = layer.norm1(tokens + self_attention(layer.self_attn, tokens, mask))
    return layer.norm2(tokens + layer.linear2(layer.linear1(tokens).relu()))


def decode(
    layer: nn.TransformerDecoderLayer, queries: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Compute `layer(queries, memory, memory_key_padding_mask=~mask)` for the same queries in each row.

    Args:
        layer: Layer without dropout, with ReLU, batch first.
        queries: [1, Q, W]; what happens before they read the memory is computed once for all rows.
        memory: [B, T, W].
        mask: bool [B, T], True = real token.

    Returns:
        [B, Q, W].
    """
    queries = layer.norm1(queries + self_attention(layer.self_attn, queries))
    outputs = layer.norm2(queries + cross_attention(layer.multihead_attn, queries, memory, mask))
    return layer.norm3(outputs + layer.linear2(layer.linear1(outputs).relu()))


def self_attention(
    attention: nn.MultiheadAttention, tokens: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute attention of tokens [B, T, W] to the real tokens of their row, [B, T, W]."""
    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    # The backward pass of `unbind` writes three gradients side by side; that of torch's layer adds zero-filled tensors.
    parts = projected.unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
    queries, keys, values = (part.transpose(1, 2) for part in parts)
    real = None if mask is None else mask[:, None, None]
    outputs = F.scaled_dot_product_attention(queries, keys, values, attn_mask=real)
    return attention.out_proj(outputs.transpose(1, 2).flatten(2))


def cross_attention(
    attention: nn.MultiheadAttention, queries: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Compute attention of the same queries [1, Q, W] to the memory [B, T, W] of each row, [B, Q, W].

    A memory token m has the key K m + k and the value V m + v, with matrices K, V and biases k, v.

        score of a query q:   q (K m + k) = (q K) m + q k    softmax removes q k, which is the same for all m
        output of weights a:  sum of a (V m + v) = V (sum of a m) + v    because the weights add up to 1

    So the queries q K read the memory itself, and keys and values of its tokens are not needed.
    """
    split = (attention.num_heads, -1)
    query_weight, key_weight, value_weight = attention.in_proj_weight.chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    projected = F.linear(queries[0], query_weight, query_bias).unflatten(-1, split)  # [Q, heads, S]
    readers = torch.einsum("qhs,hsw->hqw", projected, key_weight.unflatten(0, split)).flatten(0, 1)
    readers = readers.expand(len(memory), 1, -1, -1)  # of all heads, [B, 1, heads * Q, W]
    tokens, real, scale = memory[:, None], mask[:, None, None], projected.shape[-1] ** -0.5
    means = F.scaled_dot_product_attention(readers, tokens, tokens, real, scale=scale)[:, 0].unflatten(1, split)
    outputs = torch.einsum("bhqw,hsw->bqhs", means, value_weight.unflatten(0, split)).flatten(2)
    return attention.out_proj(outputs + value_bias)


def attendable(mask: torch.Tensor) -> torch.Tensor:
    """Unmask token 0 in rows without a real token, because attention over no token is NaN.

    Token 0 of such a row is zero, so the summary of such a row is always the same constant.

    Args:
        mask: bool [B, T], True = real token.

    Returns:
        bool [B, T], at least one True per row.
    """
    empty = ~mask.any(dim=1, keepdim=True)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (empty & first)
