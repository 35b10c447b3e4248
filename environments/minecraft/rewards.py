"""MineCLIP's shaped rewards (MineDojo/MineCLIP, mineclip/dense_reward), as sums of parts; Python 3.9, no imports."""

from __future__ import annotations

import math


class Attack:
    """Returns 1 for a hit, which reduces the weapon's durability by exactly 1; a larger change is a lost weapon."""

    def __init__(self, durability: float) -> None:
        self._durability = durability

    def __call__(self, durability: float) -> float:
        """Update with the durability of the item in the main hand."""
        wear, self._durability = self._durability - durability, durability
        return float(wear == 1)


class Approach:
    """Returns the decrease in blocks of the smallest distance to a visible target so far; never negative."""

    def __init__(self, distance: float | None) -> None:
        """Start with the distance at the reset in blocks; None = no target visible: its first sight earns 0."""
        self._before = 0.0 if distance is None else distance
        self._nearest = math.inf if distance is None else distance

    def __call__(self, distance: float | None, hit: bool) -> float:
        """Update with the distance (None = none visible); a target flees after a hit, so its distance restarts."""
        gained = 0.0
        if distance is not None:
            self._nearest = min(self._nearest, distance)
            gained, self._before = max(0.0, self._before - self._nearest), self._nearest
        if hit:
            self._nearest = math.inf
        return gained
