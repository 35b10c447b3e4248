"""Evaluation of a VLM on screens by the fraction of its greedy answers that are right.

A point is right if it is in the element; any other answer must be equal. Questions with the answer "no" are asked about
as often as the others, so that always answering "yes" is right in half of them. Questions about words that no training
screen shows are also counted on their own, as "read, new words".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from pr2l.data.screen_questions import KINDS, ScreenQuestion, ScreenView, all_questions, balanced
from pr2l.data.screen_texts import bare
from pr2l.data.screens import ScreenSet
from pr2l.pretraining.evaluation import Accuracies, score
from pr2l.pretraining.screens import draw_titles
from pr2l.vlms.base import VLM

BATCH = 16  # questions per batch
PER_KIND = 2  # questions of a kind per screen
ABSENT = 8  # titles of other screens per screen
ANSWER_BYTES = 48  # the longest answers are the role and the title of an element
NEW_WORDS = "read, new words"


def evaluate_screens(
    vlm: VLM,
    screen_set: ScreenSet,
    known: frozenset[str],
    *,
    seed: int = 0,
    per_kind: int = PER_KIND,
    progress: Callable[[int], None] = lambda count: None,
) -> Accuracies:
    """Evaluate the answers of a VLM to random questions about all screens of a set.

    Args:
        vlm: The VLM; this uses only its method `answer`.
        screen_set: Screens of the evaluation.
        known: Words of the training, see `known_words`.
        seed: Seed of the choice of questions.
        per_kind: Number of questions of a kind per screen.
        progress: Function that receives the number of questions answered so far.

    Returns:
        {"questions": {kind: {"accuracy": 0..1, "asked": questions}}}, with the kinds of KINDS and NEW_WORDS.
    """
    questions = list(chosen_questions(screen_set, per_kind, np.random.default_rng(seed)))
    right = defaultdict(list)
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        frames = np.stack([screen_set.frame(row) for row, _ in batch])
        answers = vlm.answer(frames, [question.text for _, question in batch], ANSWER_BYTES)
        for answer, (_, question) in zip(answers, batch, strict=True):
            right[question.kind].append(question.is_right(answer))
            if question.kind == "read" and bare(question.answer) not in known:
                right[NEW_WORDS].append(question.is_right(answer))
        progress(start + len(batch))
    return {"questions": {kind: score(right[kind]) for kind in (*KINDS, NEW_WORDS) if kind in right}}


def chosen_questions(
    screen_set: ScreenSet, per_kind: int, rng: np.random.Generator
) -> Iterator[tuple[int, ScreenQuestion]]:
    """Yield the questions of an evaluation with the indices of their screens.

    Args:
        screen_set: Screens of the evaluation.
        per_kind: Largest number of questions of a kind per screen.
        rng: Random generator.
    """
    height, width = screen_set.frame(0).shape[:2]
    for row, labels in enumerate(screen_set.rows):
        absent = draw_titles(screen_set, ABSENT, rng)
        for questions in all_questions(ScreenView(labels, (height, width)), absent).values():
            drawn = {balanced(questions, rng) for _ in range(per_kind)} if questions else ()
            yield from ((row, question) for question in sorted(drawn, key=lambda question: question.text))
