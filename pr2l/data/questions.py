"""Question-answer pairs about a frame from the simulator's labels: the training data of `pr2l pretrain`.

The questions are about things that a person can see in the frame: presence, direction, distance and number of objects,
all objects in view, and the object at the left. If the simulator names the room in view, there are also questions about
the room and about objects that people keep there. No question is about rewards or actions.
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
NEAR, FAR = 1.0, 2.0  # in units of the environment's NEAR: below NEAR is near, above FAR is far
COUNTS = ("zero", "one", "two", "three", "many")
# An object whose visible box covers less than this fraction of the frame (20 pixels of 160x120) is too small for a
# person to name; questions whose answer depends on it are left out.
SMALLEST = 20 / (160 * 120)

Label = Mapping[str, Any]  # {"name": str, "box": (x0, y0, x1, y1) in pixels, "distance": float, see NEAR}


@dataclass(frozen=True)
class Question:
    """Question with its answer.

    Args:
        kind: One of KINDS.
        target: The object's name; "" for questions about the whole frame.
        text: The question.
        answer: The answer, in lower case.
    """

    kind: str
    target: str
    text: str
    answer: str


@dataclass(frozen=True)
class View:
    """Objects and room in a frame.

    Args:
        things: Labels of the objects that are large enough for questions, from left to right.
        unclear: Names of the objects that are too small.
        width: Width of the frame, in pixels.
        scene: The room in view, see `pr2l.core.types.Scene`; {} if the simulator names none.
    """

    things: Sequence[Label]
    unclear: frozenset[str]
    width: int
    scene: Scene = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Sequence[Label], width: int, height: int, scene: Scene | None = None) -> View:
        """Make a view from the labels of a frame.

        Args:
            labels: The labels of the frame.
            width: Width of the frame, in pixels.
            height: Height of the frame, in pixels.
            scene: The room in view; None = unknown.
        """
        clear = [label for label in labels if _area(label) >= SMALLEST * width * height]
        unclear = frozenset(label["name"] for label in labels if _area(label) < SMALLEST * width * height)
        return cls(sorted(clear, key=_centre), unclear, width, scene or {})

    def of_name(self, name: str) -> list[Label]:
        """Return the labels of the objects with a name, from left to right.

        Args:
            name: Name of the objects. Those that are too small for questions are left out.
        """
        return [label for label in self.things if label["name"] == name]


def about(view: View, name: str) -> list[Question]:
    """Return the questions about the objects with a name.

    Args:
        view: The frame.
        name: The objects' name.

    Returns:
        Four questions (presence, direction, distance, count), or none if one of these objects is too small.
    """
    if name in view.unclear:
        return []
    instances = view.of_name(name)
    nearest = min(instances, key=lambda label: label["distance"], default=None)
    return [
        Question("presence", name, f"is there a {name} ?", "yes" if instances else "no"),
        Question("direction", name, f"where is the {name} ?", direction(nearest, view.width) if nearest else "nowhere"),
        Question("distance", name, f"how far is the {name} ?", distance(nearest) if nearest else "nowhere"),
        Question("count", name, f"how many {name} are there ?", COUNTS[min(len(instances), len(COUNTS) - 1)]),
    ]


def found(view: View, name: str) -> list[Question]:
    """Return two questions: would an object be found in the room in view, without and with reasons?

    The reasons are the type of the room and, if the object is in view, its position: the chain of thought of the PR2L
    paper.

    Args:
        view: The frame.
        name: The object's name.

    Returns:
        Two questions, or none if the scene does not say whether people keep such an object in the room.
    """
    if name not in view.scene.get("kept", {}):
        return []
    answer = "yes" if view.scene["kept"][name] else "no"
    reasons = f"{answer} this is a {view.scene['room']}"
    if name not in view.unclear and (instances := view.of_name(name)):
        nearest = min(instances, key=lambda label: label["distance"])
        reasons += f" and a {name} is {direction(nearest, view.width)} and {distance(nearest)}"
    text = f"Would a {name} be found here?"
    return [Question("found", name, text, answer), Question("found", name, f"{text} Why or why not?", reasons)]


def overall(view: View) -> list[Question]:
    """Return the questions about the whole frame; only the question about the room if any object is too small.

    The empty question has the same answer as "what do you see ?", so a VLM without a prompt describes the frame.

    Args:
        view: The frame. An object is at the left if its centre is in the left third of the frame.

    Returns:
        Three questions about objects, and one about the room if the scene names it.
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
    """Return the column of the frame that contains the centre of the bounding box.

    Args:
        label: The object's label.
        width: Width of the frame, in pixels.

    Returns:
        One of DIRECTIONS.
    """
    return DIRECTIONS[min(int(5 * _centre(label) / width), 4)]


def distance(label: Label) -> str:
    """Return the word for an object's distance.

    Args:
        label: The object's label, with its distance in units of the environment's NEAR.

    Returns:
        One of DISTANCES.
    """
    return DISTANCES[int(label["distance"] >= NEAR) + int(label["distance"] > FAR)]


def vocabulary(names: Sequence[str], rooms: Sequence[str] = ()) -> list[str]:
    """Return all words and punctuation marks of the questions and answers, sorted, in lower case.

    Args:
        names: The object names that can occur in labels.
        rooms: The room types that can occur in scenes; empty = no questions about rooms.
    """
    scene: Scene = {"room": " ".join(rooms), "kept": dict.fromkeys(names, True)} if rooms else {}
    view = View([], frozenset(), 1, scene)
    questions = [question for name in names for question in (*about(view, name), *found(view, name))] + overall(view)
    texts = [text for question in questions for text in (question.text, question.answer)]
    texts += [*names, *DIRECTIONS, *DISTANCES, *COUNTS, "nowhere nothing yes no and"]
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})


def _centre(label: Label) -> float:
    x0, _, x1, _ = label["box"]
    return (x0 + x1) / 2


def _area(label: Label) -> float:
    x0, y0, x1, y1 = label["box"]
    return (x1 - x0) * (y1 - y0)
