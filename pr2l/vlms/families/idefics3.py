"""Idefics 3 and SmolVLM: a SigLIP tower whose patches are merged, and a causal language model.

A frame is one global picture, where the default processor makes up to 17 tiles. The tower takes any size that
its patches and their merging divide, so image_size trades detail for speed: 512 is 64 tokens in SmolVLM-256M,
256 is 16.
"""

from __future__ import annotations

import torch

from pr2l.core.types import Frames
from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("idefics3", "smolvlm")

EDGE = "<fake_token_around_image>"


class Idefics3(ChatVLM):
    @property
    def image_text(self) -> str:
        return f"{EDGE}<global-img>{super().image_text}{EDGE}"

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.preprocess(frames)[:, None]}


load = Idefics3.load
