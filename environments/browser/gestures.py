"""Gestures as DevTools events on a timeline of virtual milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .options import Gesture

LONG_PRESS = 800  # ms; Android waits 500, Framework7 750
SWIPE = 120  # ms from touch to lift
MOVES = 6  # of a swipe


@dataclass(frozen=True)
class Event:
    """DevTools command at a time of a step.

    Args:
        at: Virtual milliseconds since the begin of the step.
        method: "Input.dispatchTouchEvent" or "Input.dispatchKeyEvent" or "Input.insertText".
        params: Its parameters.
    """

    at: int
    method: str
    params: dict[str, Any]


def events(gesture: Gesture, width: int, height: int) -> list[Event]:
    """Return the events of a gesture in the order of time; none if the gesture is not one of the driver's.

    Args:
        gesture: The gesture; coordinates outside of [0, 1] are clipped.
        width: Width of the viewport in CSS pixels.
        height: Height of the viewport in CSS pixels.
    """
    if gesture.type in ("tap", "long_press"):
        point = place(gesture.x, gesture.y, width, height)
        return touch([(0, point), (LONG_PRESS if gesture.type == "long_press" else 0, None)])
    if gesture.type == "swipe":
        start = place(gesture.x, gesture.y, width, height)
        end = place(gesture.to_x, gesture.to_y, width, height)
        return touch([*stroke(start, end), (SWIPE, None)])
    if gesture.type == "type":
        return [event for character in gesture.text or "" for event in typed(character)]
    if gesture.type == "enter":
        return key("Enter", 13, "\r")
    return []


def place(x: float | None, y: float | None, width: int, height: int) -> tuple[float, float]:
    """Return a point in CSS pixels, at least half a pixel inside of the viewport."""
    if x is None or y is None:
        raise ValueError(f"a touch needs a place, not ({x}, {y})")
    return min(max(x * width, 0.5), width - 0.5), min(max(y * height, 0.5), height - 0.5)


def stroke(start: tuple[float, float], end: tuple[float, float]) -> Iterator[tuple[int, tuple[float, float]]]:
    """Yield times and points of a straight swipe."""
    for move in range(MOVES + 1):
        part = move / MOVES
        yield move * SWIPE // MOVES, (start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1]))


def touch(points: list[tuple[int, tuple[float, float] | None]]) -> list[Event]:
    """Return the touch events of one finger, from its times and points; None = it lifts."""
    result = []
    for index, (at, point) in enumerate(points):
        kind = "touchEnd" if point is None else "touchMove" if index else "touchStart"
        finger = [] if point is None else [{"x": point[0], "y": point[1], "radiusX": 1, "radiusY": 1}]
        result.append(Event(at, "Input.dispatchTouchEvent", {"type": kind, "touchPoints": finger}))
    return result


def typed(character: str) -> list[Event]:
    """Return the events of a typed character: key events where a keyboard has the key, so that pages hear it."""
    if character == "\n":
        return key("Enter", 13, "\r")
    if character == "\t":
        return key("Tab", 9)
    if not (character.isascii() and character.isprintable()):
        return [Event(0, "Input.insertText", {"text": character})]
    # Key codes of punctuation are not its ASCII codes: 46 is Delete, not a full stop.
    code = ord(character.upper()) if character.isalnum() or character == " " else 0
    return key(character, code, character)


def key(name: str, code: int, text: str = "") -> list[Event]:
    """Return the events of a key that is pressed and released."""
    params = {"key": name, "windowsVirtualKeyCode": code}
    down = {**params, "type": "keyDown" if text else "rawKeyDown", **({"text": text} if text else {})}
    return [Event(0, "Input.dispatchKeyEvent", event) for event in (down, {**params, "type": "keyUp"})]
