"""Numbers with their uncertainty: bootstrap intervals, and what a benchmark of several tasks is summed up in.

The aggregates over tasks are those of Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". They
read scores [..., tasks, runs], the same number of runs for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Estimate(NamedTuple):
    """A statistic of a sample and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Band(NamedTuple):
    """A statistic that is an array, such as a curve, and the ends of its confidence interval at each place."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def mean(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean along the last axis: [..., n] -> [...]."""
    return np.asarray(samples.mean(axis=-1))


def iqm(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interquartile mean along the last axis: the mean without the lowest and the highest quarter (n // 4 each)."""
    cut = samples.shape[-1] // 4
    return mean(np.sort(samples, axis=-1)[..., cut : samples.shape[-1] - cut])


def bootstrap(
    sample: Sequence[float],
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The statistic of independent values [n], n >= 1, with its percentile bootstrap interval.

    The same sample and seed give the same interval. One value gives an interval without width: it says nothing
    about spread.
    """
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a bootstrap needs at least one value in one dimension, not shape {values.shape}")
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(values[draws]), [tail, 1 - tail])
    return Estimate(float(statistic(values)), float(low), float(high))


def bootstrap_runs(
    runs: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean over runs of each run's mean over its episodes, with a two-level percentile bootstrap interval.

    runs: one sequence of episode values per run, each of any length >= 1. A resample draws runs with replacement,
    and for each drawn run its episodes with replacement, since both differ by chance (Davison and Hinkley 1997,
    section 3.8). The same values and seed give the same interval.
    """
    samples = [np.asarray(episodes, dtype=np.float64) for episodes in runs]
    if not samples or not all(len(episodes) for episodes in samples):
        raise ValueError(f"a bootstrap needs at least one run of at least one episode, not {[len(s) for s in samples]}")
    rng = np.random.default_rng(seed)
    means = np.stack([rng.choice(episodes, (resamples, len(samples), len(episodes))).mean(-1) for episodes in samples])
    chosen = rng.integers(len(samples), size=(resamples, len(samples)))
    # means [run, resample, slot]: a run that is drawn into two slots has other episodes in each
    draws = means[chosen, np.arange(resamples)[:, None], np.arange(len(samples))].mean(-1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(float(np.mean([episodes.mean() for episodes in samples])), float(low), float(high))


def over_tasks(statistic: Statistic) -> Statistic:
    """The statistic of all runs of all tasks together: [..., tasks, runs] -> [...]."""
    return lambda scores: statistic(scores.reshape(*scores.shape[:-2], -1))


def median(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the tasks of each task's mean: [..., tasks, runs] -> [...]."""
    return np.asarray(np.median(scores.mean(axis=-1), axis=-1))


def improvement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a run of ours is better than one of theirs on the same task: the mean over the tasks.

    ours [..., tasks, n], theirs [..., tasks, m] -> [...]. A tie counts one half, so for one task this is Mann and
    Whitney's U over n m.
    """
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1)))


def spearman(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation along the last axis: [..., n], [..., n] -> [...]; ties share their mean rank.

    0 where one side is constant, which says nothing about the other.
    """
    ranks = [rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (ours, theirs)]
    spread = np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
    return np.asarray((ranks[0] * ranks[1]).sum(-1) / np.where(spread, spread, 1))


def performance_profile(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the runs whose score is above each threshold: [..., tasks, runs], [t] -> [..., t]."""
    return np.asarray((scores[..., None] > thresholds).mean(axis=(-3, -2)))


def stratified(
    statistic: Callable[..., NDArray[np.float64]],
    *scores: NDArray[np.float64],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Band:
    """A statistic of one method's scores [tasks, runs], or of several methods', with its stratified bootstrap interval.

    A resample draws runs with replacement within each task and each method, never tasks: these are fixed, runs are what
    chance gives. statistic: of one array [..., tasks, runs, *rest] for each given. The same scores and seed give the
    same interval.
    """
    rng = np.random.default_rng(seed)
    draws = [_redrawn(values, resamples, rng) for values in scores]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(*draws), [tail, 1 - tail], axis=0)
    return Band(np.asarray(statistic(*scores)), low, high)


def _redrawn(scores: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    tasks, runs = scores.shape[:2]
    return scores[np.arange(tasks)[:, None], rng.integers(runs, size=(resamples, tasks, runs))]


def first_reached(steps: Sequence[float], values: Sequence[float | None], threshold: float) -> float | None:
    """The first of the steps at which a curve is at the threshold or above; None if it never is.

    values: one per step, None where there is nothing yet.
    """
    reached = (step for step, value in zip(steps, values, strict=True) if value is not None and value >= threshold)
    return next(reached, None)
