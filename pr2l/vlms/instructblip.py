"""InstructBLIP, the paper's VLM in Minecraft: a ViT, a Q-Former that reads the prompt, then Vicuna or
Flan-T5.

The Q-Former makes 32 tokens of the picture under the prompt, so image tokens know the prompt with either
language model. `vision` gives the tokens of the ViT, the last ones that do not.
"""

from __future__ import annotations

import torch

from pr2l.types import Frames
from pr2l.vlms import _checkpoint as checkpoint
from pr2l.vlms._base import VLM, Defaults

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("instructblip",)


class InstructBlip(VLM):
    image_sees_later_text = True

    def read_processors(self, path: str) -> None:
        super().read_processors(path)
        self.qformer_tokenizer = checkpoint.read_tokenizer(path, subfolder="qformer_tokenizer")

    def layout(self, text: str) -> list[int]:
        # Image tokens come even before the token that begins a text.
        return [*[self.image_token_id] * self.image_length(), *self.tokenizer(text)["input_ids"]]

    def image_length(self) -> int:
        return int(self.config.num_query_tokens)

    def image_features(self, frames: Frames) -> torch.Tensor:
        features: torch.Tensor = self.model.vision_model(**self.pixels(frames)).last_hidden_state
        return features

    def text_inputs(self, texts: list[str], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        asked = self.qformer_tokenizer(texts, padding=True, return_tensors="pt").to(ids.device)
        return {"qformer_input_ids": asked["input_ids"], "qformer_attention_mask": asked["attention_mask"]}


load = InstructBlip.load
