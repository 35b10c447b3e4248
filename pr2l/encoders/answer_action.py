"""The action that the VLM's answer names, as one token; with `algorithm: follow` the VLM acts directly, as in RT-2.

    "turn left, then walk" --first word in the table--> left --one-hot--> [1, 0, 0]

Nothing is learned, and the encoder has no weights. An answer that names no action gives a padding token.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import torch
from pydantic import Field

from pr2l.core.types import Tokens
from pr2l.encoders.base import EncoderSource
from pr2l.encoders.common.answers import AnswerEncoder
from pr2l.encoders.common.prompts import PromptOptions

Words = tuple[Annotated[str, Field(min_length=1)], ...]  # empty for an action without words


class Defaults(PromptOptions):
    """Options of the encoder `answer_action`."""

    # for each action of the environment, in its order, the words that name it; the default is for `tiny`
    actions: tuple[Words, ...] = Field((("left",), ("right",), ("ahead",)), min_length=1)


class AnswerActionEncoder(AnswerEncoder):
    """Encoder of the action in the VLM's answer: tokens [B, 1, actions], one-hot; zero and masked without an action."""

    tokens = 1

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        super().__init__(source, options)
        self.options, self.width = options, len(options.actions)

    def key(self) -> dict[str, Any]:
        return super().key() | {"options": self.options.model_dump(mode="json", exclude=self.options.unused())}

    def embed_answers(self, answers: list[str]) -> Tokens:
        values = torch.zeros(len(answers), 1, self.width)
        for row, answer in enumerate(answers):
            action = find_action(answer, self.options.actions)
            if action is not None:
                values[row, 0, action] = 1
        return Tokens(values, values.any(dim=2))


def find_action(answer: str, actions: tuple[Words, ...]) -> int | None:
    """Return the action whose word comes first in an answer.

    If two words begin at the same position, such as "look" and "look up", the longer one counts.

    Args:
        answer: Text; case is ignored.
        actions: For each action the words that name it.

    Returns:
        Index of the action; None if the answer contains none of the words.
    """
    matches = (
        (match.start(), -match.end(), action)
        for action, words in enumerate(actions)
        for word in words
        if (match := re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE))
    )
    return min(matches, default=(0, 0, None))[2]


def create(source: EncoderSource, options: Defaults) -> AnswerActionEncoder:
    return AnswerActionEncoder(source, options)
