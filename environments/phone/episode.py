"""Episodes of the phone, drawn from a seed: a template, its parameters and the state at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from ..base import UserError
from .generate import random_look, random_state
from .splits import Split, SplitBy, has_goal
from .state import Document
from .template import Template

ATTEMPTS = 1000  # to draw an instruction of the right side of a split


@dataclass(frozen=True)
class Episode:
    """The task of an episode, the name of its template, and the state at the start."""

    name: str
    task: Template
    before: Document


def draw_episode(
    templates: Mapping[str, type[Template]],
    seed: int,
    *,
    split: Split = "train",
    by: SplitBy = "seed",
    varied: bool = True,
) -> Episode:
    """Draw an episode, which the arguments determine.

    Args:
        templates: The templates of this side of the split, by name.
        seed: The seed of the episode.
        split: The side of the split.
        by: What the two sides do not have in common, see splits.py.
        varied: Whether the look of the phone is random too.

    Raises:
        UserError: The templates have no instruction on this side.
    """
    rng = Random(f"{split}/{seed}")
    for _ in range(ATTEMPTS):
        name = rng.choice(sorted(templates))
        state = random_state(rng, random_look(rng) if varied else None)
        task = templates[name](state, rng)
        if has_goal(task.goal, split, by):
            return Episode(name, task, state)
    raise UserError(
        f"none of {ATTEMPTS} instructions of {', '.join(templates)} is in the split {split!r} with split_by={by}; use "
        "more templates, or split_by=seed"
    )
