"""InternVL: an InternViT tower whose patches are merged, and a causal language model. A frame is one tile of
448."""

from __future__ import annotations

from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("internvl",)


class InternVL(ChatVLM):
    @property
    def image_text(self) -> str:
        return f"{self.tokenizer.start_image_token}{super().image_text}{self.tokenizer.end_image_token}"


load = InternVL.load
