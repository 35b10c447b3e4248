"""Random features (Burda et al. 2018): a convolutional network that was never trained, whose seed is its checkpoint.

A baseline that has the shape of a vision encoder and none of the knowledge; for a VLM without knowledge there is
`vlm_options.random_weights`. 64 x 64 pixels, 64 tokens (8 x 8 places), width 64. No weights: no licence, no source.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL.Image import Resampling
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import nn

from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.vlms.resize import resize


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: NonNegativeInt = 0  # of the weights
    size: PositiveInt = 64  # side of the square that frames are stretched to, in pixels
    channels: tuple[PositiveInt, ...] = Field((32, 64, 64), min_length=1)  # NatureCNN's; every layer halves the side


class RandomFeaturesEncoder(Encoder):
    """Tokens [B, places, channels[-1]], row by row; each layer keeps the scale of what it reads (He et al. 2015)."""

    costly = True

    def __init__(self, options: Defaults) -> None:
        self.options = options
        generator = torch.Generator().manual_seed(options.seed)
        self.kernels = [
            torch.randn(after, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
            for before, after in pairwise((3, *options.channels))
        ]
        side = options.size
        for _ in options.channels:
            side = (side + 1) // 2
        self.tokens, self.width = side**2, options.channels[-1]

    def key(self) -> dict[str, Any]:
        return {"encoder": __name__, "options": self.options.model_dump(mode="json")}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        squares = resize(frames, self.options.size, Resampling.BILINEAR).astype(np.float32)
        maps = torch.from_numpy(squares).permute(0, 3, 1, 2) / 127.5 - 1
        for kernel in self.kernels:
            maps = nn.functional.conv2d(maps, kernel, stride=2, padding=1).relu()
        values = maps.flatten(2).transpose(1, 2)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def create(source: EncoderSource, options: Defaults) -> RandomFeaturesEncoder:
    return RandomFeaturesEncoder(options)
