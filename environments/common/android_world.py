"""The actions of AndroidWorld, as the dictionaries of its JSONAction.

    {"action_type": "click", "x": 540, "y": 1200}    {"action_type": "scroll", "direction": "down"}

Source: android_world/env/{json_action,actuation}.py of google-research/android_world at d9c569f. Coordinates are in
pixels.
The conversion to and from it is not exact:

- AndroidWorld scrolls from the middle of the screen, or swipes across the whole screen, in one of four directions. A
  swipe becomes a scroll in the direction of its longer side; its start and length are lost.
- AndroidWorld presses the enter key after each text, and can touch the field first, so `input_text` becomes up to three
  actions.
- Double taps, opening an app by its name and clearing a field have no counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .screen_actions import MalformedAction, ScreenAction, UnsupportedAction, coordinate, pixel, shorten

Size = tuple[int, int]  # width and height of the screen in pixels
Box = tuple[float, float, float, float]  # left, top, right and bottom of an element in pixels

TOUCHES = {"click": "tap", "long_press": "long_press"}
PLAIN = {"navigate_back": "back", "navigate_home": "home", "keyboard_enter": "enter"}
STATUS = {"complete": "complete", "infeasible": "impossible"}  # by goal_status
UNSUPPORTED = {
    "double_tap": "a double tap has no counterpart; two taps may be too far apart in time",
    "open_app": "go to the home screen and tap the icon of the app instead",
}

# Start and end of the finger on the whole screen, as actuation.py moves it. A scroll moves the finger against its
# direction; "left" and "right" of a swipe name the edge where the finger starts.
SCROLLS = {
    "down": (0.5, 0.5, 0.5, 0.0),
    "up": (0.5, 0.5, 0.5, 1.0),
    "right": (0.5, 0.5, 0.0, 0.5),
    "left": (0.5, 0.5, 1.0, 0.5),
}
SWIPES = {
    "down": (0.5, 0.0, 0.5, 1.0),
    "up": (0.5, 1.0, 0.5, 0.0),
    "left": (0.0, 0.5, 1.0, 0.5),
    "right": (1.0, 0.5, 0.0, 0.5),
}


def to_json_action(action: ScreenAction, size: Size) -> dict[str, Any]:
    """Return the arguments of the JSONAction of an action.

    Args:
        action: The action.
        size: Width and height of the screen in pixels.

    Returns:
        A dict for JSONAction(**result) and for json.dumps.
    """
    for name, kind in {**TOUCHES, **PLAIN}.items():
        if action.type == kind:
            return {"action_type": name, **pixels(action, size)}
    for status, kind in STATUS.items():
        if action.type == kind:
            return {"action_type": "status", "goal_status": status}
    if action.type == "swipe":
        return {"action_type": "scroll", "direction": scroll_direction(action, size)}
    return {"action_type": "answer" if action.type == "answer" else "input_text", "text": action.text}


def from_json_action(
    values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None = None
) -> tuple[ScreenAction, ...]:
    """Return the actions of a JSONAction.

    Args:
        values: Its fields; fields that are None count as absent.
        size: Width and height of the screen in pixels.
        boxes: Boxes of the elements on the screen, to which `index` refers, as (left, top, right, bottom) in pixels.
            None = an `index` is refused.

    Returns:
        One action; none for "wait"; for "input_text" a tap if it has a place, the text, and the enter key.

    Raises:
        UnsupportedAction: A double tap, an app to open, a field to clear, or an element without `boxes`.
        MalformedAction: Anything else that is not a JSONAction for this screen.
    """
    if not isinstance(values, Mapping):
        raise MalformedAction(f"a JSONAction is a dict, not {shorten(values)}")
    kind = values.get("action_type")
    if not isinstance(kind, str) or kind not in {*TOUCHES, *PLAIN, *UNSUPPORTED, *OTHERS}:
        raise MalformedAction(f"{shorten(kind)} is not an action_type of AndroidWorld")
    if kind in UNSUPPORTED:
        raise UnsupportedAction(f"cannot convert {kind}: {UNSUPPORTED[kind]}")
    if kind in TOUCHES:
        return (ScreenAction(TOUCHES[kind], *place(values, size, boxes)),)  # type: ignore[arg-type]
    if kind in PLAIN:
        return (ScreenAction(PLAIN[kind]),)  # type: ignore[arg-type]
    return OTHERS[kind](values, size, boxes)


def pixels(action: ScreenAction, size: Size) -> dict[str, int]:
    """Return the pixel of a touch as {"x": .., "y": ..}; {} for an action without a point."""
    if action.x is None or action.y is None:
        return {}
    return {"x": pixel(action.x, size[0]), "y": pixel(action.y, size[1])}


def scroll_direction(action: ScreenAction, size: Size) -> str:
    """Return the direction in which the content scrolls, which is opposite to the movement of the finger."""
    x, y, to_x, to_y = (float(getattr(action, field)) for field in ("x", "y", "to_x", "to_y"))
    right, down = (to_x - x) * size[0], (to_y - y) * size[1]
    if abs(right) > abs(down):
        return "left" if right > 0 else "right"
    return "up" if down > 0 else "down"


def place(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[float, float]:
    """Return the point of an action with `x` and `y`, or the centre of the element with `index`."""
    if values.get("index") is not None:
        left, top, right, bottom = element(values["index"], boxes)
        x, y = int((left + right) / 2), int((top + bottom) / 2)  # as actuation.py
        return on_screen(x, size[0], "x"), on_screen(y, size[1], "y")
    return on_screen(values.get("x"), size[0], "x"), on_screen(values.get("y"), size[1], "y")


def on_screen(value: Any, size: int, name: str) -> float:
    """Return the coordinate of a pixel, which must be on the screen."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < size:
        raise MalformedAction(f"{name} = {shorten(value)} is not a pixel of the screen, 0 to {size - 1}")
    return coordinate(int(value), size)


def element(index: Any, boxes: Sequence[Box] | None) -> Box:
    """Return the box of the element with a number."""
    if boxes is None:
        raise UnsupportedAction(
            f"the action refers to element {shorten(index)} of a list of elements; pass their boxes, or use x and y"
        )
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(boxes):
        raise MalformedAction(f"there is no element {shorten(index)}; the screen has {len(boxes)} elements, from 0 on")
    return boxes[index]


def scroll(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return the swipe of a scroll on the screen or, with `index`, on an element."""
    x, y, to_x, to_y = movement(values, SCROLLS)
    if values.get("index") is None:
        return (ScreenAction("swipe", x, y, to_x, to_y),)
    left, top, right, bottom = element(values["index"], boxes)
    horizontal = (min(max(left + v * (right - left), 0), size[0]) / size[0] for v in (x, to_x))
    vertical = (min(max(top + v * (bottom - top), 0), size[1]) / size[1] for v in (y, to_y))
    (x, to_x), (y, to_y) = horizontal, vertical
    return (ScreenAction("swipe", x, y, to_x, to_y),)


def swipe(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return the swipe across the whole screen."""
    return (ScreenAction("swipe", *movement(values, SWIPES)),)


def movement(
    values: Mapping[str, Any], table: Mapping[str, tuple[float, float, float, float]]
) -> tuple[float, float, float, float]:
    """Return start and end of the finger for the action's direction."""
    direction = values.get("direction")
    if not isinstance(direction, str) or direction not in table:
        raise MalformedAction(f"direction must be one of {', '.join(table)}, not {shorten(direction)}")
    return table[direction]


def input_text(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return a tap if the action has a place, the text, and the enter key; as AndroidWorld, nothing without a text."""
    if values.get("clear_text"):
        raise UnsupportedAction("cannot convert input_text with clear_text; clear the field with taps")
    if values.get("text") in (None, ""):
        return ()
    has_place = any(values.get(name) is not None for name in ("index", "x", "y"))
    taps = (ScreenAction("tap", *place(values, size, boxes)),) if has_place else ()
    return (*taps, ScreenAction("type", text=values["text"]), ScreenAction("enter"))


def answer(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return the answer."""
    return (ScreenAction("answer", text=values.get("text")),)


def status(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return the end of the episode, done or impossible."""
    goal_status = values.get("goal_status")
    if not isinstance(goal_status, str) or goal_status not in STATUS:
        raise MalformedAction(f"goal_status must be one of {', '.join(STATUS)}, not {shorten(goal_status)}")
    return (ScreenAction(STATUS[goal_status]),)  # type: ignore[arg-type]


def wait(values: Mapping[str, Any], size: Size, boxes: Sequence[Box] | None) -> tuple[ScreenAction, ...]:
    """Return no action."""
    return ()


OTHERS = {
    "scroll": scroll,
    "swipe": swipe,
    "input_text": input_text,
    "answer": answer,
    "status": status,
    "wait": wait,
}
