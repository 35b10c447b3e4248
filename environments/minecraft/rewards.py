"""MineCLIP's shaped rewards (MineDojo/MineCLIP, mineclip/dense_reward), as sums of parts; Python 3.9, no imports."""

from __future__ import annotations

import math


class Attack:
    """Reward term that is 1 for a hit, detected as wear of the weapon.

    A hit reduces the durability of the weapon by exactly 1. A larger change means that the weapon was lost.

    Args:
        durability: The durability of the item in the main hand at the reset.
    """

    def __init__(self, durability: float) -> None:
        self._durability = durability

    def __call__(self, durability: float) -> float:
        """Return 1 if the last step was a hit, else 0.

        Args:
            durability: The durability of the item in the main hand after the step.
        """
        wear, self._durability = self._durability - durability, durability
        return float(wear == 1)


class Approach:
    """Reward term for approach: the decrease of the smallest distance so far to a visible target, in blocks.

    It is never negative.
    """

    def __init__(self, distance: float | None) -> None:
        """Begin an episode.

        Args:
            distance: The distance at the reset in blocks; None = no target is visible, and its first sight earns 0.
        """
        self._before = 0.0 if distance is None else distance
        self._nearest = math.inf if distance is None else distance

    def __call__(self, distance: float | None, hit: bool) -> float:
        """Return the approach in the last step.

        Args:
            distance: The distance after the step in blocks; None = no target is visible.
            hit: Whether the step was a hit. The target flees after a hit, so the smallest distance starts anew.
        """
        approach = 0.0
        if distance is not None:
            self._nearest = min(self._nearest, distance)
            approach, self._before = max(0.0, self._before - self._nearest), self._nearest
        if hit:
            self._nearest = math.inf
        return approach
