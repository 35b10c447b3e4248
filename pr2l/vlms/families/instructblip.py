"""InstructBLIP, the paper's VLM in Minecraft: a ViT, a Q-Former that reads the prompt, then Vicuna or Flan-T5.

The Q-Former turns the picture into 32 tokens that depend on the prompt, with either language model. `vision` returns
the tokens of the ViT, which do not depend on the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pr2l.core.errors import TooLong
from pr2l.core.types import Frames
from pr2l.vlms import checkpoint
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Prompt
from pr2l.vlms.plain_text import control_tokens, encode, interrupt
from pr2l.vlms.token_ids import padded

__all__ = ["MODEL_TYPES", "Defaults", "load"]

MODEL_TYPES = ("instructblip",)


class InstructBlip(VLM):
    """Family InstructBLIP: image tokens come first, even before the token that begins a text."""

    image_sees_later_text = True

    def read_processors(self, path: str) -> None:
        super().read_processors(path)
        self.qformer_tokenizer = checkpoint.read_tokenizer(path, subfolder="qformer_tokenizer")

    def layout(self, text: str) -> list[int]:
        self._check_question(text)
        # Image tokens come first, even before the token that begins a text.
        return [*[self.image_token_id] * self.image_length(), *self.encode(text)]

    def _check_question(self, text: str) -> None:
        """Raise TooLong if the Q-Former, which reads the prompt too, has no positions for it."""
        tokens = len(self._question_ids(text))
        positions = self.config.qformer_config.max_position_embeddings
        if tokens > positions:
            raise TooLong(
                f"the prompt {text[:60]!r} is too long: it has {tokens} tokens, and the Q-Former has {positions}"
                " positions. Use a shorter prompt."
            )

    def image_length(self) -> int:
        return int(self.config.num_query_tokens)

    def image_features(self, frames: Frames) -> torch.Tensor:
        features: torch.Tensor = self.model.vision_model(**self.pixels(frames)).last_hidden_state
        return features

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    def encode_images(self, frames: Frames) -> torch.Tensor:
        return self.image_features(frames)  # without the Q-Former, which needs the prompt

    def lm_inputs(self, image_features: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return self.embed_inputs(prompts, self._queried(image_features, prompts))

    def _queried(self, patches: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Return the projected output [B, I, D] of the Q-Former for the ViT's tokens [B, N, V] under the prompts."""
        tokens = self.text_inputs(prompts, torch.empty(0, device=patches.device))
        queries = self.model.query_tokens.expand(len(prompts), -1, -1)
        queries_mask, patches_mask = (
            torch.ones(part.shape[:2], dtype=torch.long, device=part.device) for part in (queries, patches)
        )
        output = self.model.qformer(
            input_ids=tokens["qformer_input_ids"],
            attention_mask=torch.cat([queries_mask, tokens["qformer_attention_mask"]], dim=1),
            query_embeds=queries,
            encoder_hidden_states=patches,
            encoder_attention_mask=patches_mask,
        )
        projected: torch.Tensor = self.model.language_projection(output.last_hidden_state[:, : self.image_length()])
        return projected

    def text_inputs(self, prompts: Sequence[Prompt], ids: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = [self._question_ids(self.plain_text(self.plain(prompt))) for prompt in prompts]
        mask = padded([[1] * len(row) for row in rows], 0).to(ids.device)
        tokens = padded(rows, self.qformer_tokenizer.pad_token_id).to(ids.device)
        return {"qformer_input_ids": tokens, "qformer_attention_mask": mask}

    def _question_ids(self, text: str) -> list[int]:
        """Return the Q-Former's token ids of a text, in which its own special tokens are text as well."""
        if self.options.special_tokens == "text":
            text = interrupt(text, control_tokens(self.qformer_tokenizer, None))
        return encode(self.qformer_tokenizer, text)


load = InstructBlip.load
