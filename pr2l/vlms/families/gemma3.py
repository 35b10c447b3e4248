"""Gemma 3: a SigLIP tower whose patches are pooled, and a causal language model.

The image tokens look at each other both ways, but not at text that comes after them.
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
    can_share_prefix = False  # token types go along with the ids

    @property
    def placeholder(self) -> str:
        return str(self.tokenizer.boi_token)

    @property
    def image_text(self) -> str:
        return f"\n\n{self.tokenizer.boi_token}{super().image_text}{self.tokenizer.eoi_token}\n\n"

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": (ids == self.image_token_id).int()}


load = Gemma3.load
