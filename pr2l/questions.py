"""Question-answer pairs about one frame, made from the simulator's labels: what `pr2l pretrain` teaches.

Only what a person could read off the frame is asked: presence, direction, distance, count, what is seen, what is at
the left. Never a reward, never an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("presence", "direction", "distance", "count", "seen", "left")
DIRECTIONS = ("far left", "left", "ahead", "right", "far right")  # five equal columns of the frame
DISTANCES = ("near", "middle", "far")
NEAR, FAR = 160.0, 320.0  # map units: below NEAR is near, above FAR is far
COUNTS = ("zero", "one", "two", "three", "many")
# A thing whose visible box covers less than this share of the frame (20 pixels of 160x120) is too small for a person
# to name; nothing that depends on it is asked.
SMALLEST = 20 / (160 * 120)

Label = Mapping[str, Any]  # {"name": str, "box": (x0, y0, x1, y1) in pixels, "distance": float in map units}


@dataclass(frozen=True)
class Question:
    """One question of `kind` about `target` (empty for questions about the whole frame), with its answer."""

    kind: str
    target: str
    text: str
    answer: str


@dataclass(frozen=True)
class View:
    """The things that a frame of width x height pixels shows clearly, and the names it shows too small to ask about."""

    things: Sequence[Label]
    unclear: frozenset[str]
    width: int

    @classmethod
    def of(cls, labels: Sequence[Label], width: int, height: int) -> View:
        """Split labels into clear and unclear ones, the clear ones from left to right."""
        clear = [label for label in labels if _area(label) >= SMALLEST * width * height]
        unclear = frozenset(label["name"] for label in labels if _area(label) < SMALLEST * width * height)
        return cls(sorted(clear, key=_centre), unclear, width)

    def of_name(self, name: str) -> list[Label]:
        return [label for label in self.things if label["name"] == name]


def about(view: View, name: str) -> list[Question]:
    """The four questions about one name; none where an instance is too small to tell."""
    if name in view.unclear:
        return []
    seen = view.of_name(name)
    nearest = min(seen, key=lambda label: label["distance"], default=None)
    return [
        Question("presence", name, f"is there a {name} ?", "yes" if seen else "no"),
        Question("direction", name, f"where is the {name} ?", direction(nearest, view.width) if nearest else "nowhere"),
        Question("distance", name, f"how far is the {name} ?", distance(nearest) if nearest else "nowhere"),
        Question("count", name, f"how many {name} are there ?", COUNTS[min(len(seen), len(COUNTS) - 1)]),
    ]


def overall(view: View) -> list[Question]:
    """The questions about the whole frame; none where anything in it is too small to tell.

    An empty prompt asks the same as "what do you see ?", so that a run without a prompt asks for a plain description.
    """
    if view.unclear:
        return []
    names = " and ".join(dict.fromkeys(label["name"] for label in view.things)) or "nothing"
    left = [label for label in view.things if _centre(label) < view.width / 3]
    leftmost = min(left, key=lambda label: label["distance"])["name"] if left else "nothing"
    return [
        Question("seen", "", "what do you see ?", names),
        Question("seen", "", "", names),
        Question("left", "", "what is at the left ?", leftmost),
    ]


def direction(label: Label, width: int) -> str:
    """The column of the frame, of five, in which the thing's centre lies."""
    return DIRECTIONS[min(int(5 * _centre(label) / width), 4)]


def distance(label: Label) -> str:
    """near, middle or far, by the distance in map units."""
    return DISTANCES[int(label["distance"] >= NEAR) + int(label["distance"] > FAR)]


def vocabulary(names: Sequence[str]) -> list[str]:
    """Every word that a question or an answer about these names can hold, sorted."""
    view = View([], frozenset(), 1)
    texts = [question.text for name in names for question in about(view, name)]
    texts += [question.text for question in overall(view)]
    texts += [*names, *DIRECTIONS, *DISTANCES, *COUNTS, "nowhere nothing yes no and"]
    return sorted({word for text in texts for word in text.split()})


def _centre(label: Label) -> float:
    x0, _, x1, _ = label["box"]
    return (x0 + x1) / 2


def _area(label: Label) -> float:
    x0, y0, x1, y1 = label["box"]
    return (x1 - x0) * (y1 - y0)
