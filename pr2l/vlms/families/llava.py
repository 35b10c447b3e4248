"""LLaVA 1.5: a CLIP or SigLIP tower, a projection, and a causal language model."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("llava",)


class Llava(ChatVLM):
    """Family LLaVA 1.5: every placeholder is replaced by one token per patch."""


load = Llava.load
