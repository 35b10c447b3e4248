"""Spaces of screen actions: six choices for policies with heads, or a text for VLMs.

`ScreenActionSpace` and `TextActions` have the same methods, so that an environment with either reads its actions with
`decode` and leaves the rest to them.

A row of `ScreenActionSpace` has six numbers:

    type       index in TYPES
    cell       row * columns + column of the touched cell of a grid over the screen
    offset     3 * row + column of the touched ninth of that cell; the touch is at its centre
    direction  of a swipe: index in DIRECTIONS
    start      number of the first word of the text, among the words of the instruction
    length     number of words of the text, minus 1

A type uses some of these heads (`USED_HEADS`); the others have no effect, and `encode` sets them to 0.

What a row cannot express:

- a touch between the centres of the ninths: `encode` takes the nearest centre, at most a sixth of a cell away in each
  direction;
- a swipe of another direction or length: `encode` takes the direction of its longer side in pixels;
- a text that is not a part of the instruction from the start of a word to the end of a word: `encode` raises
  UnsupportedAction. To offer more texts, such as words on the screen, an environment appends them to the instruction
  that it passes to `encode` and `decode`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from .screen_actions import FIELDS, TYPES, MalformedAction, ScreenAction, UnsupportedAction, find, format, parse

HEADS = ("type", "cell", "offset", "direction", "start", "length")
DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}  # of the finger, as (x, y)
VECTORS = tuple(DIRECTIONS.values())
HEADS_OF_FIELD = {"x": ("cell", "offset"), "to_x": ("direction",), "text": ("start", "length")}
# bool [types, heads]: whether the type of the row uses the head of the column
USED_HEADS: npt.NDArray[np.bool_] = np.array(
    [
        [head == "type" or any(head in HEADS_OF_FIELD.get(field, ()) for field in FIELDS[action]) for head in HEADS]
        for action in TYPES
    ]
)
# A word starts and ends with a letter, digit or underscore, as in 10:30, it's or ann@example.org; any other mark
# is a word of its own. So a text in quotes, or before a full stop, is a span of words.
WORD = re.compile(r"\w(?:\S*\w)?|[^\w\s]")

TEXT_CHARACTERS = frozenset(map(chr, [*range(32, 127), *range(160, 256)]))  # printable characters of Latin-1


@dataclass(frozen=True)
class ScreenActionSpace:
    """Space of screen actions as six choices.

    Args:
        rows: Rows of the grid of cells. The default is square on a screen of 16:9.
        columns: Columns of the grid.
        words: First words of the instruction at which a text can start.
        longest: Maximum number of words of a text.
        swipe: Length of a swipe, as a fraction of the screen's side in its direction; it ends at the edge.
    """

    rows: int = 16
    columns: int = 9
    words: int = 48
    longest: int = 12
    swipe: float = 0.4

    @property
    def space(self) -> gym.spaces.MultiDiscrete:
        """The Gymnasium space, int64 [6] in the order of HEADS."""
        return gym.spaces.MultiDiscrete(
            [len(TYPES), self.rows * self.columns, 9, len(DIRECTIONS), self.words, self.longest]
        )

    def encode(self, action: ScreenAction, instruction: str = "") -> npt.NDArray[np.int64]:
        """Return the row of an action, or of the nearest one.

        Args:
            action: The action.
            instruction: The text whose words `type` and `answer` select.

        Returns:
            int64 [6], in the order of HEADS.

        Raises:
            UnsupportedAction: The text is not a span of words of the instruction.
        """
        cell = offset = direction = start = length = 0
        if action.x is not None and action.y is not None:
            cell, offset = self._cell(action.x, action.y)
        if action.type == "swipe":
            direction = self._direction(action)
        if action.text is not None:
            start, length = self._span(action.text, instruction)
        return np.array([TYPES.index(action.type), cell, offset, direction, start, length], np.int64)

    def decode(self, row: Sequence[int] | npt.NDArray[Any], instruction: str = "") -> ScreenAction:
        """Return the action of a row.

        Args:
            row: Six numbers in the order of HEADS.
            instruction: The text whose words `type` and `answer` select. A text ends at the last word at the latest.

        Raises:
            MalformedAction: A text starts behind the last word of the instruction, or a number is outside the space.
        """
        numbers = [int(number) for number in row]
        if len(numbers) != len(HEADS) or not np.all((np.array(numbers) >= 0) & (np.array(numbers) < self.space.nvec)):
            raise MalformedAction(f"{numbers} is not in {self.space}, whose numbers are {', '.join(HEADS)}")
        kind, cell, offset, direction, start, length = numbers
        action = TYPES[kind]
        fields: dict[str, Any] = {}
        if "x" in FIELDS[action]:
            fields["x"], fields["y"] = self._point(cell, offset)
        if "to_x" in FIELDS[action]:
            fields["to_x"], fields["to_y"] = self._end(fields["x"], fields["y"], direction)
        if "text" in FIELDS[action]:
            fields["text"] = text_of_span(instruction, start, length + 1)
        return ScreenAction(action, **fields)

    def can_express(self, text: str, instruction: str) -> bool:
        """Return whether a text is a span of words of the instruction that a row can select."""
        return find_span(text, instruction, self.words, self.longest) is not None

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        column, row = (min(int(v * 3 * n), 3 * n - 1) for v, n in ((x, self.columns), (y, self.rows)))
        return row // 3 * self.columns + column // 3, row % 3 * 3 + column % 3

    def _point(self, cell: int, offset: int) -> tuple[float, float]:
        (row, column), (down, right) = divmod(cell, self.columns), divmod(offset, 3)
        return (3 * column + right + 0.5) / (3 * self.columns), (3 * row + down + 0.5) / (3 * self.rows)

    def _direction(self, action: ScreenAction) -> int:
        x, y, to_x, to_y = (getattr(action, field) for field in FIELDS["swipe"])
        # Cells are about square, so multiplying by their number compares lengths in pixels.
        right, down = (to_x - x) * self.columns, (to_y - y) * self.rows
        if abs(right) > abs(down):
            return VECTORS.index((1 if right > 0 else -1, 0))
        return VECTORS.index((0, 1 if down > 0 else -1))

    def _end(self, x: float, y: float, direction: int) -> tuple[float, float]:
        right, down = VECTORS[direction]
        return min(max(x + right * self.swipe, 0.0), 1.0), min(max(y + down * self.swipe, 0.0), 1.0)

    def _span(self, text: str, instruction: str) -> tuple[int, int]:
        span = find_span(text, instruction, self.words, self.longest)
        if span is None:
            raise UnsupportedAction(
                f"{text!r} is not among the first {self.words} words of {instruction!r} with at most {self.longest} "
                "words; a policy with heads can only type such texts"
            )
        return span[0], span[1] - 1


def words_of(instruction: str) -> list[str]:
    """Return the words of an instruction, of which a text is a span; a punctuation mark is a word of its own."""
    return WORD.findall(instruction)


def text_of_span(instruction: str, start: int, length: int) -> str:
    """Return the part of an instruction from one word to another, with the spaces and marks between them.

    Args:
        instruction: The text.
        start: Number of the first word.
        length: Number of words, 1 or more; the span ends at the last word at the latest.

    Raises:
        MalformedAction: There is no such word.
    """
    spans = [match.span() for match in WORD.finditer(instruction)]
    if start >= len(spans):
        raise MalformedAction(f"the text starts at word {start}, but the instruction has {len(spans)} words")
    return instruction[spans[start][0] : spans[min(start + length, len(spans)) - 1][1]]


def find_span(text: str, instruction: str, words: int, longest: int) -> tuple[int, int] | None:
    """Find the words of an instruction whose text is a given one.

    Args:
        text: The text.
        instruction: The text to search.
        words: Number of words at which the span can start.
        longest: Maximum number of words of the span.

    Returns:
        Number of the first word, and number of words, of the first such span; None = there is none.
    """
    spans = [match.span() for match in WORD.finditer(instruction)]
    ends = {end: number for number, (_, end) in enumerate(spans)}
    for start, (begin, _) in enumerate(spans[:words]):
        last = ends.get(begin + len(text))
        if last is not None and last - start < longest and instruction.startswith(text, begin) and text:
            return start, last - start + 1
    return None


class ActionText(gym.spaces.Text):
    """Space of the responses of a VLM: any text up to a length; samples are well-formed actions.

    Args:
        max_length: Maximum number of characters.
        seed: Seed of `sample`.
    """

    def __init__(self, max_length: int = 1024, *, seed: int | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=TEXT_CHARACTERS, seed=seed)

    def contains(self, x: Any) -> bool:
        """Return whether x is a text within the length; any character, since a malformed action is valid input."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a random action in its text form; texts to type are empty."""
        random = self.np_random
        action = TYPES[int(random.integers(len(TYPES)))]
        fields = {field: "" if field == "text" else float(random.random()) for field in FIELDS[action]}
        return format(ScreenAction(action, **fields))  # type: ignore[arg-type]


class TextActions:
    """Screen actions as texts, of which the last action counts, since a VLM may write a thought before it."""

    @property
    def space(self) -> ActionText:
        """The Gymnasium space."""
        return ActionText()

    def encode(self, action: ScreenAction, instruction: str = "") -> str:
        """Return the text form of an action; the instruction has no effect."""
        return format(action)

    def decode(self, text: str, instruction: str = "") -> ScreenAction:
        """Return the last action in a text; the instruction has no effect.

        Raises:
            MalformedAction: The text has no action, or the last one is not well-formed.
        """
        return parse(find(str(text)))


Actions = Union[ScreenActionSpace, TextActions]  # noqa: UP007  # Python 3.9 has no | of classes


def text_of(action: Any, actions: Actions, instruction: str = "") -> str:
    """Return the text form of an action; "" = an environment takes it for malformed and does nothing.

    Args:
        action: Six numbers, or the response of a VLM.
        actions: The space of the action.
        instruction: The text whose words `type` and `answer` select.
    """
    try:
        return format(actions.decode(action, instruction))
    except MalformedAction:
        return ""
