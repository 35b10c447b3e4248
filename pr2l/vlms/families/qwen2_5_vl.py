"""Qwen2.5-VL: image_size is a multiple of 28, with (image_size / 28)² tokens per frame; the default is 448."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.qwen import QwenVL

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("qwen2_5_vl",)
load = QwenVL.load
