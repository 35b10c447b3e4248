"""Helpers that all environments share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

Row = TypeVar("Row")


class UserError(ValueError):
    """Error for a mistake that the user can correct, such as an option that does not suit the task.

    The command line prints its message without a traceback. Every other exception counts as a defect.
    """


@dataclass(frozen=True)
class Demonstration:
    """Recorded episode that an environment can replay.

    An environment module with demonstrations has `demonstrations(path)`, which iterates over them, and
    `begin(env, start)`. After a reset, `begin` moves the environment to the start of a demonstration and returns
    (observation, info).

    Args:
        start: The start of the episode, an argument of `begin`.
        actions: The actions, elements of the action space.
        problem: Why the environment cannot replay it, such as an unknown action; "" = it can.
    """

    start: Any
    actions: tuple[Any, ...]
    problem: str = ""


def row(tasks: Mapping[str, Row], name: str, environment: str) -> Row:
    """Return the row of TASKS for a task.

    Args:
        tasks: The TASKS of an environment.
        name: The name of the task.
        environment: The environment's name, for the error message.

    Raises:
        UserError: If there is no such task; the message suggests the nearest name.
    """
    if name not in tasks:
        hint = did_you_mean(name, tasks)
        raise UserError(f"{name!r} is not a task of {environment}.{hint} Known tasks: {', '.join(tasks)}.")
    return tasks[name]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the most similar name, for an error message; "" if none is similar.

    Args:
        name: The name that does not exist.
        names: The names that exist.
    """
    close = get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
