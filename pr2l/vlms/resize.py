"""Batches of pictures stretched to squares: by PIL, picture by picture, and to the same bits by torch, on any device.

PIL stretches a picture in two passes. Each new pixel is a weighted sum of the pixels in its row, then in its column;
where the picture shrinks, more of them count:

    [H, W] --weights [S, W]--> sums --round, clip--> [H, S] --weights [S, H]--> sums --round, clip--> [S, S]

Weights are integers, the real ones times 2^22. All sums stay below 2^53, so in float64 they are exact in any order,
and two matrix products give what PIL's loops give (src/libImaging/Resample.c of Pillow). From Pillow 13 on, some
pictures are stretched down before across, which rounds otherwise; `goes_down_first` asks the PIL that is there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling

from pr2l.core.types import Frames

BITS = 22  # PIL's PRECISION_BITS


def resize_to_square(frames: Frames, size: int, resample: Resampling = Resampling.BICUBIC) -> Frames:
    """uint8 [B, H, W, 3] stretched to [B, size, size, 3]."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), resample)) for frame in frames])


def stretched(pictures: torch.Tensor, size: int, resample: Resampling, down_first: bool) -> torch.Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, C, size, size], on their device. resample: one of FILTERS."""
    down, across = (_weights(length, size, resample, pictures.device) for length in pictures.shape[2:])
    whole = pictures.double()
    if down_first:
        return _rounded(_rounded(down @ whole) @ across.T).to(torch.uint8)
    return _rounded(down @ _rounded(whole @ across.T)).to(torch.uint8)


@lru_cache(maxsize=8)
def goes_down_first(height: int, width: int, size: int, resample: Resampling) -> bool | None:
    """In which order PIL stretches pictures of that size, seen from some of noise; None = it does something else."""
    noise = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
    wanted = torch.tensor(resize_to_square(noise, size, resample)).permute(0, 3, 1, 2)
    given, orders = torch.from_numpy(noise).permute(0, 3, 1, 2), (False, True) if resample in FILTERS else ()
    return next((order for order in orders if torch.equal(stretched(given, size, resample, order), wanted)), None)


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    return sums.mul_(2.0**-BITS).add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=8)
def _weights(length: int, size: int, resample: Resampling, device: torch.device) -> torch.Tensor:
    """Integers as float64 [size, length]: what each of `length` pixels in a line counts in each of `size` new ones."""
    scale = length / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    real = FILTERS[resample]((np.arange(length) - centres + 0.5) * (1 / max(scale, 1.0)))
    real /= real.cumsum(axis=1)[:, -1:]  # one after the other, as PIL adds; sum() adds in another order
    fixed = np.trunc(real * 2**BITS + np.copysign(0.5, real))
    return torch.from_numpy(fixed).to(device)


# Weights at a distance in pixels of the coarser picture; zero beyond 1, 2 and 3 of them.


def _bilinear(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.maximum(1 - abs(x), 0)


def _bicubic(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x, a = abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS = {Resampling.BILINEAR: _bilinear, Resampling.BICUBIC: _bicubic, Resampling.LANCZOS: _lanczos}
