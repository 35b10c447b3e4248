"""Numbers with their uncertainty: bootstrap intervals and the interquartile mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Estimate(NamedTuple):
    """A statistic of a sample and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


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
