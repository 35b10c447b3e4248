"""Qwen3-VL: image_size is a multiple of 32, with (image_size / 32)² tokens per frame; the default is 512.

In a video, each pair of frames comes after its time as text, such as "<0.2 seconds>".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pr2l.vlms.base import Defaults
from pr2l.vlms.conversation import Video
from pr2l.vlms.qwen import QwenVL

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("qwen3_vl",)


class Qwen3VL(QwenVL):
    """Family Qwen3-VL, whose first layers add vision features to their output."""

    # Vision features are added to a layer's output after its state is taken. The state of the last layer would
    # include them, so early exit keeps one more layer.
    spare_layers = 1

    def video_text(self, video: Video) -> str:
        every, texts = self.config.vision_config.temporal_patch_size, []
        for start, length in zip(range(0, video.frames, every), self.video_grids(video), strict=True):
            last = min(start + every, video.frames) - 1
            seconds = (start / video.fps + last / video.fps) / 2  # of the pair's middle
            texts.append(f"<{seconds:.1f} seconds><|vision_start|>{self.video_token * length}<|vision_end|>")
        return "".join(texts)

    def _times(self, videos: Sequence[Video]) -> dict[str, torch.Tensor]:
        return {}  # they are in the text


load = Qwen3VL.load
