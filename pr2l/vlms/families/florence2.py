"""Florence-2: a DaViT vision tower and a BART encoder-decoder; `tiny` is a small one.

The encoder reads image and prompt together with attention in both directions, so image tokens attend to the prompt. The
image tokens are the mean over the picture, then the picture's grid row by row.

A task token such as <OD> stands for a sentence, which only the Hugging Face processor contains: write the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Prompt

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("florence2",)


class Florence2(VLM):
    """Family Florence-2: image tokens come first, then the text between BOS and EOS."""

    def layout(self, text: str) -> list[int]:
        words = self.encode(text, add_special_tokens=False)
        image = [self.image_token_id] * self.image_length()
        return [*image, self.tokenizer.bos_token_id, *words, self.tokenizer.eos_token_id]

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return self.embed_inputs(prompts, image_features.pooler_output)

    def default_image_size(self) -> int:
        # The vision config has no size, since the tower takes any size up to 32 x max_position_embeddings.
        return int(self.image_processor.size["height"])


load = Florence2.load
