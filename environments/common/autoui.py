"""The action strings of Auto-UI as DigiRL's released code prints and parses them.

    "action_type": "DUAL_POINT", "touch_point": "[0.8000, 0.5000]", "lift_point": "[0.2000, 0.5000]", "typed_text": ""

Source: digirl/environment/android/{autoui_utils,env}.py of DigiRL-agent/digirl at c74ec34. Points are [y, x] with four
decimals. A DUAL_POINT is a tap if its points are less than the square root of 10 pixels apart, otherwise a swipe.

The released code has these limits:

- It has no long press and no answer: `to_autoui` raises UnsupportedAction.
- Its parser splits at ", " and ": ", so it refuses a typed text with ", ", and cuts one with ": " or with quotes at its
  ends. `from_autoui` does the same.
- It prints an impossible task as STATUS_TASK_COMPLETE in the history of actions, but parses TASK_IMPOSSIBLE.
- Where `from_autoui` raises MalformedAction, the released environment ends the episode (if the string has not six
  parts) or does nothing (if a part is wrong).
"""

from __future__ import annotations

from collections.abc import Sequence

from .screen_actions import MalformedAction, ScreenAction, UnsupportedAction, shorten

SCREEN = (1080, 2280)  # width and height in pixels of the emulated phone in DigiRL
TAP_LIMIT = 10.0  # squared distance in pixels below which a DUAL_POINT is a tap
MARK = "Action Decision: "  # in a response of the policy, before the action
NO_POINT = "[-1.0, -1.0]"

# Types without points, and their names. TASK_IMPOSSIBLE is what the parser reads.
NAMES = {
    "type": "TYPE",
    "back": "PRESS_BACK",
    "home": "PRESS_HOME",
    "enter": "PRESS_ENTER",
    "complete": "STATUS_TASK_COMPLETE",
    "impossible": "TASK_IMPOSSIBLE",
}
TYPE_OF_NAME = {name: action for action, name in NAMES.items()}


def to_autoui(action: ScreenAction, size: tuple[int, int] = SCREEN) -> str:
    """Return the string of an action, without the mark and the action plan that the policy writes before it.

    Args:
        action: The action. The released parser may read another text than `action.text`; see above.
        size: Width and height of the screen in pixels.

    Raises:
        UnsupportedAction: A long press or an answer, or a swipe so short that the string means a tap.
    """
    if action.type in ("tap", "swipe"):
        touch = lift = format_point(action.x, action.y)
        if action.type == "swipe":
            lift = format_point(action.to_x, action.to_y)
            if is_tap(parse_point(f"touch: {touch}"), parse_point(f"lift: {lift}"), size):
                raise UnsupportedAction(f"{action} is so short that Auto-UI's string means a tap")
        return join("DUAL_POINT", touch, lift, "")
    if action.type not in NAMES:
        raise UnsupportedAction(f"Auto-UI has no {action.type}")
    return join(NAMES[action.type], NO_POINT, NO_POINT, action.text or "")


def to_autoui_history(action: ScreenAction, size: tuple[int, int] = SCREEN) -> str:
    """Return the string of an action as the policy's prompt has it: an impossible task is printed as complete.

    Args:
        action: The action.
        size: Width and height of the screen in pixels.

    Raises:
        UnsupportedAction: As in `to_autoui`.
    """
    return to_autoui(ScreenAction("complete") if action.type == "impossible" else action, size)


def autoui_prompt(goal: str, actions: Sequence[ScreenAction], size: tuple[int, int] = SCREEN) -> str:
    """Return the prompt of DigiRL's policy: the last action and the goal.

    Args:
        goal: The instruction.
        actions: The actions of the episode so far; only the last one is used.
        size: Width and height of the screen in pixels.
    """
    last = "".join(f"{to_autoui_history(action, size)} " for action in actions[-1:])
    return f"Previous Actions: {last}Goal: {goal}</s>"


def from_autoui(text: str, size: tuple[int, int] = SCREEN) -> ScreenAction:
    """Read an action string.

    Args:
        text: A response of the policy, of which the part behind "Action Decision: " counts, or that part alone.
        size: Width and height of the screen in pixels.

    Raises:
        MalformedAction: The released parser reads no action from the string, or a point is outside the screen.
    """
    pieces = text.split(MARK)
    parts = (pieces[1] if len(pieces) > 1 else text).split(", ")
    if len(parts) != 6:
        raise MalformedAction(f"{shorten(text)} has {len(parts)} parts separated by ', ' instead of Auto-UI's 6")
    name = value_of(parts[0]).strip('"')
    if name == "DUAL_POINT":
        (y, x), (to_y, to_x) = (parse_point(", ".join(pair)) for pair in (parts[1:3], parts[3:5]))
        tap = is_tap((y, x), (to_y, to_x), size)
        return ScreenAction("tap", x, y) if tap else ScreenAction("swipe", x, y, to_x, to_y)
    if name not in TYPE_OF_NAME:
        raise MalformedAction(f"{shorten(name)} is not an action of Auto-UI: DUAL_POINT, {', '.join(TYPE_OF_NAME)}")
    if name == "TYPE":
        return ScreenAction("type", text=value_of(parts[5]).strip('"'))
    return ScreenAction(TYPE_OF_NAME[name])  # type: ignore[arg-type]


def join(name: str, touch: str, lift: str, text: str) -> str:
    """Return the string with these four values."""
    return f'"action_type": "{name}", "touch_point": "{touch}", "lift_point": "{lift}", "typed_text": "{text}"'


def format_point(x: float | None, y: float | None) -> str:
    """Return a point as Auto-UI writes it, such as "[0.2500, 0.5000]" for y = 0.25 and x = 0.5."""
    return f"[{y:.4f}, {x:.4f}]"


def parse_point(part: str) -> tuple[float, float]:
    """Read (y, x) from a part such as '"touch_point": "[0.2500, 0.5000]"'."""
    try:
        y, x = (float(number) for number in value_of(part).strip('[]"').split(", "))
    except ValueError as error:
        raise MalformedAction(f"{shorten(part)} is not a point such as {format_point(0.5, 0.25)}") from error
    return y, x


def value_of(part: str) -> str:
    """Return what is between the first and the second ": " of a part."""
    pieces = part.split(": ")
    if len(pieces) < 2:
        raise MalformedAction(f"{shorten(part)} has no value behind ': '")
    return pieces[1]


def is_tap(touch: tuple[float, float], lift: tuple[float, float], size: tuple[int, int]) -> bool:
    """Return whether two points (y, x) are less than the square root of 10 pixels apart."""
    width, height = size
    down, right = (lift[0] - touch[0]) * height, (lift[1] - touch[1]) * width
    return right * right + down * down < TAP_LIMIT
