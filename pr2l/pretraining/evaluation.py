"""Evaluation of a VLM on labelled frames by the fraction of its greedy answers that are exactly right.

Questions about presence cover every clearly visible name and as many absent names, so that "yes" to all of them scores
0.5. Questions about direction, distance and count cover visible names only: "nowhere" and "zero" would be too easy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import KINDS, Question, View, about, found, overall
from pr2l.vlms.base import VLM

# For a tokenizer with one token per word: enough for "yes this is a living room and a tv is far left and near", and for
# four names of two words with "and" between them.
MAX_ANSWER_TOKENS = 15
BATCH = 64  # questions per batch

# {"questions": {kind: score}, "answers": {kind: {answer: score}}, "names": {name: {kind: score}}}, where a score is
# {"accuracy": 0..1, "asked": questions}
Accuracies = dict[str, Any]


def evaluate_answers(
    vlm: VLM,
    frames: LabelledFrames,
    *,
    seed: int = 0,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    progress: Callable[[int], None] = lambda count: None,
) -> Accuracies:
    """Evaluate the answers of a VLM to questions about all frames of a set.

    Args:
        vlm: The VLM; this uses only its method `answer`.
        frames: Labelled frames.
        seed: Seed of the choice of absent names.
        max_answer_tokens: Maximum number of tokens per answer; longer answers are cut.
        progress: Function that receives the number of questions answered so far.

    Returns:
        Fraction of right answers per kind of question, per answer and per name.
    """
    question_list = list(_questions(frames, np.random.default_rng(seed)))
    right: list[bool] = []
    for start in range(0, len(question_list), BATCH):
        batch = question_list[start : start + BATCH]
        pictures = np.stack([frames.frames[row] for row, _ in batch])
        answers = vlm.answer(pictures, [question.text for _, question in batch], max_answer_tokens)
        right += [answer == question.answer for answer, (_, question) in zip(answers, batch, strict=True)]
        progress(len(right))
    return accuracies([question for _, question in question_list], right)


def accuracies(questions: Sequence[Question], right: Sequence[bool]) -> Accuracies:
    """Compute the fraction of right answers per kind of question, per answer and per name.

    Args:
        questions: Questions with their right answers.
        right: Whether the VLM's answer to each question was right.
    """
    kinds, answers, names = (defaultdict(list) for _ in range(3))
    for question, is_right in zip(questions, right, strict=True):
        kinds[question.kind].append(is_right)
        if question.kind in ("presence", "direction", "distance", "count"):
            answers[question.kind, question.answer].append(is_right)
            names[question.target, question.kind].append(is_right)
    return {
        "questions": {kind: score(kinds[kind]) for kind in KINDS if kind in kinds},
        "answers": _nested(answers),
        "names": _nested(names),
    }


def _questions(frames: LabelledFrames, rng: np.random.Generator) -> Iterator[tuple[int, Question]]:
    height, width = frames.frames.shape[1:3]
    for row, labels in enumerate(frames.labels):
        view = View.of(labels, width, height, frames.scene(row))
        visible = {label["name"] for label in view.things} - view.unclear
        absent = [name for name in frames.names if name not in visible | view.unclear]
        for name in sorted(visible):
            yield from ((row, question) for question in about(view, name))
        for name in rng.choice(absent, size=min(max(len(visible), 1), len(absent)), replace=False) if absent else ():
            yield from ((row, question) for question in about(view, str(name)) if question.kind == "presence")
        yield from ((row, question) for question in overall(view) if question.text)
        for name in view.scene.get("kept", ()):
            yield from ((row, question) for question in found(view, name))


def score(right: Sequence[bool]) -> dict[str, float | int]:
    """Return the fraction of right answers and the number of questions.

    Args:
        right: Whether each answer is right, at least one.
    """
    return {"accuracy": round(float(np.mean(right)), 4), "asked": len(right)}


def _nested(groups: dict[tuple[str, str], list[bool]]) -> dict[str, dict[str, dict[str, float | int]]]:
    nested: dict[str, dict[str, dict[str, float | int]]] = defaultdict(dict)
    for (outer, inner), right in sorted(groups.items()):
        nested[outer][inner] = score(right)
    return dict(nested)
