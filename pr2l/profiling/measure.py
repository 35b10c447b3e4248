"""One line of the table of speeds: a value with its interval, and its verdict on a goal.

[low, high] above the goal      reached
[low, high] below the goal      missed
the goal is inside              undecided; more rounds make the interval narrower
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pr2l.core.statistics import Estimate

OF_PRODUCT = "of the matrix product"  # unit of a share of the speed of a matrix product


def exact(value: float) -> Estimate:
    """Return a value without spread, such as a count."""
    return Estimate(value, value, value)


@dataclass(frozen=True)
class Unmeasured:
    """Something that a part could not measure, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Args:
        name: Name of the measurement.
        value: Median over the rounds with its interval; without bounds (-inf, inf) if there were too few rounds.
        unit: Unit of the value.
        goal: Minimum of the value, or its maximum if `below`; None = no goal.
        below: Whether smaller is better.
        labels: Values by which figures group measures, such as the batch size.
    """

    name: str
    value: Estimate
    unit: str
    goal: float | None = None
    below: bool = False
    labels: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Text that compares the interval with the goal; "" without a goal."""
        if self.goal is None:
            return ""
        worst, best = (self.value.high, self.value.low) if self.below else (self.value.low, self.value.high)
        sign = -1 if self.below else 1
        is_reached, is_possible = sign * worst >= sign * self.goal, sign * best >= sign * self.goal
        verdict = "reached" if is_reached else "undecided" if is_possible else "missed"
        return f"{verdict} ({'<=' if self.below else '>='} {self.goal:g})"

    @property
    def has_interval(self) -> bool:
        """Whether there were enough rounds for an interval."""
        return math.isfinite(self.value.low)

    def __str__(self) -> str:
        digits = 3 if abs(self.value.value) < 10 else 0
        middle, low, high = (f"{bound:,.{digits}f}" for bound in self.value)
        spread = "" if low == high else f" [{low}, {high}]" if self.has_interval else " (too few rounds)"
        return f"{middle}{spread} {self.unit}".strip()

    def as_json(self) -> dict[str, Any]:
        """Return the measure as JSON values."""
        low, high = (self.value.low, self.value.high) if self.has_interval else (None, None)
        values = {"name": self.name, "median": self.value.value, "low": low, "high": high, "unit": self.unit}
        return values | {"goal": self.goal, "verdict": self.verdict, "labels": dict(self.labels)}
