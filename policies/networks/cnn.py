"""Convolutional network over tokens that are the pixel rows of an image."""

import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import nn

from ..base import UserError
from ..common.options import SomeSizes
from .base import TokenNetwork


class Defaults(BaseModel):
    """Options of the convolutional network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: SomeSizes = (32, 64, 64)  # output channels of each layer, as in NatureCNN; a layer halves both sides
    summary: PositiveInt = 128  # width of the summary, in units; the same as the default of token_transformer


class Network(TokenNetwork):
    """Convolutional network over tokens [H, 3 W] in 0..1: one token per pixel row, from the encoder `pixels`.

    Args:
        observation_space: Dict with `tokens` [H, 3 W], `mask` [H] and perhaps `proprio` [P].
        defaults: Options of the network.

    Raises:
        UserError: The width of a token is not a multiple of 3.
    """

    def __init__(self, observation_space: spaces.Dict, defaults: Defaults):
        super().__init__(observation_space, summary_size=defaults.summary)
        if self.token_size % 3:
            raise UserError(
                f"network cnn reads tokens as RGB pixel rows, but their width {self.token_size} is not a "
                "multiple of 3; use encoder pixels, or network token_transformer"
            )
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *defaults.channels), defaults.channels, strict=False):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            flat = self.convolutions(torch.zeros(1, 3, self.token_count, self.token_size // 3)).shape[1]
        self.to_summary = nn.Sequential(nn.Linear(flat, defaults.summary), nn.ReLU())

    def summarise(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = tokens.unflatten(2, (-1, 3))  # [B, H, W, 3]
        return self.to_summary(self.convolutions(rows.permute(0, 3, 1, 2)))
