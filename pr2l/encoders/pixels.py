"""Small frames without any VLM, one token per row of pixels, for the network `cnn` to learn from scratch."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from pydantic import BaseModel, ConfigDict

from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource


class Defaults(BaseModel):
    """Options of the encoder `pixels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = 64  # side of the square that frames are resized to, in pixels; 84 is Atari's, 64 trains faster


class PixelsEncoder(Encoder):
    """Encoder that returns the frame itself: tokens [B, size, 3 * size] in 0..1.

    Pixel x of row y is entries 3x to 3x + 2 (RGB) of token y.
    """

    def __init__(self, options: Defaults) -> None:
        self.tokens, self.width = options.size, 3 * options.size

    def key(self) -> dict[str, Any]:
        return {"encoder": __name__, "size": self.tokens}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        side = (self.tokens, self.tokens)
        small = np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in frames])
        values = rearrange(torch.from_numpy(small), "b h w c -> b h (w c)").float() / 255
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def create(source: EncoderSource, options: Defaults) -> PixelsEncoder:
    return PixelsEncoder(options)
