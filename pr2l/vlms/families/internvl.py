"""InternVL: an InternViT tower with merged patches, and a causal language model. A frame is one tile of 448 pixels."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("internvl",)


class InternVL(ChatVLM):
    """Family InternVL: image tokens stand between a start and an end token."""

    @property
    def image_text(self) -> str:
        return f"{self.tokenizer.start_image_token}{super().image_text}{self.tokenizer.end_image_token}"


load = InternVL.load
