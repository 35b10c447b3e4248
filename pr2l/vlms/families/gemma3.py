"""Gemma 3: a SigLIP tower with pooled patches, and a causal language model.

Image tokens attend to each other in both directions, but not to text that comes after them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pr2l.vlms.base import Defaults
from pr2l.vlms.chat import ChatVLM
from pr2l.vlms.conversation import Prompt

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("gemma3",)


class Gemma3(ChatVLM):
    """Family Gemma 3: image tokens stand between a begin and an end token, and tokens have type ids."""

    can_share_prefix = False  # the inputs have type ids beside the token ids

    @property
    def placeholder(self) -> str:
        return str(self.tokenizer.boi_token)

    @property
    def image_text(self) -> str:
        return f"\n\n{self.tokenizer.boi_token}{super().image_text}{self.tokenizer.eoi_token}\n\n"

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": (ids == self.image_token_id).int()}


load = Gemma3.load
