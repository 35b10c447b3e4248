"""Multi-layer perceptron over the mean of the real tokens."""

import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict
from torch import nn

from ..common.options import SomeSizes
from .base import TokenNetwork


class Defaults(BaseModel):
    """Options of the multi-layer perceptron."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: SomeSizes = (128,)  # units of each layer; the last number is the width of the summary


class Network(TokenNetwork):
    """Multi-layer perceptron over the mean of the real tokens.

    Args:
        observation_space: Dict with `tokens` [T, D], `mask` [T] and perhaps `proprio` [P].
        defaults: Options of the network.
    """

    def __init__(self, observation_space: spaces.Dict, defaults: Defaults):
        super().__init__(observation_space, summary_size=defaults.hidden[-1])
        layers: list[nn.Module] = []
        for inputs, outputs in zip((self.token_size, *defaults.hidden), defaults.hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def summarise(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        real = mask.sum(dim=1, keepdim=True).clamp(min=1)  # a row of padding has mean zero, not NaN
        return self.layers(tokens.sum(dim=1) / real)
