"""The elements on a screen as tokens, one per cell of a grid, to measure the benefit of perfect perception.

For comparison only: the elements come from the simulator's labels, while other encoders get pixels alone. Nothing here
is learned.

    token 0 .. rows * columns - 1   cells, row by row: the smallest element that covers the centre of the cell, which is
                                    on top where elements overlap; padding where there is none
    the last two                    the goal (all values of the context), and the whole screen (all elements)

    part of a token   width   content
    words             48      words of the element: of the last part of its name, and of its text
    role              12      one-hot, zeros for other roles
    value              4      whether it is on, off, or a text; a number / 100
    box                6      centre of the cell (x, y), from there to the centre of the element (x, y), and the size of
                              the element (width, height), as fractions of the frame
    goal               3      share of its words in the goal, share of the goal's words in it, and whether any is
    kind               3      one-hot: cell, goal, screen

Words become numbers by hashing (Weinberger et al. 2009, "Feature hashing for large scale multitask learning"): each
group of three characters of a word, with "<" and ">" for its ends, adds 1 or -1 to the place that its CRC-32 gives. So
words with equal parts are alike, as in fastText (Bojanowski et al. 2017). The vector of a text is the sum of its words'
unit vectors, divided by its length.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt

from pr2l.core.types import Context, Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder, EncoderSource

ROLES = ("button", "checkbox", "field", "icon", "key", "link", "option", "row", "slider", "switch", "tab", "text")
KINDS = ("cell", "goal", "screen")
NO_ROLE, NO_VALUE = (0.0,) * len(ROLES), (0.0,) * 4

Vector = npt.NDArray[np.float32]


class Defaults(BaseModel):
    """Options of the encoder `dom`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: PositiveInt = 16  # of the grid of cells, as in the options of the environment
    columns: PositiveInt = 9  # of the grid of cells, as in the options of the environment
    words: PositiveInt = 48  # width of the hashed words


class DomEncoder(Encoder):
    """Encoder of the elements on a screen: tokens [B, rows * columns + 2, words + 28]."""

    needs_labels = True

    def __init__(self, source: EncoderSource, options: Defaults) -> None:
        self.options = options
        self.height, self.frame_width, _ = source.frame_shape
        self.cells = options.rows * options.columns
        self.tokens = self.cells + 2
        self.width = options.words + len(ROLES) + len(NO_VALUE) + 6 + 3 + len(KINDS)

    def key(self) -> dict[str, Any]:
        frame = [self.height, self.frame_width]
        return {"encoder": __name__, "options": self.options.model_dump(mode="json"), "frame": frame}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        if labels is None:
            raise ValueError("the encoder dom needs labels; make the environment with labels=True")
        values = np.zeros((len(frames), self.tokens, self.width), np.float32)
        mask = np.ones((len(frames), self.tokens), bool)
        for row, (context, elements) in enumerate(zip(contexts, labels, strict=True)):
            values[row], mask[row, : self.cells] = self._screen(context, elements)
        return Tokens(torch.from_numpy(values), torch.from_numpy(mask))

    def _screen(self, context: Context, elements: Labels) -> tuple[Vector, npt.NDArray[np.bool_]]:
        """Return the tokens [T, D] of a screen, and which cells have an element."""
        goal = words_of(*context.values())
        cells = self._element_of_cell(elements)
        covered = cells >= 0
        tokens = np.zeros((self.tokens, self.width), np.float32)
        if elements:
            of_elements = np.stack([self._element(element, goal) for element in elements])
            tokens[: self.cells][covered] = of_elements[cells[covered]]
            tokens[: self.cells, self._boxes][covered] = self._boxes_of_cells(elements, cells)[covered]
        seen = {word for element in elements for word in words_of(element["name"], element.get("text", ""))}
        tokens[-2] = self._token(goal, goal, kind="goal")
        tokens[-1] = self._token(seen, goal, kind="screen")
        return tokens, covered

    def _element(self, element: dict[str, Any], goal: set[str]) -> Vector:
        words = words_of(element["name"].rpartition("/")[2], element.get("text", ""))
        role = [element.get("role") == name for name in ROLES]
        return self._token(words, goal, role=role, value=value_features(element.get("value")), kind="cell")

    def _token(
        self,
        words: set[str],
        goal: set[str],
        role: Sequence[float] = NO_ROLE,
        value: Sequence[float] = NO_VALUE,
        *,
        kind: str,
    ) -> Vector:
        """Return a token [D] without a box."""
        common = words & goal
        overlap = [len(common) / max(len(words), 1), len(common) / max(len(goal), 1), bool(common)]
        hashed, kinds = hashed_words(words, self.options.words), [kind == name for name in KINDS]
        return np.concatenate([hashed, role, value, np.zeros(6), overlap, kinds]).astype(np.float32)

    @property
    def _boxes(self) -> slice:
        """The place of the box in a token."""
        start = self.options.words + len(ROLES) + len(NO_VALUE)
        return slice(start, start + 6)

    def _element_of_cell(self, elements: Labels) -> npt.NDArray[np.int64]:
        """Return the number of the element in each cell, int64 [cells], -1 for none."""
        boxes = np.array([element["box"] for element in elements], np.float64).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        x, y = self._centres().T
        cells = np.full(self.cells, -1, np.int64)
        for number in np.argsort(-areas, kind="stable"):  # a smaller element hides a larger one
            left, top, right, bottom = boxes[number] / ([self.frame_width, self.height] * 2)
            cells[(left <= x) & (x < right) & (top <= y) & (y < bottom)] = number
        return cells

    def _boxes_of_cells(self, elements: Labels, cells: npt.NDArray[np.int64]) -> Vector:
        """Return the box in the token of each cell, float32 [cells, 6]; arbitrary for a cell without an element."""
        boxes = np.array([element["box"] for element in elements]) / ([self.frame_width, self.height] * 2)
        centres, (start, end) = self._centres(), np.split(boxes[cells], 2, axis=1)
        return np.concatenate([centres, (start + end) / 2 - centres, end - start], axis=1).astype(np.float32)

    def _centres(self) -> npt.NDArray[np.float64]:
        """Return the centres (x, y) of the cells as fractions of the frame, float64 [cells, 2]."""
        rows, columns = np.divmod(np.arange(self.cells), self.options.columns)
        return np.stack([(columns + 0.5) / self.options.columns, (rows + 0.5) / self.options.rows], axis=1)


def value_features(value: Any) -> list[float]:
    """Return whether a value is on, is off, or is a text that is not empty; and a number divided by 100.

    Args:
        value: The value of an element; None = it has none.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [value is True, value is False, isinstance(value, str) and value != "", value / 100 if number else 0.0]


def words_of(*texts: str) -> set[str]:
    """Return the words of texts in lower case; a word has letters, digits and underscores."""
    return {word for text in texts for word in re.findall(r"\w+", text.casefold())}


def hashed_words(words: Iterable[str], width: int) -> Vector:
    """Return the unit vector of a set of words, float32 [width]; zeros if there are none.

    Args:
        words: Words in lower case.
        width: Number of places.
    """
    total = sum((_hashed_word(word, width) for word in sorted(words)), np.zeros(width, np.float32))
    return total / max(float(np.linalg.norm(total)), 1e-6)


@lru_cache(maxsize=10_000)
def _hashed_word(word: str, width: int) -> Vector:
    vector, marked = np.zeros(width, np.float32), f"<{word}>"
    for start in range(len(marked) - 2):
        code = zlib.crc32(marked[start : start + 3].encode())
        vector[code % width] += 1 if code < 2**31 else -1
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def create(source: EncoderSource, options: Defaults) -> DomEncoder:
    return DomEncoder(source, options)
