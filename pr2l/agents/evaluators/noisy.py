"""Another evaluator with a share of wrong labels, to measure what errors of the evaluator do to learning."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pr2l.agents.evaluators.base import Evaluator
from pr2l.agents.evaluators.common.loading import load_evaluator
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.config import Seed
from pr2l.core.types import Frame


class NoisyEvaluator(Evaluator):
    """Evaluator that turns the probability p of another one into 1 - p in a share of the episodes.

    The seed and the content of an episode decide whether its label is wrong, so an episode that is scored again keeps
    its label, and the wrong labels of a share are also wrong with every larger share. Abstentions stay abstentions.

    Args:
        evaluator: The evaluator whose labels are changed.
        share: Probability of a wrong label, 0 to 1.
        seed: Seed of the choice of episodes.
    """

    def __init__(self, evaluator: Evaluator, share: float, seed: int) -> None:
        self.evaluator, self.share, self.seed, self.parallel = evaluator, share, seed, evaluator.parallel

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        probability = self.evaluator.score(task, frames, actions, success)
        if probability is None or uniform(self.seed, task, frames, actions) >= self.share:
            return probability
        return 1 - probability

    def usage(self) -> Usage:
        return self.evaluator.usage()


def uniform(seed: int, task: str, frames: Sequence[Frame], actions: Sequence[str]) -> float:
    """Return a number in [0, 1) that is uniformly distributed over episodes.

    Args:
        seed: Another seed gives an independent number.
        task: As in `Evaluator.score`.
        frames: As in `Evaluator.score`.
        actions: As in `Evaluator.score`.
    """
    digest = sha256(repr((seed, task, list(actions))).encode())
    for frame in frames:
        digest.update(repr(frame.shape).encode())
        digest.update(np.ascontiguousarray(frame).data)
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def flip_labels(labels: Sequence[bool], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return a copy of labels with exactly round(share * N) wrong ones, for recorded episodes.

    Args:
        labels: bool [N], the success of N episodes.
        share: Share of wrong labels, 0 to 1.
        seed: Seed of the choice of labels. The wrong labels of a share are also wrong with every larger share.

    Returns:
        bool [N].
    """
    noisy = np.array(labels, dtype=bool)
    wrong = np.random.default_rng(seed).permutation(len(noisy))[: round(share * len(noisy))]
    noisy[wrong] = ~noisy[wrong]
    return noisy


def create(options: Defaults, cache: AnswerCache) -> NoisyEvaluator:
    evaluator = load_evaluator(options.evaluator, options.evaluator_options, cache)
    return NoisyEvaluator(evaluator, options.share, options.seed)


class Defaults(BaseModel):
    """Options of the evaluator `noisy`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluator: str = "state"  # the evaluator whose labels are changed, from `pr2l list evaluators`
    evaluator_options: dict[str, Any] = Field(default_factory=dict)  # its options
    share: float = Field(default=0.1, ge=0, le=1)  # probability of a wrong label
    seed: Seed = 0  # of the choice of episodes with wrong labels
