"""Fine-tuning of a VLM on whether actions change the screen, the first stage of Digi-Q (Bai et al. 2025).

    Does tap(0.500, 0.250) change the screen?     yes

Afterwards the VLM is frozen, and its states about the same question are the features of actions (`action_features` of
the algorithm digiq). Differences from the released code: it trains all weights of LLaVA 1.5, its question depends on
the type of action, such as "Is this cursor Clicking on any interactive elements?", and it keeps no episode for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Discriminator, Field, Tag

from pr2l.data.changes import Change, Changes, EpisodeSource
from pr2l.data.screens import ScreenSource
from pr2l.encoders.common.action_states import QUESTIONS, View, shown
from pr2l.pretraining.evaluation import Accuracies, score
from pr2l.pretraining.finetune import AdaptConfig, Example
from pr2l.vlms.base import VLM

BATCH = 16  # questions per batch of the evaluation
ANSWER_TOKENS = 4  # "yes" or "no" in the tokens of any VLM, and the end
MAJORITY = "changed, always the more frequent answer"


def _kind(source: Any) -> str:
    """Return which source the values of a config are: only one of recorded episodes has the key `data`."""
    keys = source if isinstance(source, dict) else source.model_dump()
    return "episodes" if "data" in keys else "screens"


ChangeSource = Annotated[
    Annotated[EpisodeSource, Tag("episodes")] | Annotated[ScreenSource, Tag("screens")], Discriminator(_kind)
]


class ChangesConfig(AdaptConfig):
    """Config of a fine-tuning on whether actions change the screen."""

    train: tuple[ChangeSource, ...] = Field(min_length=1)  # recorded episodes or generated screens for training
    test: tuple[ChangeSource, ...]  # for the evaluations before and after, from other episodes
    action_features: View  # text = the question names the action; drawn = the frame shows it; as in the algorithm digiq
    action_question: str | None = None  # with {action} and slots of the context; None = as in the algorithm digiq

    @property
    def question(self) -> str:
        """The question, with slots."""
        return QUESTIONS[self.action_features] if self.action_question is None else self.action_question


class ChangeQuestion(NamedTuple):
    """Question whether an action changes the screen, with its answer, "yes" or "no"."""

    text: str
    answer: str


def example(changes: Changes, row: Change, config: ChangesConfig) -> Example:
    """Return the image and the question of one action.

    Args:
        changes: Set of the action.
        row: The action.
        config: How the VLM gets the action.
    """
    frame, text = shown(changes.frame(row.frame), row.action, config.action_features, config.question, row.context)
    return frame, ChangeQuestion(text, "yes" if row.changed else "no")


def draw_changes(sets: Sequence[Changes], config: ChangesConfig, count: int, rng: np.random.Generator) -> list[Example]:
    """Draw random actions, all actions of all sets with equal probability.

    Args:
        sets: Sets of actions on screens of the same size.
        config: How the VLM gets an action.
        count: Number of examples.
        rng: Random generator.
    """
    ends = np.cumsum([len(changes) for changes in sets])
    examples = []
    for number in rng.integers(ends[-1], size=count):
        place = int(np.searchsorted(ends, number, side="right"))
        changes = sets[place]
        examples.append(example(changes, changes.rows[number - ends[place]], config))
    return examples


def evaluate_changes(
    vlm: VLM, changes: Changes, config: ChangesConfig, progress: Callable[[int], None] = lambda count: None
) -> Accuracies:
    """Evaluate the answers of a VLM about all actions of a set.

    Args:
        vlm: The VLM; this uses only its method `answer`.
        changes: Actions and whether they changed the screen.
        config: How the VLM gets an action.
        progress: Function that receives the number of questions answered so far.

    Returns:
        {"questions": {kind: {"accuracy": 0..1, "asked": questions}}}, with the kinds "changed", "changed, " and each
        type of action, and MAJORITY: the share of the more frequent answer.
    """
    right: dict[str, list[bool]] = {"changed": []}
    for start in range(0, len(changes), BATCH):
        rows = changes.rows[start : start + BATCH]
        frames, questions = zip(*(example(changes, row, config) for row in rows), strict=True)
        answers = vlm.answer(np.stack(frames), [question.text for question in questions], ANSWER_TOKENS)
        for answer, question, row in zip(answers, questions, rows, strict=True):
            for kind in ("changed", f"changed, {row.action.partition('(')[0]}"):
                right.setdefault(kind, []).append(answer.lower().strip(" .") == question.answer)
        progress(start + len(rows))
    share = np.mean([row.changed for row in changes.rows])
    majority = {"accuracy": round(float(max(share, 1 - share)), 4), "asked": len(changes)}
    return {"questions": {kind: score(right[kind]) for kind in sorted(right)} | {MAJORITY: majority}}
