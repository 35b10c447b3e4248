"""Checks of action spaces that several algorithms share."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces


def discrete_count(space: spaces.Space[Any], algorithm: str) -> int:
    """The number of actions of a Discrete space that begins at 0; ValueError for another space."""
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"{algorithm} takes discrete actions only, not {space}")
    check_start(space, algorithm)
    return int(space.n)


def check_start(space: spaces.Space[Any], algorithm: str) -> None:
    """Raise ValueError for discrete actions that are not numbered from 0, as policies number them."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(
            f"{algorithm} numbers its actions from 0, but the environment's are {space}; "
            f"let it take Discrete({space.n}) and add {space.start} itself"
        )
