"""Florence-2: a DaViT vision tower and a BART encoder-decoder; `tiny` is a small one.

The encoder reads image and prompt together with attention in both directions, so image tokens attend to the prompt. The
image tokens are the mean over the picture, then the picture's grid row by row.

A task token such as <OD> stands for a sentence, which only the Hugging Face processor contains: write the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pr2l.core.types import Frames
from pr2l.vlms.backends.local import EncoderDecoder
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Prompt
from pr2l.vlms.fused.bart import Bart
from pr2l.vlms.fused.davit import Tower

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("florence2",)


class Florence2(VLM):
    """Family Florence-2: image tokens come first, then the text between BOS and EOS."""

    def read_model(self, path: str) -> Any:
        model = super().read_model(path)
        self._tower = Tower(model.model.vision_tower) if self._fuses_layers(model) else None
        return model

    def layout(self, text: str) -> list[int]:
        words = self.encode(text, add_special_tokens=False)
        image = [self.image_token_id] * self.image_length()
        return [*image, self.tokenizer.bos_token_id, *words, self.tokenizer.eos_token_id]

    def encode_images(self, frames: Frames) -> Any:
        if self._tower is None or torch.is_grad_enabled():
            return super().encode_images(frames)
        states = self._tower(self.pixels(frames)["pixel_values"])
        tokens = self.model.model.multi_modal_projector(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=tokens)

    def encoder_decoder(self) -> EncoderDecoder:
        if self._tower is None:
            return super().encoder_decoder()
        return Bart(self.model.model.language_model, self.model.lm_head)

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return self.embed_inputs(prompts, image_features.pooler_output)

    def default_image_size(self) -> int:
        # The vision config has no size, since the tower takes any size up to 32 x max_position_embeddings.
        return int(self.image_processor.size["height"])

    def default_picture_size(self) -> tuple[int, int]:
        """Return the size of the image processor, which need not be a square, unless `image_size` asks for one."""
        if self.options.image_size is not None:
            return super().default_picture_size()
        return int(self.image_processor.size["height"]), int(self.image_processor.size["width"])

    def _fuses_layers(self, model: Any) -> bool:
        options, text = self.options, self.config.get_text_config()
        disabled = options.compile or {"own_passes", "fused_layers"} & set(options.disable)
        exact = text.activation_function == self.config.vision_config.activation_function == "gelu"
        types = (torch.float32, torch.bfloat16)
        return exact and not disabled and model.device.type == "cpu" and model.dtype in types


load = Florence2.load
