"""Point estimates with confidence intervals, and the aggregates that summarise a benchmark of several tasks.

The success rate of one run has Wilson's score interval (Wilson 1927). The success rate over several runs, and every
other mean over runs, has an interval from a bootstrap with two levels, runs and episodes. No interval of a success rate
has width zero: 20 successes in 20 episodes are 1.00 [0.84, 1.00].

The aggregates over tasks follow Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". They take
scores of shape [..., tasks, runs], with the same number of runs for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]

CONFIDENCE = 0.95  # default confidence level of all intervals
RESAMPLES = 2000
FEW_SEEDS = 5  # with fewer runs of a method, intervals over runs are too narrow; docs/benchmarks.md has the coverage


class Estimate(NamedTuple):
    """Statistic of a sample with the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Band(NamedTuple):
    """Array of statistics, such as a curve, with the bounds of the confidence interval of each element."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def mean(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the mean along the last axis: [..., n] -> [...].

    Args:
        samples: n >= 1 values of any meaning; for n = 0 the result is NaN.
    """
    return np.asarray(samples.mean(axis=-1))


def iqm(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the interquartile mean along the last axis: [..., n] -> [...].

    The interquartile mean leaves out the n // 4 lowest and the n // 4 highest values.

    Args:
        samples: n >= 1 values; with n < 4 the result is the mean.
    """
    cut = samples.shape[-1] // 4
    return mean(np.sort(samples, axis=-1)[..., cut : samples.shape[-1] - cut])


def wilson(rate: float, trials: float, *, confidence: float = CONFIDENCE) -> Estimate:
    """Compute Wilson's score interval of a success rate.

    Args:
        rate: Fraction of successes, from 0 to 1.
        trials: Number of independent trials, more than 0; not necessarily an integer, for correlated trials.
        confidence: Nominal coverage of the interval, between 0 and 1.
    """
    z = float(ndtri((1 + confidence) / 2))
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
    """Compute a statistic of independent values with its percentile bootstrap interval.

    Args:
        sample: n values, n >= 1. One value, or n equal values, give an interval of width zero.
        statistic: Function from values [..., n] to statistics [...].
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; equal samples and seeds give equal intervals.

    Raises:
        ValueError: If the sample is empty or has more than one dimension.
    """
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a bootstrap needs at least one value in one dimension, not shape {values.shape}")
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return Estimate(*map(float, _percentiles(statistic(values), statistic(values[draws]), confidence)))


def median_interval(sample: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Compute the median of independent values, with an interval between two of the sorted values.

    The interval holds for every continuous distribution: the k-th lowest value is above the median of the distribution
    with the probability of fewer than k heads in n tosses of a coin.

    Args:
        sample: n values, n >= 1. Fewer than 6 values have no interval of .95; its bounds are then -inf and inf.
        confidence: Smallest coverage of the interval, between 0 and 1.

    Raises:
        ValueError: If the sample is empty.
    """
    values = np.sort(np.asarray(sample, dtype=np.float64))
    if not len(values):
        raise ValueError("a median needs at least one value")
    outside = int(np.count_nonzero(bdtr(np.arange(len(values)), len(values), 0.5) <= (1 - confidence) / 2))
    low, high = (values[outside - 1], values[-outside]) if outside else (-np.inf, np.inf)
    return Estimate(float(np.median(values)), float(low), float(high))


def bootstrap_runs(
    runs: Sequence[Sequence[float]], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Compute the mean over runs of the means over episodes, with a two-level percentile bootstrap interval.

    A bootstrap sample draws k - 1 of k runs with replacement, because k draws would make the interval too narrow (Rao
    and Wu 1988). For each drawn run it then draws the episodes with replacement.

    Args:
        runs: For each run the values of its episodes, at least one.
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; equal values and seeds give equal intervals.

    Raises:
        ValueError: If there is no run, or a run has no episode.
    """
    samples = _checked(runs)
    rng = np.random.default_rng(seed)
    slots = max(1, len(samples) - 1)
    # [run, resample, slot]: a run that is drawn into two slots has different episodes in each slot
    means = np.stack([rng.choice(episodes, (resamples, slots, len(episodes))).mean(-1) for episodes in samples])
    run_indices = rng.integers(len(samples), size=(resamples, slots))
    draws = means[run_indices, np.arange(resamples)[:, None], np.arange(slots)].mean(-1)
    value = np.mean([episodes.mean() for episodes in samples])
    return Estimate(*map(float, _percentiles(value, draws, confidence)))


def success_rate(
    runs: Sequence[Sequence[float]], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Compute the mean success rate over runs, with an interval of positive width even for 0 and 1.

    One run has Wilson's interval; several runs have the interval of `stratified_rates`.

    Args:
        runs: For each run the outcomes of its episodes, 0 or 1, at least one.
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; equal values and seeds give equal intervals.

    Raises:
        ValueError: If there is no run, or a run has no episode.
    """
    samples = _checked(runs)
    rates, episodes = np.array([[run.mean() for run in samples]]), np.array([[len(run) for run in samples]])
    if len(samples) == 1:
        return wilson(rates.item(), episodes.item(), confidence=confidence)
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    band = stratified_rates(over_tasks(mean), rates, episodes=episodes, trials=episodes.sum(), **options)
    return Estimate(*map(float, band))


def episode_mean(runs: Sequence[Sequence[float]]) -> Estimate:
    """Compute the mean over runs of episode values with its confidence interval.

    `success_rate` computes it if all values are 0 or 1, otherwise `bootstrap_runs`.

    Args:
        runs: For each run the values of its episodes, at least one.
    """
    outcomes = all(value in (0, 1) for run in runs for value in run)
    return success_rate(runs) if outcomes else bootstrap_runs(runs)


def _checked(runs: Sequence[Sequence[float]]) -> list[NDArray[np.float64]]:
    samples = [np.asarray(episodes, dtype=np.float64) for episodes in runs]
    if not samples or not all(len(episodes) for episodes in samples):
        raise ValueError(f"an interval needs at least one run of at least one episode, not {[len(s) for s in samples]}")
    return samples


def _percentiles(value: Any, draws: NDArray[np.float64], confidence: float) -> tuple[Any, Any, Any]:
    """Return the value and the two percentiles of the draws along their first axis."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return value, low, high


def over_tasks(statistic: Statistic) -> Statistic:
    """Return a statistic of all runs of all tasks together.

    Args:
        statistic: Function from values [..., n] to statistics [...].

    Returns:
        Function from scores [..., tasks, runs] to statistics [...].
    """
    return lambda scores: statistic(scores.reshape(*scores.shape[:-2], -1))


def median(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the median over tasks of the mean over runs: [..., tasks, runs] -> [...].

    Args:
        scores: [..., tasks, runs], with at least one run per task.
    """
    return np.asarray(np.median(scores.mean(axis=-1), axis=-1))


def improvement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the probability that a run of one method has a higher score than a run of another method.

    The result is the mean over tasks. A tie counts one half, so for one task the result is the Mann-Whitney U statistic
    divided by n m.

    Args:
        ours: Scores of the first method, [..., tasks, n].
        theirs: Scores of the second method, [..., tasks, m].

    Returns:
        Probabilities [...].
    """
    difference = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1)))


def spearman(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute Spearman's rank correlation along the last axis; tied values share their mean rank.

    Args:
        ours: The first values, [..., n].
        theirs: The second values, [..., n].

    Returns:
        Correlations [...], from -1 to 1; 0 if the first or the second values are constant.
    """
    from scipy.stats import rankdata  # imported here because it takes a second, and training needs no ranks

    ranks = [rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (ours, theirs)]
    spread = np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
    return np.asarray((ranks[0] * ranks[1]).sum(-1) / np.where(spread, spread, 1))


def performance_profile(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the fraction of runs with a score above each threshold.

    Args:
        scores: Scores [..., tasks, runs].
        thresholds: Thresholds [t].

    Returns:
        Fractions [..., t].
    """
    return np.asarray((scores[..., None] > thresholds).mean(axis=(-3, -2)))


def stratified(
    statistic: Callable[..., NDArray[np.float64]],
    *scores: NDArray[np.float64],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Band:
    """Compute a statistic of the scores of one or several methods, with its stratified bootstrap interval over runs.

    A bootstrap sample draws runs with replacement within each task and each method. It does not draw tasks, because
    the tasks of a benchmark are fixed.

    Args:
        statistic: Function of one array [..., tasks, runs, *rest] per method.
        *scores: One array [tasks, runs, *rest] per method.
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; equal scores and seeds give equal intervals.
    """
    rng = np.random.default_rng(seed)
    draws = [_resample(values, values.shape[1], resamples, rng) for values in scores]
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
    """Compute a statistic of success rates, with an interval over runs and over the episodes of each run.

    A bootstrap sample draws k - 1 of the k runs of each task with replacement (Rao and Wu 1988). For each drawn run
    with s successes in n episodes it then draws a rate from Beta(s + a, n - s + a). This is the posterior under
    Jeffreys' prior (a = 1/2), with a = 1 / (2 k) to divide the prior among the k runs of a task, because a = 1/2 for
    each run would bias their mean. The interval always contains the statistic. If the statistic is 0 or 1, the interval
    is at least as wide as Wilson's interval of `trials` equal outcomes.

    Args:
        statistic: Function of one array [..., tasks, runs] per method, with values from 0 to 1.
        *rates: The success rates [tasks, runs] of each method.
        episodes: Number of episodes of each run: an integer, or an array that broadcasts to [tasks, runs].
        trials: Number of independent outcomes behind the statistic.
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap samples.
        seed: Seed of the bootstrap; equal rates and seeds give equal intervals.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for values in rates:
        runs = values.shape[1]
        counts = np.stack([values * episodes, np.broadcast_to(episodes, values.shape)], axis=-1)
        samples = _resample(counts, max(1, runs - 1), resamples, rng)
        successes, played = samples[..., 0], samples[..., 1]
        draws.append(rng.beta(successes + 0.5 / runs, np.maximum(played - successes, 0) + 0.5 / runs))
    value, low, high = map(np.asarray, _percentiles(statistic(*rates), statistic(*draws), confidence))
    bound = float(wilson(1.0, trials, confidence=confidence).low)
    low = np.where(value >= 1, np.minimum(low, bound), low)
    high = np.where(value <= 0, np.maximum(high, 1 - bound), high)
    return Band(value, np.minimum(low, value), np.maximum(high, value))


def _resample(scores: NDArray[np.float64], count: int, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw runs with replacement within each task: [tasks, runs, *rest] -> [resamples, tasks, count, *rest]."""
    tasks, runs = scores.shape[:2]
    return scores[np.arange(tasks)[:, None], rng.integers(runs, size=(resamples, tasks, count))]


def first_reached(steps: Sequence[float], values: Sequence[float | None], threshold: float) -> float | None:
    """Return the first step at which a curve reaches a threshold.

    Args:
        steps: The environment steps of the points of the curve.
        values: The values of the points; None = no value at this step yet.
        threshold: The threshold.

    Returns:
        The first step with a value of at least `threshold`; None if there is none.
    """
    steps_above = (step for step, value in zip(steps, values, strict=True) if value is not None and value >= threshold)
    return next(steps_above, None)
