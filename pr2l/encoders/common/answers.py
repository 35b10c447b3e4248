"""Base class of encoders that use the VLM's answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource
from pr2l.encoders.common.prompts import PromptOptions, PromptRenderer


class AnswerEncoder(Encoder):
    """Base class of encoders that ask the VLM about each frame and turn its answer into tokens.

    A subclass implements `embed_answers`, and adds its options to `key`.

    Args:
        source: VLM, prompt and environment.
        options: Options with the bound of the prompt's length.

    Raises:
        UserError: The VLM generates no text (vlm_options.generation=none).
    """

    costly = True

    def __init__(self, source: EncoderSource, options: PromptOptions) -> None:
        if source.vlm_options.generation == "none":
            raise UserError(
                f"the encoder {type(self).__module__.rpartition('.')[2]!r} needs the VLM's answer, but with"
                " vlm_options.generation=none the VLM does not answer; use vlm_options.generation=greedy"
            )
        self.source = source
        self.vlm = source.load_vlm()
        self.prompts = PromptRenderer(source, self.vlm, options.max_prompt_tokens)
        self.frame_history = self.prompts.images
        self._answers: list[str] = []

    @abstractmethod
    def embed_answers(self, answers: list[str]) -> Tokens:
        """Turn answers into tokens.

        Args:
            answers: B texts, as the VLM generated them.

        Returns:
            Tokens with values [B, tokens, width].
        """

    def key(self) -> dict[str, Any]:
        return {"encoder": type(self).__module__, "vlm": self.vlm.key(), **self.prompts.key()}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        hidden = self.prompts.hidden(frames, contexts)
        self._answers = hidden.answers
        return self.embed_answers(self._answers)

    def answers(self) -> list[str]:
        return self._answers

    def metrics(self) -> dict[str, float]:
        return self.prompts.metrics()

    def clear_cache(self) -> None:
        self.prompts.clear_counts()
