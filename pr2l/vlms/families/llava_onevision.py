"""LLaVA-OneVision: a SigLIP tower and a causal language model.

The processor would cut a single picture into tiles beside an overview. Pictures of a sample with several are
not cut, so each frame is declared one of two: it then is the overview alone, and one "new line" token after
it.
"""

from __future__ import annotations

import torch

from pr2l.core.types import Frames
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("llava_onevision",)


class LlavaOnevision(ChatVLM):
    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        squares = self.preprocess(frames)
        sizes = torch.tensor([squares.shape[-2:]] * len(frames), device=squares.device)
        declared = torch.full((len(frames),), 2, device=squares.device)
        return {"pixel_values": squares[:, None], "image_sizes": sizes, "batch_num_images": declared}


load = LlavaOnevision.load
