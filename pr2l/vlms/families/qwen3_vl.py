"""Qwen3-VL: image_size is a multiple of 32, with (image_size / 32)² tokens per frame; the default is 512."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.qwen import QwenVL

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("qwen3_vl",)


class Qwen3VL(QwenVL):
    """Family Qwen3-VL, whose first layers add vision features to their output."""

    # Vision features are added to a layer's output after its state is taken. The state of the last layer would
    # include them, so early exit keeps one more layer.
    spare_layers = 1


load = Qwen3VL.load
