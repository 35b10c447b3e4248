"""MineCLIP's shaped rewards (MineDojo/MineCLIP, mineclip/dense_reward), as sums of parts; Python 3.9, no imports."""

from __future__ import annotations

import math


class Attack:
    """1 for a hit, which wears the weapon by exactly one; more is a weapon that was lost."""

    def __init__(self, durability: float) -> None:
        self._durability = durability

    def __call__(self, durability: float) -> float:
        """durability: of what is in the main hand now."""
        worn, self._durability = self._durability - durability, durability
        return float(worn == 1)


class Approach:
    """Blocks by which the target in sight came nearer than it was ever seen before; never negative."""

    def __init__(self, distance: float | None) -> None:
        """distance: to the nearest target in sight at the reset, in blocks; None = none, so the first sight is free."""
        self._before = 0.0 if distance is None else distance
        self._nearest = math.inf if distance is None else distance

    def __call__(self, distance: float | None, hit: bool) -> float:
        """distance: now, None = none in sight; hit: whether it was just hit, as it runs away then and may be chased."""
        gained = 0.0
        if distance is not None:
            self._nearest = min(self._nearest, distance)
            gained, self._before = max(0.0, self._before - self._nearest), self._nearest
        if hit:
            self._nearest = math.inf
        return gained
