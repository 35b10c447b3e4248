"""Agreement of an evaluator with the environment's own verdicts: errors, calibration and abstentions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pr2l.core.statistics import Estimate, wilson
from pr2l.core.types import THRESHOLD

BINS = 10


class Share(NamedTuple):
    """Share of some episodes among others, such as a precision.

    Args:
        episodes: Number of episodes.
        among: Number of the episodes among which they are; with 0 of them the share is undefined.
    """

    episodes: int
    among: int

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None = undefined."""
        return self.episodes / self.among if self.among else None

    @property
    def interval(self) -> Estimate | None:
        """The share with Wilson's interval of 95 %; None = undefined."""
        return wilson(self.episodes / self.among, self.among) if self.among else None

    def to_json(self) -> dict[str, Any]:
        """Return the share as JSON values."""
        return {"value": self.value, **self._asdict()}


class Bin(NamedTuple):
    """Episodes whose probabilities lie in an interval.

    Args:
        low: Lower end, which belongs to the bin.
        high: Upper end, which does not, except for 1.
        episodes: Number of episodes.
        probability: Mean probability of the evaluator; None = no episodes.
        successes: Share of the episodes that the environment counts as successes; None = no episodes.
    """

    low: float
    high: float
    episodes: int
    probability: float | None
    successes: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement over a number of episodes. Abstentions count only in `abstentions` and `successes_abstained`.

    Args:
        precision: Successes of the environment among those of the evaluator.
        recall: Successes of the evaluator among those of the environment.
        false_positives: Successes of the evaluator among the failures of the environment.
        accuracy: Episodes with the same verdict.
        abstentions: Episodes without a probability, among all.
        successes_abstained: Successes of the environment among the abstentions.
        brier: Mean squared difference of the probability and the environment's verdict, 0 or 1 (Brier 1950); the
            constant 0.5 has 0.25. None = abstentions only.
        ece: Expected calibration error (Naeini et al. 2015): mean difference of probability and share of successes in
            a bin, weighted by the episodes of the bins. None = abstentions only.
        bins: The bins of equal width, in their order.
    """

    precision: Share
    recall: Share
    false_positives: Share
    accuracy: Share
    abstentions: Share
    successes_abstained: Share
    brier: float | None
    ece: float | None
    bins: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as JSON values."""
        values = {key: value.to_json() if isinstance(value, Share) else value for key, value in vars(self).items()}
        return {**values, "bins": [row._asdict() for row in self.bins]}


def agreement(probabilities: Sequence[float | None], successes: Sequence[bool], bins: int = BINS) -> Agreement:
    """Compare an evaluator with the environment.

    Args:
        probabilities: The evaluator's probabilities of success of N episodes; None = it abstained. From 0.5 on, an
            episode is a success of the evaluator.
        successes: The environment's verdicts on the N episodes.
        bins: Number of bins.
    """
    judged = np.array([probability is not None for probability in probabilities], dtype=bool)
    values = np.array([probability for probability in probabilities if probability is not None], dtype=np.float64)
    actual = np.array(successes, dtype=bool)
    truth, abstained = actual[judged], actual[~judged]
    positive = values >= THRESHOLD
    rows = _bins(values, truth, bins)
    errors = [row.episodes * abs((row.probability or 0) - (row.successes or 0)) for row in rows]
    return Agreement(
        precision=Share(int((positive & truth).sum()), int(positive.sum())),
        recall=Share(int((positive & truth).sum()), int(truth.sum())),
        false_positives=Share(int((positive & ~truth).sum()), int((~truth).sum())),
        accuracy=Share(int((positive == truth).sum()), len(truth)),
        abstentions=Share(len(abstained), len(actual)),
        successes_abstained=Share(int(abstained.sum()), len(abstained)),
        brier=float(np.mean((values - truth) ** 2)) if len(values) else None,
        ece=sum(errors) / len(values) if len(values) else None,
        bins=rows,
    )


def _bins(values: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], count: int) -> tuple[Bin, ...]:
    """Return the bins of equal width; 1 is in the last one."""
    places = np.minimum((values * count).astype(int), count - 1)
    rows = []
    for place in range(count):
        inside = places == place
        means = (float(values[inside].mean()), float(truth[inside].mean())) if inside.any() else (None, None)
        rows.append(Bin(place / count, (place + 1) / count, int(inside.sum()), *means))
    return tuple(rows)
