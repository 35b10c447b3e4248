"""A finger on a screen: the gestures that its touches make; Python >= 3.10, standard library only."""

from __future__ import annotations

from ..common.screen_actions import ScreenAction, coordinate

SLOP = 0.02  # of the width: a finger that moves less stays where it is
LONG = 0.4  # seconds from which a touch is a long press, as in Android


class Finger:
    """The path of a finger while it touches a screen."""

    def __init__(self) -> None:
        self._path: list[tuple[int, int]] = []
        self._held = 0.0

    @property
    def down(self) -> bool:
        """Whether the finger touches the screen."""
        return bool(self._path)

    def move(self, x: int, y: int, down: bool, width: int, height: int) -> ScreenAction | None:
        """Move the finger, and return the gesture that ends when it leaves the screen, else None.

        Args:
            x: Column of the pixel.
            y: Row of the pixel.
            down: Whether the finger touches the screen.
            width: Width of the screen in pixels.
            height: Height of the screen in pixels.
        """
        if down:
            self._path.append((x, y))
            return None
        if not self._path:
            return None
        path, held = [*self._path, (x, y)], self._held
        self._path, self._held = [], 0.0
        return gesture(path, held, width, height)

    def wait(self, seconds: float) -> None:
        """Let time pass, which matters while the finger touches the screen.

        Args:
            seconds: The time.
        """
        if self._path:
            self._held += seconds


def gesture(path: list[tuple[int, int]], held: float, width: int, height: int) -> ScreenAction:
    """Return the action that the path of a finger means.

    Args:
        path: Pixels (x, y) from the touch to the lift.
        held: Seconds between them.
        width: Width of the screen in pixels.
        height: Height of the screen in pixels.
    """
    (x, y), (to_x, to_y) = ((coordinate(x, width), coordinate(y, height)) for x, y in (path[0], path[-1]))
    if max(abs(to_x - x), abs(to_y - y) * height / width) > SLOP:
        return ScreenAction("swipe", x, y, to_x, to_y)
    return ScreenAction("long_press" if held >= LONG else "tap", x, y)
