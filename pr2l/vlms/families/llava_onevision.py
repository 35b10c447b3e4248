"""LLaVA-OneVision: a SigLIP tower and a causal language model.

The processor would cut a single picture into tiles beside an overview. It does not cut the pictures of a sample with
several pictures, so each frame is declared as one of two pictures. It is then the overview alone, followed by one "new
line" token.
"""

from __future__ import annotations

import torch

from pr2l.core.types import Frames
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("llava_onevision",)


class LlavaOnevision(ChatVLM):
    """Family LLaVA-OneVision: a frame is encoded as one picture of several, without tiles."""

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        squares = self.preprocess(frames)
        sizes = torch.tensor([squares.shape[-2:]] * len(frames), device=squares.device)
        declared = torch.full((len(frames),), 2, device=squares.device)
        return {"pixel_values": squares[:, None], "image_sizes": sizes, "batch_num_images": declared}


load = LlavaOnevision.load
