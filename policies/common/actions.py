"""Checks of action spaces that several algorithms share."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces

from ..base import UserError


def discrete_count(space: spaces.Space[Any], algorithm: str) -> int:
    """Return the number of actions of a Discrete space.

    Args:
        space: Action space.
        algorithm: Name of the algorithm, for the error message.

    Raises:
        UserError: The space is not Discrete, or its first action is not 0.
    """
    if not isinstance(space, spaces.Discrete):
        raise UserError(f"{algorithm} needs discrete actions, not {space}")
    check_start(space, algorithm)
    return int(space.n)


def check_start(space: spaces.Space[Any], algorithm: str) -> None:
    """Check that discrete actions begin at 0, because policies number actions from 0.

    Args:
        space: Action space; spaces other than Discrete pass.
        algorithm: Name of the algorithm, for the error message.

    Raises:
        UserError: The first action is not 0.
    """
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise UserError(
            f"{algorithm} numbers its actions from 0, but the action space is {space}; "
            f"use Discrete({space.n}), and add {space.start} in the environment's step"
        )
