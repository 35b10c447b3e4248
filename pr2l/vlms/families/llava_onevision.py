"""LLaVA-OneVision: a SigLIP tower and a causal language model.

The processor would cut a single picture into tiles beside an overview. It does not cut the pictures of a sample with
several pictures, so each frame is declared as one of two pictures. It is then the overview alone, followed by one "new
line" token.

In a video, the grid of each frame has half the side, and one "new line" token follows the last frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch

from pr2l.core.errors import UserError
from pr2l.core.types import Frames
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Video

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("llava_onevision",)


class LlavaOnevision(ChatVLM):
    """Family LLaVA-OneVision: a frame is encoded as one picture of several, without tiles."""

    takes_videos = True

    def video_grids(self, video: Video) -> list[int]:
        vision = self.config.vision_config
        return [ceil(vision.image_size // vision.patch_size / 2) ** 2] * video.frames + [1]

    def video_pixels(self, videos: Sequence[Frames]) -> dict[str, torch.Tensor]:
        if len(lengths := sorted({len(frames) for frames in videos})) > 1:
            raise UserError(
                f"the videos of a prompt or of a training batch have {' and '.join(map(str, lengths))} frames, but a"
                " llava_onevision takes videos of equal length; use the same number of frames."
            )
        pictures = self.preprocess_videos(np.concatenate(videos))
        return {"pixel_values_videos": pictures.unflatten(0, (len(videos), -1))}

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        squares = self.preprocess(frames)
        sizes = torch.tensor([squares.shape[-2:]] * len(frames), device=squares.device)
        declared = torch.full((len(frames),), 2, device=squares.device)
        return {"pixel_values": squares[:, None], "image_sizes": sizes, "batch_num_images": declared}


load = LlavaOnevision.load
