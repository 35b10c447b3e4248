"""The outcome of a decision, and reward terms, whose sum is the reward of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

REACH = 52.0  # map units between centres: a player who walks into an object from any side gets at least this near


@dataclass(frozen=True)
class Step:
    """Outcome of one decision, the input of reward terms and success rules."""

    target: str  # the target of the context
    tics: int  # game tics of the decision
    points: float  # points that the scenario's script has awarded
    total_points: float  # points since the reset
    died: bool
    exited: bool  # the player has left the map alive, which is success in some scenarios
    last: bool  # the horizon is reached
    reached: str = ""  # the kind of the object within REACH; "" = none
    defeated: tuple[str, ...] = ()  # the kinds of the monsters that died
    all_defeated: tuple[str, ...] = ()  # the kinds of all monsters that have died since the reset
    nearer: float = 0.0  # map units of approach to the target


Rule: TypeAlias = Callable[[Step], bool]
Reward: TypeAlias = Callable[[Step], float]


def points(scale: float = 1.0) -> Reward:
    """Reward the points of the scenario's script.

    Args:
        scale: The reward per point.
    """
    return lambda step: scale * step.points


def each_tic(amount: float) -> Reward:
    """Reward every game tic.

    Args:
        amount: The reward per tic of 1/35 s.
    """
    return lambda step: amount * step.tics


def each_decision(amount: float) -> Reward:
    """Reward every decision.

    Args:
        amount: The reward per decision, of any number of tics.
    """
    return lambda step: amount


def death(amount: float) -> Reward:
    """Reward (or, if negative, punish) the player's death.

    Args:
        amount: The reward of the decision in which the player dies.
    """
    return lambda step: amount * step.died


def reaching(target: float, other: float) -> Reward:
    """Reward reaching an object.

    Args:
        target: The reward for an object of the target kind.
        other: The reward for any other object.
    """
    return lambda step: 0.0 if not step.reached else target if step.reached == step.target else other


def defeating(target: float, other: float) -> Reward:
    """Reward every monster that dies.

    Args:
        target: The reward for a monster of the target kind.
        other: The reward for any other monster.
    """
    return lambda step: sum(target if kind == step.target else other for kind in step.defeated)
