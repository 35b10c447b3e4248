"""LLaVA 1.5: a CLIP or SigLIP tower, a projection, and a causal language model."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("llava",)


class Llava(ChatVLM):
    """Every placeholder stands for one patch; nothing else differs from ChatVLM."""


load = Llava.load
