"""Touches and key events with which Android performs a screen action; Python >= 3.10, standard library only.

android_env moves one finger with actions of three types: TOUCH puts it at a point, LIFT takes it off the screen, REPEAT
changes nothing. So a tap is TOUCH and LIFT, a long press holds the finger with REPEATs in between, and a swipe is a
sequence of TOUCHes along a line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..common.screen_actions import ScreenAction

TOUCH, LIFT, REPEAT = 0, 1, 2  # android_env's action types

TAP = 0.05  # seconds of a tap; from 0.4 s on Android takes a touch as a long press
PRESS = 1.0  # seconds of a long press, as in AndroidWorld
HOLDS = 4  # REPEATs of a long press
SWIPE = 0.4  # seconds of a swipe; AndroidWorld swipes in 0.3 to 0.5 s
MOVES = 8  # TOUCHes of a swipe after the first one

KEYS = {"back": "KEYCODE_BACK", "home": "KEYCODE_HOME", "enter": "KEYCODE_ENTER"}  # names in `adb shell input keyevent`
LONGEST_TEXT = 200  # characters of one `adb shell input text`; longer commands can exceed adb's time limit


@dataclass(frozen=True)
class Touch:
    """One action of android_env's finger.

    Args:
        type: TOUCH, LIFT or REPEAT.
        x: Horizontal position, in 0..1 from the left edge; the position of a LIFT is where the finger leaves.
        y: Vertical position, in 0..1 from the top edge.
        seconds: Time until the next touch.
    """

    type: int
    x: float
    y: float
    seconds: float = 0.0


def touches(action: ScreenAction) -> list[Touch]:
    """Return the touches of a tap, a long press or a swipe; no touches for any other action.

    Args:
        action: The action.
    """
    if action.x is None or action.y is None:
        return []
    x, y = action.x, action.y
    if action.type == "tap":
        return [Touch(TOUCH, x, y, TAP), Touch(LIFT, x, y)]
    if action.type == "long_press":
        seconds = PRESS / (HOLDS + 1)
        holds = [Touch(REPEAT, x, y, seconds)] * HOLDS
        return [Touch(TOUCH, x, y, seconds), *holds, Touch(LIFT, x, y)]
    return list(_swipe(x, y, action.to_x or 0.0, action.to_y or 0.0))


def _swipe(x: float, y: float, to_x: float, to_y: float) -> Iterator[Touch]:
    for move in range(MOVES + 1):
        part = move / MOVES
        yield Touch(TOUCH, x + part * (to_x - x), y + part * (to_y - y), SWIPE / (MOVES + 1))
    yield Touch(LIFT, to_x, to_y)


def typing_commands(text: str) -> list[list[str]]:
    """Return the arguments of `adb shell` that type a text into the selected field.

    Android's `input text` knows only printable ASCII characters; all others are left out, see `untypable`. It reads %s
    as a space, and the device's shell reads quotes, so a text is quoted. Newlines become the enter key.

    Args:
        text: The text.

    Returns:
        A list of commands, in order; [] if nothing remains to be typed.
    """
    commands: list[list[str]] = []
    for number, line in enumerate(text.split("\n")):
        if number:
            commands.append(["input", "keyevent", KEYS["enter"]])
        typable = "".join(character for character in line if _is_typable(character))
        commands += [["input", "text", shlex.quote(part)] for part in _parts(typable)]
    return commands


def untypable(text: str) -> int:
    """Return the number of characters of a text that `typing_commands` leaves out.

    Args:
        text: The text.
    """
    return sum(not _is_typable(character) and character != "\n" for character in text)


def _is_typable(character: str) -> bool:
    return " " <= character <= "~"


def _parts(line: str) -> Iterator[str]:
    """Yield the parts of a line for `input text`, where a space is %s and a %s of the line itself is cut in two."""
    for start in range(0, len(line), LONGEST_TEXT):
        pieces = line[start : start + LONGEST_TEXT].split("%s")
        for number, piece in enumerate(pieces):
            whole = ("s" if number else "") + piece + ("%" if number < len(pieces) - 1 else "")
            if whole:
                yield whole.replace(" ", "%s")
