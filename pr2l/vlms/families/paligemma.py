"""PaliGemma 1 and 2: a SigLIP tower and a Gemma decoder with attention in both directions over image and prompt.

Image tokens therefore attend to the prompt, although they come first. Generated tokens are causal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Prompt

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("paligemma",)


class PaliGemma(VLM):
    """Family PaliGemma: image tokens come first, then BOS and a text that ends with a new line."""

    image_sees_later_text = True
    answer_type = 1  # in the suffix, which is causal

    def layout(self, text: str) -> list[int]:
        # A new line ends the prefix, as in the model's training.
        words = self.encode(f"{text}\n", add_special_tokens=False)
        return [*[self.image_token_id] * self.image_length(), self.tokenizer.bos_token_id, *words]

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": torch.zeros_like(ids)}  # 0 = in the prefix


load = PaliGemma.load
