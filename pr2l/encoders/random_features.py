"""Random features (Burda et al. 2018): a convolutional network with random weights that are never trained.

A baseline with the structure of a vision encoder but without training; the same baseline for a VLM is
`vlm_options.random_weights`. 64 x 64 pixels, 64 tokens (8 x 8 positions), width 64. The seed determines the weights, so
there is nothing to download.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL.Image import Resampling
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import nn

from pr2l.core.config import Seed
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.vlms.resize import resize


class Defaults(BaseModel):
    """Options of the encoder `random_features`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Seed = 0  # seed of the weights
    size: PositiveInt = 64  # side of the square that frames are stretched to, in pixels
    channels: tuple[PositiveInt, ...] = Field((32, 64, 64), min_length=1)  # as in NatureCNN; a layer halves the side


class RandomFeaturesEncoder(Encoder):
    """Encoder of frames by a random convolutional network: tokens [B, positions, channels[-1]], row by row.

    The weights' standard deviation keeps the scale of the activations from layer to layer (He et al. 2015).
    """

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
        maps = rearrange(torch.from_numpy(squares), "b h w c -> b c h w") / 127.5 - 1
        for kernel in self.kernels:
            maps = nn.functional.conv2d(maps, kernel, stride=2, padding=1).relu()
        values = rearrange(maps, "b d h w -> b (h w) d")
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def create(source: EncoderSource, options: Defaults) -> RandomFeaturesEncoder:
    return RandomFeaturesEncoder(options)
