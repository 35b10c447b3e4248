"""Texts of the questions to a model; all evaluators with a model use them.

The order of the parts is that of DigiRL's released evaluator (digirl/environment/android/evaluate.py): what to judge,
examples with a screenshot, the task and a verdict, then the screenshots to judge. The wording is our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pr2l.agents.evaluators.common.screens import shrink
from pr2l.core.config import parse_options
from pr2l.core.errors import UserError
from pr2l.core.images import read_image
from pr2l.core.messages import Message, Part, image_part, text_part
from pr2l.core.types import Frame
from pr2l.core.yaml_files import read_mapping

Status = Literal["success", "failure"]

SYSTEM = "You check screenshots of a phone and decide whether a task has been completed."
EXAMPLES = "===== Examples ====="
YOUR_TURN = "===== Now decide ====="


class Example(NamedTuple):
    """Example of a verdict for a prompt.

    Args:
        screen: The last screenshot of an episode, uint8 [H, W, 3].
        task: The instruction of the episode.
        reason: What the screen should show and what it shows; "" = no reason is stated.
        status: The verdict.
    """

    screen: Frame
    task: str
    reason: str
    status: Status


def verdict(status: Status) -> str:
    """Return the line with which an answer ends."""
    return f"Status: {status}"


def conversation(parts: Iterable[Part], examples: Sequence[Example] = ()) -> list[Message]:
    """Return a question with examples before it.

    Args:
        parts: The task, the screenshots to judge, and how to answer.
        examples: Examples of verdicts.
    """
    content = [part for example in examples for part in _example_parts(example)]
    if content:
        content = [text_part(EXAMPLES), *content, text_part(YOUR_TURN)]
    return [{"role": "system", "content": [text_part(SYSTEM)]}, {"role": "user", "content": [*content, *parts]}]


def screen_parts(screens: Iterable[Frame]) -> list[Part]:
    """Return the parts of screenshots, each after a line of text.

    Args:
        screens: The screenshots in their order.
    """
    return [part for screen in screens for part in (text_part("Screenshot:"), image_part(screen))]


def _example_parts(example: Example) -> list[Part]:
    lines = filter(None, [f"Task: {example.task}", example.reason, verdict(example.status)])
    return [*screen_parts([example.screen]), text_part("\n".join(lines))]


class ExampleFile(BaseModel):
    """YAML file of examples: `examples:` and a list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class Entry(BaseModel):
        """One example; `image` is a path relative to the file."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        image: str
        task: str
        status: Status
        reason: str = ""

    examples: list[Entry] = Field(min_length=1)


def read_examples(path: Path, height: int) -> list[Example]:
    """Read the examples of a YAML file.

    Args:
        path: The file; see `ExampleFile`.
        height: Height of the screenshots in pixels; smaller ones stay as they are.

    Raises:
        UserError: The file or an image cannot be read, or an entry is not valid.
    """
    if not path.is_file():
        raise UserError(f"there is no file of examples {path}; leave out the option for a prompt without examples")
    entries = parse_options(ExampleFile, read_mapping(path), str(path)).examples
    return [
        Example(shrink(read_image(path.parent / entry.image), height), entry.task, entry.reason, entry.status)
        for entry in entries
    ]
