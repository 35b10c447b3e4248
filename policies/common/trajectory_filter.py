"""Filter that keeps the best of the trajectories that a learner draws, and the base class of learners with one."""

from __future__ import annotations

from collections import deque

import torch
from pydantic import PositiveInt

from ..base import Tensors, Values
from ..losses.advantages import cutoff, kept
from .factored_policy import FactoredOptions
from .options import Fraction, PositiveNumber
from .policy import PolicyLearner


class TrajectoryFilter:
    """Filter that keeps trajectories whose score is at least a quantile of the scores so far.

    The released code of DigiRL scores all trajectories before each phase of training. Here the scores of the last
    `options.history` trajectories that were drawn count, so that a data set need not be in memory; with a history of
    one pass over the data, the cutoff of a score that does not change is the same.

    Args:
        options: Options of the filter.
    """

    def __init__(self, options: FilterOptions) -> None:
        self.options = options
        self.scores: deque[float] = deque(maxlen=options.history)

    def keep(self, scores: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """Add scores to the history and return which of the trajectories pass, bool [B].

        Args:
            scores: float32 [B], score of each trajectory.
            rewards: float32 [B], sum of the rewards of each trajectory.
        """
        self.scores.extend(scores.tolist())
        least = cutoff(torch.tensor([*self.scores]), self.options.quantile)
        return kept(scores, rewards, least, successes_only=self.options.successes_only)


class FilteredLearner(PolicyLearner):
    """Base class of learners with a trajectory filter, whose history is a part of their state."""

    filter: TrajectoryFilter
    options: FilterOptions

    def state_dict(self) -> tuple[Tensors, Values]:
        tensors, values = super().state_dict()
        return tensors, {**values, "scores": [*self.filter.scores]}

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        super().load_state_dict(tensors, values)
        self.filter.scores.clear()
        self.filter.scores.extend(values["scores"])


class FilterOptions(FactoredOptions):
    """Options of a factored policy and of the trajectory filter."""

    trajectories: PositiveInt = 32  # trajectories per update
    quantile: Fraction = 0.9  # fraction of the trajectories below the filter's cutoff; from DigiRL's code
    history: PositiveInt = 1000  # trajectories, of those drawn last, whose scores give the cutoff
    successes_only: bool = False  # drop trajectories without reward even if the cutoff lets them pass
    max_grad_norm: PositiveNumber = 1.0  # maximum norm of the gradient; 0.01 in DigiRL's code, which does not average
