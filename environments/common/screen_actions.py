"""Actions on a touch screen, and the text form in which a VLM writes them.

    tap(0.500, 0.250)                    long_press(0.500, 0.250)
    swipe(0.500, 0.800, 0.500, 0.200)    type("hello")    answer("42")
    back()    home()    enter()    complete()    impossible()

Points are (x, y): fractions of the width of the screen from its left edge, and of its height from its top edge. Texts
are JSON strings. This file runs on Python 3.9 or later with the standard library only, so that simulators in other
interpreters can import it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal

ActionType = Literal[
    "tap", "long_press", "swipe", "type", "back", "home", "enter", "answer", "complete", "impossible"
]  # fmt: skip
POINT = ("x", "y")

# Fields that an action of each type has, in the order of its text form, and its effect as a VLM's prompt describes it.
FIELDS: dict[ActionType, tuple[str, ...]] = {
    "tap": POINT,
    "long_press": POINT,
    "swipe": (*POINT, "to_x", "to_y"),
    "type": ("text",),
    "back": (),
    "home": (),
    "enter": (),
    "answer": ("text",),
    "complete": (),
    "impossible": (),
}
EFFECTS: dict[ActionType, str] = {
    "tap": "touch a point of the screen",
    "long_press": "touch a point and hold it for a second",
    "swipe": "move a finger from one point to another; an upward swipe scrolls down",
    "type": "enter text into the selected text field",
    "back": "go back to the previous screen",
    "home": "go to the home screen",
    "enter": "press the enter key of the keyboard",
    "answer": "answer the question of the task",
    "complete": "end the episode because the task is done",
    "impossible": "end the episode because the task cannot be done",
}
TYPES: tuple[ActionType, ...] = tuple(FIELDS)
DECIMALS = 3  # of a coordinate in the text form: 0.001 is less than a pixel of a screen below 1000 pixels


class MalformedAction(ValueError):
    """Error for a text or value that is not an action; an environment counts it and does nothing."""


class UnsupportedAction(MalformedAction):
    """Error for an action that another format or space cannot express."""


@dataclass(frozen=True)
class ScreenAction:
    """One action on a touch screen.

    Args:
        type: Type of the action; FIELDS lists the other fields that it needs, which must be None otherwise.
        x: Horizontal position of the touch, in 0..1 from the left edge of the screen.
        y: Vertical position of the touch, in 0..1 from the top edge.
        to_x: Horizontal position of the end of a swipe.
        to_y: Vertical position of the end of a swipe.
        text: Text to type, or answer.

    Raises:
        MalformedAction: The type is unknown, a field is missing or superfluous, a coordinate is outside 0..1, or the
            text is not a string that UTF-8 can encode.
    """

    type: ActionType
    x: float | None = None
    y: float | None = None
    to_x: float | None = None
    to_y: float | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        check_type(self.type)
        for field in ("x", "y", "to_x", "to_y", "text"):
            value = getattr(self, field)
            if field not in FIELDS[self.type]:
                if value is not None:
                    raise MalformedAction(f"{self.type} has no {field}; write {usage(self.type)}")
            elif field == "text":
                check_text(value, self.type)
            else:
                object.__setattr__(self, field, coordinate_of(value, field, self.type))


def check_type(name: object) -> None:
    """Raise MalformedAction unless a value is the name of a type of action."""
    if isinstance(name, str) and name in FIELDS:
        return
    close = get_close_matches(str(name)[:80], TYPES, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise MalformedAction(f"{shorten(name)} is not an action.{hint} Actions: {', '.join(TYPES)}.")


def coordinate_of(value: Any, field: str, action: ActionType) -> float:
    """Return a number in 0..1, of any type such as numpy.float32, as a float; raise MalformedAction otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise MalformedAction(f"{field} of {action} must be a number, not {shorten(value)}; write {usage(action)}")
    number: Any = value  # mypy knows no operators of Real
    if not 0 <= number <= 1:  # also True for NaN
        raise MalformedAction(
            f"{field} = {shorten(value)} is outside 0..1; coordinates are fractions of the screen's width and height, "
            f"not pixels, as in {example(action)}"
        )
    return float(number)


def check_text(value: object, action: ActionType) -> None:
    """Raise MalformedAction unless a value is a string that UTF-8 can encode."""
    if not isinstance(value, str):
        raise MalformedAction(f"{action} needs a text in double quotes, not {shorten(value)}; write {usage(action)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedAction(f"the text of {action} has half of a surrogate pair at {error.start}") from error


def parse(text: str) -> ScreenAction:
    """Read an action from its text form.

    Args:
        text: One action, such as 'tap(0.500, 0.250)'; `find` gets it from a longer response.

    Raises:
        MalformedAction: The text is not one action. No other exception, whatever the text.
    """
    if not isinstance(text, str):
        raise MalformedAction(f"an action is a text such as {example('tap')}, not {shorten(text)}")
    name, bracket, rest = text.strip().partition("(")
    if not bracket or not rest.endswith(")"):
        raise MalformedAction(f"{shorten(text)} is not an action; write one such as {example('tap')}")
    check_type(name.strip())
    action: ActionType = name.strip()  # type: ignore[assignment]  # checked above
    values = parse_values(rest[:-1], action)
    fields: dict[str, Any] = dict(zip(FIELDS[action], values))  # noqa: B905  # Python 3.9 has no `strict`
    return ScreenAction(action, **fields)


def parse_values(text: str, action: ActionType) -> list[float | str]:
    """Read the values between the brackets, which are the items of a JSON list, and check their number."""
    try:
        values = json.loads(f"[{text}]")
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of more than 4300 digits
        raise MalformedAction(
            f"cannot read ({shorten(text)}); write {usage(action)}, texts in double quotes"
        ) from error
    if len(values) != len(FIELDS[action]):
        raise MalformedAction(f"{action} needs {len(FIELDS[action])} values, not {len(values)}; write {usage(action)}")
    return list(values)


def format(action: ScreenAction) -> str:
    """Return the text form of an action, which `parse` reads; coordinates are rounded to three decimals."""
    values = (getattr(action, field) for field in FIELDS[action.type])
    return f"{action.type}({', '.join(map(format_value, values))})"


def format_value(value: float | str) -> str:
    """Return a coordinate with three decimals, or a text as a JSON string."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"{value + 0.0:.{DECIMALS}f}"  # + 0.0 turns -0.0 into 0.0


CALL = re.compile(rf"\b(?:{'|'.join(TYPES)})\((?:\"(?:[^\"\\\n]|\\.)*\"|[^()\"\n]*)\)")


def find(response: str) -> str:
    """Return the last action in a response, or the response itself if there is none.

    Args:
        response: What a VLM wrote, such as a thought followed by an action.
    """
    calls = CALL.findall(response)
    return calls[-1] if calls else response


def describe(types: Iterable[ActionType] = TYPES) -> str:
    """Describe the text form of actions for the prompt of a VLM, one type per line.

    Args:
        types: The types that the environment accepts.
    """
    lines = [f"{usage(action)}: {EFFECTS[action]}" for action in types]
    points = (
        "x and y are fractions of the width and the height of the screen: (0, 0) is the top left corner, (1, 1) the "
        f"bottom right one. Example: {example('tap')}"
    )
    return "\n".join([*lines, points])


def usage(action: ActionType) -> str:
    """Return the text form of a type with the names of its values, such as 'tap(x, y)'."""
    names = ('"text"' if field == "text" else field for field in FIELDS[action])
    return f"{action}({', '.join(names)})"


def example(action: ActionType) -> str:
    """Return an action of a type in its text form."""
    values = {"x": 0.5, "y": 0.8, "to_x": 0.5, "to_y": 0.2, "text": "hello"}
    return format(ScreenAction(action, **{field: values[field] for field in FIELDS[action]}))  # type: ignore[arg-type]


def pixel(position: float, size: int) -> int:
    """Return the pixel that contains a coordinate.

    Args:
        position: A coordinate in 0..1.
        size: Width or height of the screen in pixels.

    Returns:
        A number in 0..size - 1.
    """
    return min(math.floor(position * size), size - 1)


def coordinate(column_or_row: float, size: int) -> float:
    """Return the coordinate of the centre of a pixel, the inverse of `pixel`.

    Args:
        column_or_row: Number of a pixel, in 0..size - 1.
        size: Width or height of the screen in pixels.
    """
    return (column_or_row + 0.5) / size


def shorten(value: object, length: int = 60) -> str:
    """Return the repr of a value for an error message, cut to a length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, a list of too many levels
        text = f"<{type(value).__name__}>"
    return text if len(text) <= length else text[: length - 3] + "..."
