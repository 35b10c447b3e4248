"""Idefics 3 and SmolVLM: a SigLIP tower with merged patches, and a causal language model.

A frame is one global picture; the default processor would cut it into up to 17 tiles. The tower takes any multiple of
the side of a merged patch, so image_size trades detail for speed: in SmolVLM-256M, 512 pixels are 64 tokens and 256
pixels are 16.
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
    """Family Idefics 3 and SmolVLM: image tokens stand between edge tokens."""

    @property
    def image_text(self) -> str:
        return f"{EDGE}<global-img>{super().image_text}{EDGE}"

    def pixels(self, frames: Frames) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.preprocess(frames)[:, None]}


load = Idefics3.load
