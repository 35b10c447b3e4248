"""PR2L's policy network: a one-layer transformer in which one learned query attends to the tokens.

tokens [B, T, D] -> Linear -> encoder layer -> memory [B, T, W]
query  [1, 1, W] ----------> decoder layer (cross-attends to memory) -> summary [B, W]

With several queries their outputs are concatenated (as in Perceiver IO, Jaegle et al. 2022). With none, the mean of
the memory's real tokens takes the decoder's place.
"""

import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator
from torch import nn
from typing_extensions import Self

from .base import TokenNetwork


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 512  # d_model of the paper's notebook; 64 learns as well on small embeddings, far faster
    heads: PositiveInt = 2  # attention heads, of the notebook
    feedforward: PositiveInt = 512  # hidden units of both layers' MLPs, of the notebook
    queries: NonNegativeInt = 1  # learned queries (paper: 1, as a CLS token); 0 = the tokens' mean
    summary: PositiveInt = 128  # the notebook maps the decoder's output to 128 before proprio joins
    input_norm: bool = False  # LayerNorm on raw tokens: for VLMs whose states reach thousands (paper: none)
    positions: bool = False  # a learned position embedding, for tokens that have none (paper: none)

    @model_validator(mode="after")
    def check_width(self) -> Self:
        if self.width % self.heads:
            nearest = max(1, self.width // self.heads) * self.heads
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; try width={nearest}")
        return self


class Network(TokenNetwork):
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
    """The mask bool [B, T] with token 0 unmasked in rows without a real token, as attention over nothing is NaN.

    Token 0 of such a row is zero, so the row's summary is the same constant every time.
    """
    empty = ~mask.any(dim=1, keepdim=True)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (empty & first)
