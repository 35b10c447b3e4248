"""Whether the order of methods in a paper holds in a suite: for each two methods, the sign of the difference.

| the interval of (paper's better method - other method) | verdict |
|---|---|
| is above 0 | holds |
| is below 0 | reversed |
| contains 0 | undecided |
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pr2l.core.statistics import Band, stratified_rates

Rates = NDArray[np.float64]
"""Success rates [tasks, runs]."""


def order(paper: Mapping[str, float], rates: Mapping[str, Rates], episodes: int) -> dict[str, Any]:
    """Compare the order of a paper's methods with the success rates of a suite.

    Args:
        paper: The paper's success rates by method.
        rates: Success rates by method, of the methods that have runs.
        episodes: Number of episodes of each run.

    Returns:
        "methods": for each method [rate in the paper, mean rate here or None]. "pairs": for each two methods whose
        rates differ in the paper, [better, other, estimate, verdict], with None for pairs without runs. "answer": one
        sentence.
    """
    ranked = sorted(paper, key=lambda method: -paper[method])
    pairs = [_pair(rates, *two, episodes) for two in permutations(ranked, 2) if paper[two[0]] > paper[two[1]]]
    means = {method: float(rates[method].mean()) if method in rates else None for method in ranked}
    return {
        "methods": {method: [paper[method], means[method]] for method in ranked},
        "pairs": pairs,
        "answer": _answer([verdict for *_, verdict in pairs]),
    }


def _pair(rates: Mapping[str, Rates], better: str, other: str, episodes: int) -> list[Any]:
    if better not in rates or other not in rates:
        return [better, other, None, None]
    value, low, high = map(float, difference(rates[better], rates[other], episodes))
    verdict = "holds" if low > 0 else "reversed" if high < 0 else "undecided"
    return [better, other, [value, low, high], verdict]


def difference(ours: Rates, theirs: Rates, episodes: int) -> Band:
    """Return the difference of two mean success rates, with its 95 % interval over runs and episodes.

    Args:
        ours: Success rates [tasks, n].
        theirs: Success rates [tasks, m] that are subtracted.
        episodes: Number of episodes of each run.
    """

    def between_0_and_1(ours: Rates, theirs: Rates) -> Rates:  # as stratified_rates needs
        return np.asarray((1 + ours.mean(axis=(-2, -1)) - theirs.mean(axis=(-2, -1))) / 2)

    trials = min(ours.size, theirs.size) * episodes
    band = stratified_rates(between_0_and_1, ours, theirs, episodes=episodes, trials=trials)
    return Band(*(2 * np.asarray(part) - 1 for part in band))


def _answer(verdicts: list[str | None]) -> str:
    phrases = {"holds": "holds", "reversed": "is reversed", "undecided": "is undecided"}
    counts = {phrase: verdicts.count(verdict) for verdict, phrase in phrases.items()}
    parts = [f"{phrase} in {count}" for phrase, count in counts.items() if count]
    order = f"the order {', '.join(parts)}" if parts else ""
    missing = f"{verdicts.count(None)} have no runs yet" if None in verdicts else ""
    return f"Of {len(verdicts)} pairs, {'; '.join(filter(None, (order, missing)))}."
