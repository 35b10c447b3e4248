"""PR2L's policy network: a one-layer transformer in which one learned query attends to the tokens.

tokens [B, T, D] -> Linear -> encoder layer -> memory [B, T, W]
query  [1, 1, W] ----------> decoder layer (cross-attends to memory) -> summary [B, W]

With several queries, the network concatenates their outputs (as in Perceiver IO, Jaegle et al. 2022). With none, it has
no decoder and takes the mean of the memory over the real tokens.
"""

import torch
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
        embedded = self.project(self.norm(tokens))
        if self.positions is not None:
            embedded = embedded + self.positions
        padding = ~attendable(mask)
        memory = self.encoder(embedded, src_key_padding_mask=padding)
        if not self.queries:
            real = ~padding[..., None]
            return self.to_summary(memory.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1))
        query = self.query.expand(len(tokens), -1, -1)
        # Without the second mask the query would read the encoder's output at padded slots.
        outputs = self.decoder(query, memory, memory_key_padding_mask=padding)
        return self.to_summary(outputs.flatten(1))


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
