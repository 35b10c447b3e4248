"""What one decision did, and the small callables that a task's reward is a list of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

REACH = 52.0  # map units, centre to centre: a player who walks into a thing from any side gets at least this near


@dataclass(frozen=True)
class Step:
    """What one decision did; all that rewards and success rules may look at."""

    target: str  # the context's, in words
    tics: int  # game tics that it took
    points: float  # given by the scenario's own script
    total_points: float  # since the reset
    died: bool
    left: bool  # out of the map alive, which the scripts of some scenarios do on success
    last: bool  # the horizon is reached
    reached: str = ""  # the kind of the thing within REACH
    defeated: tuple[str, ...] = ()  # the kinds of the monsters that fell
    all_defeated: tuple[str, ...] = ()  # since the reset
    nearer: float = 0.0  # map units gained towards the target


Rule: TypeAlias = Callable[[Step], bool]
Reward: TypeAlias = Callable[[Step], float]


def points(scale: float = 1.0) -> Reward:
    """The scenario's own points."""
    return lambda step: scale * step.points


def each_tic(amount: float) -> Reward:
    return lambda step: amount * step.tics


def each_decision(amount: float) -> Reward:
    return lambda step: amount


def death(amount: float) -> Reward:
    return lambda step: amount * step.died


def reaching(target: float, other: float) -> Reward:
    """Paid when the player reaches a thing."""
    return lambda step: 0.0 if not step.reached else target if step.reached == step.target else other


def defeating(target: float, other: float) -> Reward:
    """Paid for every monster that falls."""
    return lambda step: sum(target if kind == step.target else other for kind in step.defeated)
