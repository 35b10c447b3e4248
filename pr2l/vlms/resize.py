"""Resizing of batches of pictures by PIL, and bit-identical resizing by torch on any device.

PIL stretches a picture in two passes. Each new pixel is a weighted sum of the pixels in its row, then in its column.
If the picture shrinks, more pixels enter the sum:

    [H, W] --weights [S, W]--> sums --round, clip--> [H, S] --weights [S, H]--> sums --round, clip--> [S, S]

Weights are integers, the real ones times 2^22. All sums stay below 2^53, so float64 computes them exactly in any order,
and two matrix products give the same result as PIL's loops (src/libImaging/Resample.c of Pillow). From Pillow 13 on,
some pictures are stretched down before across, which rounds differently; `goes_down_first` tests the installed PIL.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.Image import Resampling

from pr2l.core.types import Frames

BITS = 22  # PIL's PRECISION_BITS


def resize(frames: Frames, size: int | tuple[int, int], resample: Resampling = Resampling.BICUBIC) -> Frames:
    """Stretch frames with PIL.

    Args:
        frames: uint8 [B, H, W, 3].
        size: New height and width in pixels, or the side of a square.
        resample: PIL's filter.

    Returns:
        uint8 [B, *size, 3]; the frames themselves if they have that size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), resample)) for frame in frames])


def pad_to_square(frames: Frames, colour: npt.NDArray[np.uint8]) -> Frames:
    """Pad frames to squares, with the frame in the centre; an odd pixel is added below or on the right.

    Args:
        frames: uint8 [B, H, W, 3].
        colour: uint8 [3], RGB of the padding.

    Returns:
        uint8 [B, S, S, 3], where S is the longer side; the frames themselves if they are square.
    """
    count, height, width = frames.shape[:3]
    if height == width:
        return frames
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    squares = np.empty((count, side, side, 3), np.uint8)
    squares[:] = colour
    squares[:, top : top + height, left : left + width] = frames
    return squares


def stretched(pictures: torch.Tensor, size: tuple[int, int], resample: Resampling, down_first: bool) -> torch.Tensor:
    """Stretch pictures with torch, on their device.

    Args:
        pictures: uint8 [B, C, H, W].
        size: New height and width in pixels.
        resample: One of FILTERS.
        down_first: Whether to resize the height before the width.

    Returns:
        uint8 [B, C, *size].
    """
    lengths = zip(pictures.shape[2:], size, strict=True)
    down, across = (_weights(length, new, resample, pictures.device) for length, new in lengths)
    whole = pictures.double()
    if down_first:
        return _rounded(_rounded(down @ whole) @ across.T).to(torch.uint8)
    return _rounded(down @ _rounded(whole @ across.T)).to(torch.uint8)


@lru_cache(maxsize=8)
def goes_down_first(height: int, width: int, size: tuple[int, int], resample: Resampling) -> bool | None:
    """Test in which order PIL resizes pictures, on random pixels.

    Args:
        height: Height of the pictures in pixels.
        width: Width of the pictures in pixels.
        size: New height and width in pixels.
        resample: PIL's filter.

    Returns:
        Whether PIL resizes the height before the width; None if `stretched` equals PIL in neither order.
    """
    noise = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), np.uint8)
    expected = torch.tensor(resize(noise, size, resample)).permute(0, 3, 1, 2)
    pictures, orders = torch.from_numpy(noise).permute(0, 3, 1, 2), (False, True) if resample in FILTERS else ()
    return next((order for order in orders if torch.equal(stretched(pictures, size, resample, order), expected)), None)


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    return sums.mul_(2.0**-BITS).add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=8)
def _weights(length: int, size: int, resample: Resampling, device: torch.device) -> torch.Tensor:
    """Return the weights of `length` pixels of a line in `size` new pixels: integers as float64 [size, length]."""
    scale = length / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    real = FILTERS[resample]((np.arange(length) - centres + 0.5) * (1 / max(scale, 1.0)))
    real /= real.cumsum(axis=1)[:, -1:]  # adds one by one, as PIL does; sum() adds in another order
    fixed = np.trunc(real * 2**BITS + np.copysign(0.5, real))
    return torch.from_numpy(fixed).to(device)


# Weights by distance in pixels of the coarser picture; zero beyond a distance of 1, 2 and 3.


def _bilinear(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.maximum(1 - abs(x), 0)


def _bicubic(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    x, a = abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS = {Resampling.BILINEAR: _bilinear, Resampling.BICUBIC: _bicubic, Resampling.LANCZOS: _lanczos}
