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


def factor_sizes(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Return the number of values of each factor of an action; a Discrete space has one factor.

    Args:
        space: Discrete or MultiDiscrete, from 0.

    Raises:
        UserError: The space is of another kind, or a factor does not begin at 0.
    """
    if isinstance(space, spaces.Discrete):
        check_start(space, "this algorithm")
        return (int(space.n),)
    if not isinstance(space, spaces.MultiDiscrete) or space.nvec.ndim != 1:
        raise UserError(f"this algorithm needs actions that are Discrete or MultiDiscrete with one row, not {space}")
    if space.start.any():
        raise UserError(f"this algorithm numbers the values of each factor from 0, but the action space is {space}")
    return tuple(int(size) for size in space.nvec)
