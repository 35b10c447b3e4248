"""Point estimates with confidence intervals, and the aggregates that summarise a benchmark of several tasks.

A success rate of one run has Wilson's score interval (Wilson 1927). A success rate over several runs has an interval
from a bootstrap with two levels, runs and episodes, as has every other mean over runs. No interval of a success rate
has width zero: 20 successes in 20 episodes are 1.00 [0.84, 1.00].

The aggregates over tasks are those of Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". They
read scores of shape [..., tasks, runs], with the same number of runs for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

CONFIDENCE = 0.95  # of every interval
RESAMPLES = 2000
FEW_SEEDS = 5  # with fewer runs of a method, intervals over runs are too narrow; docs/benchmarks.md has the coverage


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


def wilson(rate: float, trials: float, *, confidence: float = CONFIDENCE) -> Estimate:
    """Wilson's score interval of a success rate.

    Args:
        rate: The share of successes, from 0 to 1.
        trials: The number of independent trials, more than 0; a fraction where trials are correlated.
        confidence: The coverage that the interval is made for.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    centre = rate + z**2 / (2 * trials)
    spread = z * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return Estimate(rate, min(rate, float((centre - spread) / scale)), max(rate, float((centre + spread) / scale)))


def bootstrap(
    sample: Sequence[float],
    statistic: Statistic = mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The statistic of independent values, with its percentile bootstrap interval.

    Args:
        sample: [n] values, n >= 1. One value, or n equal values, give an interval of width zero.
        statistic: Maps [..., n] to [...].
        confidence: The coverage that the interval is made for.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap; the same sample and seed give the same interval.

    Raises:
        ValueError: If the sample is empty or has more than one dimension.
    """
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a bootstrap needs at least one value in one dimension, not shape {values.shape}")
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return Estimate(*map(float, _percentiles(statistic(values), statistic(values[draws]), confidence)))


def bootstrap_runs(
    runs: Sequence[Sequence[float]], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean over runs of each run's mean over its episodes, with a two-level percentile bootstrap interval.

    A bootstrap sample draws k - 1 of k runs with replacement, as k draws would make the interval too narrow (Rao and
    Wu 1988), and for each drawn run its episodes with replacement.

    Args:
        runs: One sequence of episode values for each run, each of any length >= 1.
        confidence: The coverage that the interval is made for.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap; the same values and seed give the same interval.

    Raises:
        ValueError: If there is no run, or a run has no episode.
    """
    samples = _checked(runs)
    rng = np.random.default_rng(seed)
    slots = max(1, len(samples) - 1)
    # [run, resample, slot]: a run that is drawn into two slots has other episodes in each
    means = np.stack([rng.choice(episodes, (resamples, slots, len(episodes))).mean(-1) for episodes in samples])
    chosen = rng.integers(len(samples), size=(resamples, slots))
    draws = means[chosen, np.arange(resamples)[:, None], np.arange(slots)].mean(-1)
    value = np.mean([episodes.mean() for episodes in samples])
    return Estimate(*map(float, _percentiles(value, draws, confidence)))


def success_rate(
    runs: Sequence[Sequence[float]], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean over runs of each run's success rate, with an interval that has a width at 0 and 1 too.

    Of one run the interval is Wilson's. Of several it is that of `stratified_rates`.

    Args:
        runs: One sequence of outcomes, 0 or 1, for each run, each of any length >= 1.
        confidence: The coverage that the interval is made for.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap; the same values and seed give the same interval.

    Raises:
        ValueError: If there is no run, or a run has no episode.
    """
    samples = _checked(runs)
    rates, episodes = np.array([[one.mean() for one in samples]]), np.array([[len(one) for one in samples]])
    if len(samples) == 1:
        return wilson(rates.item(), episodes.item(), confidence=confidence)
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    band = stratified_rates(over_tasks(mean), rates, episodes=episodes, trials=episodes.sum(), **options)
    return Estimate(*map(float, band))


def episode_mean(runs: Sequence[Sequence[float]]) -> Estimate:
    """The mean over runs of a measure of their episodes: a success rate where every value is 0 or 1.

    Args:
        runs: One sequence of episode values for each run, each of any length >= 1.
    """
    outcomes = all(value in (0, 1) for run in runs for value in run)
    return success_rate(runs) if outcomes else bootstrap_runs(runs)


def _checked(runs: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    samples = [np.asarray(episodes, dtype=np.float64) for episodes in runs]
    if not samples or not all(len(episodes) for episodes in samples):
        raise ValueError(f"an interval needs at least one run of at least one episode, not {[len(s) for s in samples]}")
    return samples


def _percentiles(value: Any, draws: NDArray[np.float64], confidence: float) -> tuple[Any, Any, Any]:
    """The value and the percentiles of the draws along their first axis."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return value, low, high


def over_tasks(statistic: Statistic) -> Statistic:
    """The statistic of all runs of all tasks together: [..., tasks, runs] -> [...]."""
    return lambda scores: statistic(scores.reshape(*scores.shape[:-2], -1))


def median(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the tasks of each task's mean: [..., tasks, runs] -> [...]."""
    return np.asarray(np.median(scores.mean(axis=-1), axis=-1))


def improvement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a run of ours is better than one of theirs on the same task: the mean over the tasks.

    A tie counts one half, so for one task this is Mann and Whitney's U divided by n m.

    Args:
        ours: Scores [..., tasks, n].
        theirs: Scores [..., tasks, m].
    """
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1)))


def spearman(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation along the last axis: [..., n], [..., n] -> [...]; ties share their mean rank.

    0 where one side is constant.
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
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Band:
    """A statistic of one or several methods' scores, with its stratified bootstrap interval over runs.

    A bootstrap sample draws runs with replacement within each task and each method. It never draws tasks, because
    these are fixed.

    Args:
        statistic: Of one array [..., tasks, runs, *rest] for each method.
        *scores: Of each method an array [tasks, runs, *rest].
        confidence: The coverage that the interval is made for.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap; the same scores and seed give the same interval.
    """
    rng = np.random.default_rng(seed)
    draws = [_drawn(values, values.shape[1], resamples, rng) for values in scores]
    return Band(*map(np.asarray, _percentiles(statistic(*scores), statistic(*draws), confidence)))


def stratified_rates(
    statistic: Callable[..., NDArray[np.float64]],
    *rates: NDArray[np.float64],
    episodes: int | NDArray[np.int64],
    trials: float,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Band:
    """A statistic of methods' success rates, with an interval over runs and over the episodes of each run.

    A bootstrap sample draws k - 1 of the k runs of each task with replacement (Rao and Wu 1988). For each drawn run
    with s successes in n episodes it then draws a rate from Beta(s + a, n - s + a): the posterior of Jeffreys' prior,
    whose a = 1/2 is shared out over the runs of a task, a = 1 / (2 k), as k times 1/2 would bias their mean.
    Where the statistic is 0 or 1, the interval is at least as wide as Wilson's of `trials` equal outcomes, and
    everywhere it contains the statistic.

    Args:
        statistic: Of one array [..., tasks, runs] for each method, with values from 0 to 1.
        *rates: Of each method the success rates [tasks, runs].
        episodes: Of each run: a number, or an array that broadcasts to [tasks, runs].
        trials: How many independent outcomes the statistic stands for.
        confidence: The coverage that the interval is made for.
        resamples: Number of bootstrap samples.
        seed: Of the bootstrap; the same rates and seed give the same interval.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for values in rates:
        runs = values.shape[1]
        counts = np.stack([values * episodes, np.broadcast_to(episodes, values.shape)], axis=-1)
        drawn = _drawn(counts, max(1, runs - 1), resamples, rng)
        successes, played = drawn[..., 0], drawn[..., 1]
        draws.append(rng.beta(successes + 0.5 / runs, np.maximum(played - successes, 0) + 0.5 / runs))
    value, low, high = map(np.asarray, _percentiles(statistic(*rates), statistic(*draws), confidence))
    bound = float(wilson(1.0, trials, confidence=confidence).low)
    low = np.where(value >= 1, np.minimum(low, bound), low)
    high = np.where(value <= 0, np.maximum(high, 1 - bound), high)
    return Band(value, np.minimum(low, value), np.maximum(high, value))


def _drawn(
    scores: NDArray[np.float64], count: int, resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """[resamples, tasks, count, *rest] of scores [tasks, runs, *rest]: runs drawn with replacement within each task."""
    tasks, runs = scores.shape[:2]
    return scores[np.arange(tasks)[:, None], rng.integers(runs, size=(resamples, tasks, count))]


def first_reached(steps: Sequence[float], values: Sequence[float | None], threshold: float) -> float | None:
    """The first step at which a curve is at or above a threshold; None if it never is.

    Args:
        steps: Of the curve's points.
        values: One for each step; None where the curve has no value yet.
        threshold: The value to reach.
    """
    reached = (step for step, value in zip(steps, values, strict=True) if value is not None and value >= threshold)
    return next(reached, None)
