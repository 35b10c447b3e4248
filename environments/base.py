"""Helpers that all environments share."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Row = TypeVar("Row")


def row(tasks: Mapping[str, Row], name: str, environment: str) -> Row:
    """Return the row of TASKS for a name; ValueError with the nearest name if there is none."""
    if name not in tasks:
        close = get_close_matches(name, tasks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name!r} is not a task of {environment}.{hint} Known tasks: {', '.join(tasks)}.")
    return tasks[name]
