"""Question-answer pairs about one frame, made from the simulator's labels: what `pr2l pretrain` teaches.

Only what a person could read off the frame is asked: presence, direction, distance, count, what is seen, what is at
the left; where the simulator says which room a frame shows, also that, and whether a thing would be found there. Never
a reward, never an action.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pr2l.core.types import Scene

KINDS = ("presence", "direction", "distance", "count", "seen", "left", "room", "found")
DIRECTIONS = ("far left", "left", "ahead", "right", "far right")  # five equal columns of the frame
DISTANCES = ("near", "middle", "far")
NEAR, FAR = 1.0, 2.0  # in units of what the environment calls NEAR: below NEAR is near, above FAR is far
COUNTS = ("zero", "one", "two", "three", "many")
# A thing whose visible box covers less than this share of the frame (20 pixels of 160x120) is too small for a person
# to name; nothing that depends on it is asked.
SMALLEST = 20 / (160 * 120)

Label = Mapping[str, Any]  # {"name": str, "box": (x0, y0, x1, y1) in pixels, "distance": float, see NEAR}


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
    scene: Scene = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Sequence[Label], width: int, height: int, scene: Scene | None = None) -> View:
        """Split labels into clear and unclear ones, the clear ones from left to right."""
        clear = [label for label in labels if _area(label) >= SMALLEST * width * height]
        unclear = frozenset(label["name"] for label in labels if _area(label) < SMALLEST * width * height)
        return cls(sorted(clear, key=_centre), unclear, width, scene or {})

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


def found(view: View, name: str) -> list[Question]:
    """Whether people keep a thing in the room that the frame shows, bare and with the reasons; none without a room.

    The reasons are the room, and where the thing is if it is seen: the steps of PR2L's chain of thought.
    """
    if name not in view.scene.get("kept", {}):
        return []
    answer = "yes" if view.scene["kept"][name] else "no"
    reasons = f"{answer} this is a {view.scene['room']}"
    if name not in view.unclear and (seen := view.of_name(name)):
        nearest = min(seen, key=lambda label: label["distance"])
        reasons += f" and a {name} is {direction(nearest, view.width)} and {distance(nearest)}"
    text = f"Would a {name} be found here?"
    return [Question("found", name, text, answer), Question("found", name, f"{text} Why or why not?", reasons)]


def overall(view: View) -> list[Question]:
    """The questions about the whole frame; none where anything in it is too small to tell.

    An empty prompt asks the same as "what do you see ?", so that a run without a prompt asks for a plain description.
    """
    room = [Question("room", "", "What room is this?", view.scene["room"])] if "room" in view.scene else []
    if view.unclear:
        return room
    names = " and ".join(dict.fromkeys(label["name"] for label in view.things)) or "nothing"
    left = [label for label in view.things if _centre(label) < view.width / 3]
    leftmost = min(left, key=lambda label: label["distance"])["name"] if left else "nothing"
    return [
        Question("seen", "", "what do you see ?", names),
        Question("seen", "", "", names),
        Question("left", "", "what is at the left ?", leftmost),
        *room,
    ]


def direction(label: Label, width: int) -> str:
    """The column of the frame, of five, in which the thing's centre lies."""
    return DIRECTIONS[min(int(5 * _centre(label) / width), 4)]


def distance(label: Label) -> str:
    """near, middle or far, by the distance in units of what the environment calls NEAR."""
    return DISTANCES[int(label["distance"] >= NEAR) + int(label["distance"] > FAR)]


def vocabulary(names: Sequence[str], rooms: Sequence[str] = ()) -> list[str]:
    """Every word that a question or an answer about these names and rooms can hold, sorted, in small letters.

    rooms: the types of room that scenes name; none = no questions about rooms.
    """
    scene: Scene = {"room": " ".join(rooms), "kept": dict.fromkeys(names, True)} if rooms else {}
    view = View([], frozenset(), 1, scene)
    asked = [question for name in names for question in (*about(view, name), *found(view, name))] + overall(view)
    texts = [text for question in asked for text in (question.text, question.answer)]
    texts += [*names, *DIRECTIONS, *DISTANCES, *COUNTS, "nowhere nothing yes no and"]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})


def _centre(label: Label) -> float:
    x0, _, x1, _ = label["box"]
    return (x0 + x1) / 2


def _area(label: Label) -> float:
    x0, y0, x1, y1 = label["box"]
    return (x1 - x0) * (y1 - y0)
