"""Question-answer pairs about a screen from its labels: the training data of `tiny_screens`.

| kind | question | answer |
|---|---|---|
| read | What is written at (0.500, 0.250)? | Contacts |
| tap | Where do I tap to open Contacts? | tap(0.500, 0.250) |
| here | What is at (0.500, 0.250)? | icon Contacts |
| presence | Is Contacts on this screen? | yes |
| switch | Is Wi-Fi on? | no |
| field | What is in First name? | Ada |
| screen | What is on this screen? | Contacts, edit, keyboard |
| overlay | Is the keyboard open? | yes |
| changed | Does tap(0.500, 0.250) change the screen? | yes |

The last one is the question with which Digi-Q fine-tunes its representations. An answer with a point is right if the
point is within the element. All answers follow from the labels; none is about rewards or a policy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pr2l.core.types import Labels
from pr2l.environments.common.screen_actions import MalformedAction, ScreenAction, format, parse

KINDS = ("read", "tap", "here", "presence", "switch", "field", "screen", "overlay", "changed")
VERBS = {
    "button": "press",
    "key": "press",
    "field": "edit",
    "switch": "switch",
    "checkbox": "check",
    "slider": "move",
    "picker": "choose",
    "chip": "choose",
    "option": "choose",
    "day": "choose",
    "tab": "open",
    "icon": "open",
    "row": "open",
    "link": "open",
}
OVERLAYS = {"keyboard": "Is the keyboard open?", "dialog": "Is a dialog open?", "shade": "Is the shade open?"}
LONGEST = 32  # characters of a name in a question: the rest of a longer one is often cut off on the screen


@dataclass(frozen=True)
class ScreenQuestion:
    """Question about a screen, with its answer.

    Args:
        kind: One of KINDS.
        text: The question.
        answer: The answer.
        box: The element that a tap must hit, as fractions (x0, y0, x1, y1) of the screen; None = the answer must be
            equal.
    """

    kind: str
    text: str
    answer: str
    box: tuple[float, float, float, float] | None = None

    def is_right(self, answer: str) -> bool:
        """Return whether an answer is right.

        Args:
            answer: The answer of a VLM.
        """
        if self.box is None:
            return answer == self.answer
        try:
            action = parse(answer)
        except MalformedAction:
            return False
        if action.type != "tap" or action.x is None or action.y is None:
            return False
        x0, y0, x1, y1 = self.box
        return x0 <= action.x <= x1 and y0 <= action.y <= y1


@dataclass(frozen=True)
class ScreenView:
    """What a screen shows, for questions about it.

    Args:
        row: A row of a `ScreenSet`.
        size: Height and width of the frame in pixels.
    """

    row: Mapping[str, Any]
    size: tuple[int, int]

    @cached_property
    def elements(self) -> Labels:
        """The elements that questions name: those of a role in VERBS whose name is short and unique on the screen."""
        named = [{**label, "title": title(label["name"])} for label in self.row["labels"] if label["role"] in VERBS]
        counts = Counter(label["title"] for label in named)
        return [label for label in named if counts[label["title"]] == 1 and 0 < len(label["title"]) <= LONGEST]

    @cached_property
    def titles(self) -> frozenset[str]:
        """The titles of all elements and other texts, also those that questions do not name."""
        return frozenset(title(label["name"]) for label in self.row["labels"])

    def fractions(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Return a box in pixels as fractions of the screen."""
        height, width = self.size
        return box[0] / width, box[1] / height, box[2] / width, box[3] / height

    def centre(self, box: Sequence[float]) -> tuple[float, float]:
        """Return the centre of a box in pixels, as fractions of the screen."""
        x0, y0, x1, y1 = self.fractions(box)
        return (x0 + x1) / 2, (y0 + y1) / 2


def title(name: str) -> str:
    """Return an element's name without its app, its kind and the number that distinguishes equal names.

    Args:
        name: Such as "Settings/Wi-Fi switch", "Clock/dialog/06" or "Contacts/Ann Lee (2)".
    """
    short = name.rpartition("/")[2] if not name.endswith("/") else "/"
    short = re.sub(r" \(\d+\)$", "", short)
    return re.sub(r" (switch|slider|done)$", "", short)


# Questions of each kind, without a choice.


def read_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions about each word."""
    return [
        ScreenQuestion("read", f"What is written at {point(view.centre(box))}?", text)
        for text, box in view.row["words"]
        if len(text) <= LONGEST
    ]


def tap_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions where to tap for each element."""
    return [
        ScreenQuestion(
            "tap",
            f"Where do I tap to {VERBS[label['role']]} {label['title']}?",
            format(ScreenAction("tap", *view.centre(label["box"]))),
            view.fractions(label["box"]),
        )
        for label in view.elements
    ]


def here_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions what is at the centre of each element."""
    return [
        ScreenQuestion("here", f"What is at {point(view.centre(label['box']))}?", f"{label['role']} {label['title']}")
        for label in view.elements
    ]


def presence_questions(view: ScreenView, absent: Sequence[str]) -> list[ScreenQuestion]:
    """Return the questions whether elements are on the screen: all that are, and some that may not be.

    Args:
        view: The screen.
        absent: Titles of elements of other screens; those that this screen shows too are left out.
    """
    visible = [label["title"] for label in view.elements]
    missing = [name for name in absent if name not in view.titles and 0 < len(name) <= LONGEST]
    pairs = [(name, "yes") for name in visible] + [(name, "no") for name in missing]
    return [ScreenQuestion("presence", f"Is {name} on this screen?", answer) for name, answer in pairs]


def switch_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions whether each switch, check box, chip or option is on."""
    return [
        ScreenQuestion("switch", f"Is {label['title']} on?", "yes" if label["value"] else "no")
        for label in view.elements
        if isinstance(label["value"], bool)
    ]


def field_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions what each field contains; not about texts that are longer than a field."""
    return [
        ScreenQuestion("field", f"What is in {label['title']}?", label["value"] or "nothing")
        for label in view.elements
        if label["role"] == "field" and isinstance(label["value"], str) and len(label["value"]) <= LONGEST
    ]


def screen_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the question what is on the screen."""
    return [ScreenQuestion("screen", "What is on this screen?", screen_type(view.row["screen"]))]


def overlay_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions whether the keyboard, a dialog and the notification shade are open.

    The shade covers the others, so there are no questions about them while it is open.
    """
    screen = view.row["screen"]
    names = ("shade",) if screen["shade"] else tuple(OVERLAYS)
    return [ScreenQuestion("overlay", OVERLAYS[name], "yes" if screen[name] else "no") for name in names]


def changed_questions(view: ScreenView) -> list[ScreenQuestion]:
    """Return the questions whether each action that was tried on the screen changed it."""
    return [
        ScreenQuestion("changed", f"Does {action} change the screen?", "yes" if changed else "no")
        for action, changed in view.row["actions"]
    ]


def point(centre: tuple[float, float]) -> str:
    """Return a point in the form that actions use, such as "(0.500, 0.250)"."""
    return f"({centre[0]:.3f}, {centre[1]:.3f})"


def screen_type(screen: Mapping[str, str | None]) -> str:
    """Return the name of a screen, such as "Contacts, edit, keyboard".

    Args:
        screen: What is open: "app", "page", "dialog", "keyboard", "shade".
    """
    if screen["shade"]:
        return "shade"
    names = [screen["app"], screen["page"], screen["dialog"] and f"dialog {screen['dialog']}"]
    return ", ".join([*filter(None, names), *(["keyboard"] if screen["keyboard"] else [])])


def all_questions(view: ScreenView, absent: Sequence[str]) -> dict[str, list[ScreenQuestion]]:
    """Return all questions about a screen by kind.

    Args:
        view: The screen.
        absent: Titles of elements of other screens, for questions about presence.
    """
    return {
        "read": read_questions(view),
        "tap": tap_questions(view),
        "here": here_questions(view),
        "presence": presence_questions(view, absent),
        "switch": switch_questions(view),
        "field": field_questions(view),
        "screen": screen_questions(view),
        "overlay": overlay_questions(view),
        "changed": changed_questions(view),
    }


def draw_questions(
    view: ScreenView, absent: Sequence[str], count: int, rng: np.random.Generator, mix: Mapping[str, float]
) -> list[ScreenQuestion]:
    """Draw random questions about a screen: first a kind that the screen has, then one of the kind.

    Args:
        view: The screen.
        absent: Titles of elements of other screens, at most as many as should have the answer "no".
        count: Number of questions.
        rng: Random generator.
        mix: Weight of each kind.
    """
    questions = {kind: asked for kind, asked in all_questions(view, absent).items() if asked and mix[kind] > 0}
    kinds = list(questions)
    weights = np.array([mix[kind] for kind in kinds])
    drawn = rng.choice(len(kinds), size=count, p=weights / weights.sum()) if kinds else ()
    return [balanced(questions[kinds[kind]], rng) for kind in drawn]


def balanced(questions: Sequence[ScreenQuestion], rng: np.random.Generator) -> ScreenQuestion:
    """Draw a question; if some answers are "no", they are drawn as often as all others."""
    negative = [question for question in questions if question.answer == "no"]
    other = [question for question in questions if question.answer != "no"]
    pool = (negative if rng.random() < 0.5 else other) if negative and other else questions
    return pool[int(rng.integers(len(pool)))]
