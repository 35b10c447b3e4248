"""The user of the scripted solutions: finds elements by name on the screen, and touches and types.

A user sees what `phone.elements()` lists, never the state. The methods are generators of actions, so a script writes
`yield from user.tap("Contacts/New contact")`; after each action the screen is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

from ..common.screen_actions import ScreenAction

Actions: TypeAlias = Iterator[ScreenAction]

MARGIN = 7  # CSS pixels between the end of a slider and a tap, so that a policy with heads does not miss it
SWIPES = 12  # in each direction, before an element counts as missing


class NotOnScreen(RuntimeError):
    """Error of a script that does not find an element."""


@dataclass(frozen=True)
class Element:
    """What `phone.elements()` says about one element: its box is (x0, y0, x1, y1) in CSS pixels."""

    name: str
    role: str
    text: str
    box: tuple[float, float, float, float]
    value: Any
    visible: bool = True


class User:
    """User who follows a script.

    Args:
        read: Returns the elements on the screen now.
        width: Width of the screen in CSS pixels.
        height: Height of the screen in CSS pixels.
    """

    def __init__(self, read: Callable[[], list[Element]], width: int, height: int) -> None:
        self._read, self._width, self._height = read, width, height

    def elements(self) -> list[Element]:
        """Return what is on the screen now."""
        return self._read()

    def find(self, name: str) -> Element | None:
        """Return the element of a name, or None if it is not on the screen.

        Args:
            name: The name, such as "Contacts/New contact"; a name that ends with "*" fits all that begin so.
        """
        for element in self.elements():
            if element.name == name or (name.endswith("*") and element.name.startswith(name[:-1])):
                return element
        return None

    def open(self, app: str) -> Actions:
        """Go to the home screen and open an app."""
        if not self.find("launcher/*"):
            yield ScreenAction("home")
        yield from self.tap(f"launcher/{app}")

    def tap(self, name: str) -> Actions:
        """Tap an element, after scrolling to it if it is not on the screen."""
        yield from self.scroll_to(name)
        yield self._touch("tap", self._need(name))

    def long_press(self, name: str) -> Actions:
        """Press an element for long, after scrolling to it."""
        yield from self.scroll_to(name)
        yield self._touch("long_press", self._need(name))

    def type(self, field: str, text: str) -> Actions:
        """Tap a field and type a text at the end of what it contains."""
        yield from self.tap(field)
        yield ScreenAction("type", text=text)

    def enter(self, field: str, text: str) -> Actions:
        """Tap a field, type a text and press enter."""
        yield from self.type(field, text)
        yield ScreenAction("enter")

    def replace(self, field: str, text: str) -> Actions:
        """Tap a field, clear it and type a text."""
        yield from self.tap(field)
        if self._need(field).value:
            yield from self.long_press("keyboard/backspace")
        yield ScreenAction("type", text=text)

    def choose(self, app: str, field: str, option: str) -> Actions:
        """Choose an option for a field in the dialog that it opens."""
        yield from self.tap(f"{app}/{field}")
        yield from self.tap(f"{app}/dialog/{option}")

    def pick_time(self, app: str, field: str, time: str) -> Actions:
        """Choose a time such as "15:30" for a field in the dialog that it opens."""
        hour, minute = time.split(":")
        yield from self.choose(app, field, hour)
        yield from self.tap(f"{app}/dialog/{minute}")
        yield from self.tap(f"{app}/dialog/OK")

    def pick_date(self, app: str, field: str, day: str) -> Actions:
        """Choose a date such as "2023-10-15", not before the present one, for a field in the dialog that it opens."""
        yield from self.tap(f"{app}/{field}")
        yield from self.show_month(f"{app}/dialog/", day)
        yield from self.tap(f"{app}/dialog/{int(day[8:])}")
        yield from self.tap(f"{app}/dialog/OK")

    def show_month(self, prefix: str, day: str) -> Actions:
        """Turn the pages of a calendar to the month of a date.

        Args:
            prefix: The names of its elements up to the last part, such as "Calendar/".
            day: The date, which is not before the month on the screen.
        """
        month = date.fromisoformat(day)
        for _ in range(SWIPES):
            if self.find(f"{month:%B %Y}") or self.find(f"{month:%b %Y}"):
                return
            yield from self.tap(f"{prefix}Next month")
        self._need(f"{month:%B %Y}")

    def slide(self, name: str, part: float) -> Actions:
        """Tap a slider at a part of its length, 0 = left end."""
        yield from self.scroll_to(name)
        x0, y0, x1, y1 = self._need(name).box
        x = x0 + MARGIN + part * (x1 - x0 - 2 * MARGIN)
        yield ScreenAction("tap", x=x / self._width, y=(y0 + y1) / 2 / self._height)

    def scroll_to(self, name: str) -> Actions:
        """Scroll until an element is on the screen: first down, then up."""
        for y, to_y in ((0.75, 0.35), (0.35, 0.75)):
            for _ in range(SWIPES):
                if self.find(name):
                    return
                if self.find("keyboard/*"):  # it may hide the element
                    yield ScreenAction("back")
                    continue
                before = self.elements()
                yield ScreenAction("swipe", x=0.5, y=y, to_x=0.5, to_y=to_y)
                if self.elements() == before:  # the end of the list
                    break
        self._need(name)

    def back(self) -> Actions:
        """Go back to the previous screen."""
        yield ScreenAction("back")

    def _need(self, name: str) -> Element:
        element = self.find(name)
        if element is None:
            names = ", ".join(item.name for item in self.elements() if item.role != "text")
            raise NotOnScreen(f"{name!r} is not on the screen, which has {names}")
        return element

    def _touch(self, kind: Any, element: Element) -> ScreenAction:
        x0, y0, x1, y1 = element.box
        return ScreenAction(kind, x=(x0 + x1) / 2 / self._width, y=(y0 + y1) / 2 / self._height)
