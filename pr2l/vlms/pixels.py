"""Conversion of frames to the numbers that a vision tower reads, as the checkpoint's own image processor does it.

One frame is always one picture: it is stretched or padded to the tower's size, never cropped or cut into tiles. A
default processor may cut a 160 x 120 frame into 17 tiles (17 times the work), or crop the left and the right edge of
the agent's view. Apart from that geometry the result equals the processor's, in a fraction of its time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from pr2l.core.types import Frames
from pr2l.vlms.resize import goes_down_first, pad_to_square, resize, stretched

GREY = 127  # padding of a letterbox if the processor has no mean colour


def check_batch(frames: Frames) -> None:
    """Check the shape and the dtype of frames.

    Args:
        frames: They must be uint8 [M, H, W, 3] with M >= 1.

    Raises:
        ValueError: They are not.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 [B, H, W, 3], RGB, with B >= 1")


class Pixels:
    """Preprocessor that resizes and normalises a batch of frames as one image processor does.

    Args:
        processor: A Hugging Face image processor; its resample, rescale_factor, image_mean and image_std are used.
        size: Height and width of the result in pixels, or the side of a square.
        device: Device of the result.
        dtype: Type of the result.
        letterbox: Whether to pad a frame to a square before it is resized, centred, in the processor's mean colour
            (grey if it has none). The mean colour becomes 0 after normalisation.
    """

    def __init__(
        self,
        processor: Any,
        size: int | tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        *,
        letterbox: bool = False,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else size
        self.device, self.dtype, self.letterbox = device, dtype, letterbox
        self.resample = Image.Resampling(int(processor.resample))
        # On one core of a CPU, PIL takes 4, 9 and 31 ms for 16 frames of 160 x 120 to sides of 128, 256 and 512; the
        # products of resize.py take 14, 56 and 207 ms, and as sparse matrices 6, 36 and 190 ms.
        # PIL in two threads takes 9.0 ms instead of 10.1 some time after torch, and 9.3 instead of 7.2 right after it,
        # because torch's threads wait busily.
        self.in_torch = device.type == "cuda"
        self.scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else 0.0
        std = processor.image_std if processor.do_normalize else 1.0
        self.mean, self.std = (
            torch.as_tensor(value, dtype=torch.float32, device=device).expand(3).reshape(1, 3, 1, 1)
            for value in (mean, std)
        )
        mean_colour = (self.mean.flatten() / self.scale).round().clamp(0, 255).tolist()
        self.padding = tuple(map(int, mean_colour)) if processor.do_normalize else (GREY,) * 3

    def __call__(self, frames: Frames) -> torch.Tensor:
        """Convert frames uint8 [B, H, W, 3] to [B, 3, *size] in the model's dtype, on its device."""
        # The processors scale in float64 and normalise in float32; the same operations give bit-identical results.
        scaled = self.resize(frames).double().mul_(self.scale).float()
        return scaled.sub_(self.mean).div_(self.std).to(self.dtype)

    def fit(self, frames: Frames) -> Frames:
        """Resize frames uint8 [B, H, W, 3] to uint8 [B, *size, 3], on the CPU.

        Args:
            frames: RGB frames; with letterbox they are padded to a square first.
        """
        return resize(self._squared(frames), self.size, self.resample)

    def resize(self, frames: Frames) -> torch.Tensor:
        """Resize frames uint8 [B, H, W, 3] to uint8 [B, 3, *size], on the model's device.

        Args:
            frames: RGB frames; with letterbox they are padded to a square first.
        """
        frames = self._squared(frames)
        down_first = goes_down_first(*frames.shape[1:3], self.size, self.resample) if self.in_torch else None
        if down_first is None:
            frames = resize(frames, self.size, self.resample)
        pictures = torch.tensor(frames, device=self.device).permute(0, 3, 1, 2).contiguous()
        return pictures if down_first is None else stretched(pictures, self.size, self.resample, down_first)

    def _squared(self, frames: Frames) -> Frames:
        return pad_to_square(frames, np.array(self.padding, np.uint8)) if self.letterbox else frames
