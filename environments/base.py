"""Helpers that all environments share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Demonstration:
    """A recorded episode that an environment can play again.

    An environment with demonstrations has `demonstrations(path)`, an iterator of these, and `begin(env, start)`, which
    is called after a reset and returns (observation, info) of the demonstration's own start.

    Args:
        start: Where it begins, as `begin` takes it.
        actions: Elements of the action space.
        problem: Why this environment cannot play it, such as an action that it lacks; "" if it can.
    """

    start: Any
    actions: tuple[Any, ...]
    problem: str = ""


def row(tasks: Mapping[str, Row], name: str, environment: str) -> Row:
    """Return the row of TASKS for a name; ValueError with the nearest name if there is none."""
    if name not in tasks:
        close = get_close_matches(name, tasks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name!r} is not a task of {environment}.{hint} Known tasks: {', '.join(tasks)}.")
    return tasks[name]
