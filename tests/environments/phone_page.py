"""Opens the phone's page for tests, and does what a user does there: touches elements by name, and types."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pr2l.environments.browser import Page, PageSpec
from pr2l.environments.common.screen_actions import ScreenAction
from pr2l.environments.phone.static_data import WEB

WIDTH, HEIGHT = 360, 640
SPEC = PageSpec((WEB / "index.html").as_uri(), WIDTH, HEIGHT)
State = dict[str, Any]


class Phone:
    """A phone that shows a state.

    Args:
        page: The page of the driver.
        state: The state to start from.
    """

    def __init__(self, page: Page, state: State) -> None:
        self.page = page
        self.show(state)

    def show(self, state: State) -> None:
        self.page.evaluate(f"phone.setState({json.dumps(state)})")

    @property
    def state(self) -> State:
        state: State = self.page.evaluate("phone.getState()")
        return state

    @property
    def elements(self) -> list[dict[str, Any]]:
        elements: list[dict[str, Any]] = self.page.evaluate("phone.elements()")
        return elements

    def names(self) -> list[str]:
        return [element["name"] for element in self.elements]

    def at(self, name: str) -> tuple[float, float]:
        """Return the middle of an element, in 0..1."""
        named = {element["name"]: element["box"] for element in self.elements}
        assert name in named, f"no {name!r} among {sorted(named)}"
        x0, y0, x1, y1 = named[name]
        return (x0 + x1) / 2 / WIDTH, (y0 + y1) / 2 / HEIGHT

    def do(self, action: ScreenAction | str) -> NDArray[np.uint8]:
        """Do a step and return the frame after it.

        Args:
            action: An action, or a line: the name of an element to tap, "hold NAME", "type TEXT", "back", "home" or
                "enter".
        """
        if isinstance(action, str):
            action = self.action(action)
        if action.type in ("back", "home"):
            self.page.evaluate(f"phone.{action.type}()")
        self.page.begin(action)
        return self.page.finish()

    def action(self, line: str) -> ScreenAction:
        verb, _, rest = line.partition(" ")
        if line in ("back", "home", "enter"):
            return ScreenAction(line)  # type: ignore[arg-type]
        if verb == "type":
            return ScreenAction("type", text=rest)
        if verb == "hold":
            return ScreenAction("long_press", *self.at(rest))
        return ScreenAction("tap", *self.at(line))
