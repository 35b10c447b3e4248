"""Examines a VLM on labelled frames: how often its greedy answer is exactly right, per question kind and per name.

Presence is asked of every name that is clearly seen and of as many that are not, so that always saying yes scores a
half. Direction, distance and count are asked of names that are there: "nowhere" and "zero" would be too easy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import KINDS, Question, View, about, found, overall
from pr2l.vlms.base import VLM

# Tokens, where a token is a word: enough for "yes this is a living room and a tv is far left and near", and for four
# names of two words with "and" between them.
LONGEST_ANSWER = 15
BATCH = 64  # questions

Report = dict[str, Any]  # {"questions": {kind: {"accuracy", "asked"}}, "names": {name: {kind: accuracy}}, ...}


def examine(
    vlm: VLM,
    frames: LabelledFrames,
    *,
    seed: int = 0,
    longest: int = LONGEST_ANSWER,
    progress: Callable[[int], None] = lambda count: None,
) -> Report:
    """Accuracy in 0..1 per question kind, per answer and per name, over all frames of the set.

    longest: tokens that an answer may take.
    """
    asked = list(_questions(frames, np.random.default_rng(seed)))
    right = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        pictures = np.stack([frames.frames[row] for row, _ in batch])
        answers = vlm.answer(pictures, [question.text for _, question in batch], longest)
        right += [answer == question.answer for answer, (_, question) in zip(answers, batch, strict=True)]
        progress(len(right))
    return report([question for _, question in asked], right)


def report(questions: Sequence[Question], right: Sequence[bool]) -> Report:
    """Shares of right answers, grouped three ways."""
    kinds, answers, names = (defaultdict(list) for _ in range(3))
    for question, hit in zip(questions, right, strict=True):
        kinds[question.kind].append(hit)
        if question.kind in ("presence", "direction", "distance", "count"):
            answers[question.kind, question.answer].append(hit)
            names[question.target, question.kind].append(hit)
    return {
        "questions": {kind: _score(kinds[kind]) for kind in KINDS if kind in kinds},
        "answers": _nested(answers),
        "names": _nested(names),
    }


def _questions(frames: LabelledFrames, rng: np.random.Generator) -> Iterator[tuple[int, Question]]:
    height, width = frames.frames.shape[1:3]
    for row, labels in enumerate(frames.labels):
        view = View.of(labels, width, height, frames.scene(row))
        seen = {label["name"] for label in view.things} - view.unclear
        absent = [name for name in frames.names if name not in seen | view.unclear]
        for name in sorted(seen):
            yield from ((row, question) for question in about(view, name))
        for name in rng.choice(absent, size=min(max(len(seen), 1), len(absent)), replace=False) if absent else ():
            yield from ((row, question) for question in about(view, str(name)) if question.kind == "presence")
        yield from ((row, question) for question in overall(view) if question.text)
        for name in view.scene.get("kept", ()):
            yield from ((row, question) for question in found(view, name))


def _score(hits: Sequence[bool]) -> dict[str, float | int]:
    return {"accuracy": round(float(np.mean(hits)), 4), "asked": len(hits)}


def _nested(groups: dict[tuple[str, str], list[bool]]) -> dict[str, dict[str, dict[str, float | int]]]:
    nested: dict[str, dict[str, dict[str, float | int]]] = defaultdict(dict)
    for (outer, inner), hits in sorted(groups.items()):
        nested[outer][inner] = _score(hits)
    return dict(nested)
