"""What encoders of the VLM's answer share: to ask, and to remember what was said."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource


class AnswerEncoder(Encoder):
    """An encoder file fills in `read`, and adds its options to the key."""

    costly = True

    def __init__(self, source: EncoderSource) -> None:
        if source.vlm_options.generation == "none":
            raise UserError(
                f"encoder {type(self).__module__.rpartition('.')[2]} reads the VLM's answer, and with generation=none"
                " there is none; use vlm_options.generation=greedy"
            )
        self.source = source
        self.vlm = source.load_vlm()
        self.prompt_tokens = self.vlm.prompt_length(source.texts(source.contexts))
        self._answers: list[str] = []

    @abstractmethod
    def read(self, answers: list[str]) -> Tokens:
        """Tokens of B answers."""

    def key(self) -> dict[str, Any]:
        prompt = self.source.prompt.text if self.source.prompt else None
        return {"encoder": type(self).__module__, "vlm": self.vlm.key(), "prompt": prompt}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        hidden = self.vlm.hidden(frames, self.source.texts(contexts), prompt_tokens=self.prompt_tokens)
        self._answers = hidden.answers
        return self.read(self._answers)

    def answers(self) -> list[str]:
        return self._answers
