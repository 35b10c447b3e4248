"""Set-of-marks (Yang et al. 2023, arXiv 2310.11441): numbered boxes on a screenshot, which actions can name.

    tap(mark=3)    long_press(mark=3)

Mark n is the n-th element that `marks_of` returns, from 1 on. A mark stands for the centre of its box.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from pr2l.core.types import Frame, Labels
from pr2l.environments.common.drawing import font
from pr2l.environments.common.screen_actions import MalformedAction, ScreenAction, parse

GRAMMAR = """tap(mark=n): touch the element in the box with number n
long_press(mark=n): touch it and hold it for a second"""
CALL = re.compile(r"\s*(tap|long_press)\s*\(\s*mark\s*=\s*(\d{1,9})\s*\)\s*")
LARGEST = 0.5  # of the screen; a larger element is a background
# Colours of the boxes in turn, dark enough for white numbers
COLOURS = ((214, 30, 76), (0, 112, 192), (0, 128, 72), (156, 60, 190), (190, 88, 0), (20, 110, 120))


class Mark(NamedTuple):
    """Element of a screen.

    Args:
        name: Its name in the labels.
        box: Left, top, right and bottom in pixels, within the frame.
    """

    name: str
    box: tuple[float, float, float, float]


def marks_of(labels: Labels, frame: Frame, ignore: Sequence[str] = ()) -> list[Mark]:
    """Select the elements that get a mark.

    Args:
        labels: The labels of the frame, with boxes in pixels.
        frame: uint8 [H, W, 3].
        ignore: Beginnings of names that get no mark.

    Returns:
        The elements in the order of the labels, without those that are outside the frame or larger than half of it.
    """
    height, width = frame.shape[:2]
    marks = []
    for label in labels:
        left, top, right, bottom = label["box"]
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        visible = right - left >= 1 and bottom - top >= 1
        if visible and (right - left) * (bottom - top) <= LARGEST * width * height:
            marks.append(Mark(label["name"], (left, top, right, bottom)))
    return [mark for mark in marks if not mark.name.startswith(tuple(ignore))]


def draw_marks(frame: Frame, marks: Sequence[Mark]) -> Frame:
    """Draw the boxes of marks, with their numbers in the top left corners.

    Args:
        frame: uint8 [H, W, 3].
        marks: The elements; the number of the first one is 1.

    Returns:
        uint8 [H, W, 3], a new array.
    """
    image = Image.fromarray(frame)
    canvas = ImageDraw.Draw(image)
    size = max(9, round(0.038 * image.width))
    for number, mark in enumerate(marks, start=1):
        draw_mark(canvas, str(number), mark.box, COLOURS[number % len(COLOURS)], size)
    return np.array(image)


def draw_mark(
    canvas: ImageDraw.ImageDraw,
    number: str,
    box: tuple[float, float, float, float],
    colour: tuple[int, int, int],
    size: int,
) -> None:
    """Draw a box with a number, whose letters are `size` pixels high."""
    left, top, right, bottom = box
    canvas.rectangle((left, top, right - 1, bottom - 1), outline=colour)
    letters = font(size)
    width, height = letters.getlength(number) + 3, size + 1
    canvas.rectangle((left, top, left + width, top + height), fill=colour)
    canvas.text((left + width / 2 + 0.5, top + height / 2 + 0.5), number, fill="white", font=letters, anchor="mm")


def parse_with_marks(text: str, marks: Sequence[Mark], frame: Frame) -> ScreenAction:
    """Read an action that may name a mark.

    Args:
        text: The text form of an action, or one of GRAMMAR.
        marks: The marks on the screen.
        frame: uint8 [H, W, 3], of the size to which the boxes refer.

    Raises:
        MalformedAction: The text is not an action, or there is no such mark.
    """
    call = CALL.fullmatch(text)
    if not call:
        return parse(text)
    number = int(call[2])
    if not 1 <= number <= len(marks):
        available = f"the marks are 1 to {len(marks)}" if marks else "the screen has no marks"
        raise MalformedAction(f"there is no mark {number}; {available}")
    left, top, right, bottom = marks[number - 1].box
    height, width = frame.shape[:2]
    return ScreenAction(call[1], (left + right) / 2 / width, (top + bottom) / 2 / height)  # type: ignore[arg-type]
