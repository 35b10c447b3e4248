"""Splits of the episodes into training and evaluation, without any overlap.

    seed       the same templates; the two sides draw different parameters and states from the same seed
    goal       no instruction of one side is an instruction of the other
    template   no template of one side is a template of the other, nor has one of its instructions
    app        no template of the training side uses one of EVALUATION_APPS; all of the other side do

The side of a template or an instruction depends on its text alone, so a new template changes no other one's side.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Literal, TypeAlias, get_args

from ..base import UserError
from .template import Template

Split: TypeAlias = Literal["train", "evaluation"]
SplitBy: TypeAlias = Literal["seed", "goal", "template", "app"]

EVALUATION_APPS = ("Expenses", "Files", "Tasks")
SHARE = 0.3  # of the texts, on the side of evaluation


def templates_of(templates: Mapping[str, type[Template]], split: Split, by: SplitBy) -> dict[str, type[Template]]:
    """Return the templates of one side.

    Args:
        templates: All templates by name.
        split: The side.
        by: What the two sides do not have in common.

    Raises:
        UserError: The split is unknown, or no template is on this side.
    """
    if split not in get_args(Split):
        raise UserError(f"{split!r} is not a split: {' or '.join(get_args(Split))}")
    chosen = {name: cls for name, cls in templates.items() if _has_template(cls, split, by)}
    if not chosen:
        raise UserError(
            f"with split_by={by}, none of {', '.join(templates)} is in the split {split!r}; use a larger set of "
            "templates, or split_by=seed"
        )
    return chosen


def has_goal(goal: str, split: Split, by: SplitBy) -> bool:
    """Return whether an instruction belongs to a side.

    Args:
        goal: The instruction.
        split: The side.
        by: What the two sides do not have in common.
    """
    return by != "goal" or side_of(goal) == split


def side_of(text: str) -> Split:
    """Return the side of a text."""
    digest = blake2b(text.encode(), digest_size=4).digest()
    return "evaluation" if int.from_bytes(digest, "big") < SHARE * 2**32 else "train"


def _has_template(cls: type[Template], split: Split, by: SplitBy) -> bool:
    if by == "template":
        return side_of(cls.text) == split
    if by == "app":
        return (split == "evaluation") == any(app in EVALUATION_APPS for app in cls.apps)
    one_goal = "{" not in cls.text
    return by == "seed" or not one_goal or side_of(cls.text) == split
