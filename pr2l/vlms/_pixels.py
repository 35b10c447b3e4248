"""Frames to the numbers that a vision tower reads, as the checkpoint's own image processor makes them.

One frame is always one square picture: it is stretched, never cropped, padded or cut into tiles. A default
processor may cut a 160 x 120 frame into 17 tiles (17 times the work), or crop the left and right edge of what
the agent sees. Within that geometry the result equals the processor's, at a fraction of its time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from pr2l.types import Frames


class Pixels:
    """Resizes and normalises a batch of frames the way one image processor does.

    processor: a Hugging Face image processor; its resample, rescale_factor, image_mean and image_std are
    used. size: side of the square result in pixels.
    """

    def __init__(self, processor: Any, size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.size, self.device, self.dtype = size, device, dtype
        self.resample = Image.Resampling(int(processor.resample))
        scale = processor.rescale_factor if processor.do_rescale else 1.0
        mean = processor.image_mean if processor.do_normalize else 0.0
        std = processor.image_std if processor.do_normalize else 1.0
        # The processors scale in float64 and normalise in float32; doing as they do gives their very bits.
        self.scaled = (torch.arange(256, dtype=torch.float64) * scale).to(device, torch.float32)
        self.mean, self.std = (
            torch.as_tensor(value, dtype=torch.float32, device=device).expand(3).reshape(1, 3, 1, 1)
            for value in (mean, std)
        )

    def __call__(self, frames: Frames) -> torch.Tensor:
        """uint8 [B, H, W, 3] -> [B, 3, size, size] in the model's dtype, on its device."""
        square = np.ascontiguousarray(squared(frames, self.size, self.resample).transpose(0, 3, 1, 2))
        scaled = self.scaled[torch.tensor(square, device=self.device, dtype=torch.int32)]
        return ((scaled - self.mean) / self.std).to(self.dtype)


def squared(frames: Frames, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Frames:
    """uint8 [B, H, W, 3] stretched to [B, size, size, 3]."""
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), resample)) for frame in frames])
