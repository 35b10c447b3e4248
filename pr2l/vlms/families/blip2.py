"""BLIP-2: a ViT, a Q-Former that turns the picture into 32 tokens without the prompt, then OPT or Flan-T5.

With OPT (causal) image tokens cannot attend to the prompt; in the encoder of Flan-T5 they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Prompt

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("blip-2",)


class Blip2(VLM):
    """Family BLIP-2: image tokens come first, even before the token that begins a text."""

    def layout(self, text: str) -> list[int]:
        # Image tokens come first, even before the token that begins a text.
        return [*[self.image_token_id] * self.image_length(), *self.encode(text)]

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return self.embed_inputs(prompts, image_features.pooler_output)


load = Blip2.load
