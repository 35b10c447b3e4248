"""The task of the Habitat environment."""

from __future__ import annotations

from dataclasses import dataclass

from .furniture import CATEGORIES, WORDS


@dataclass(frozen=True)
class Task:
    """Row of TASKS: the reward, the time limit and the success rule of a task.

    `horizon` is in steps (see the option of that name); `contexts` lists all contexts that can occur.
    """

    reward: str
    horizon: int
    success: str
    contexts: tuple[dict[str, str], ...]
    prompt: str = "found_here"  # default variant


TASKS: dict[str, Task] = {
    "objectnav": Task(
        reward="decrease of the geodesic distance to the goal in metres, +2.5 for success, -0.001 per step",
        horizon=500,
        success="stop less than 0.1 m from a view point, at most 1 m from an object of the named category",
        contexts=tuple({"target": WORDS[category]} for category in CATEGORIES),
    ),
}
