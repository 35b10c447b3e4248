"""Accuracy of answers, and of linear probes on embeddings, with the chance level.

A linear probe (Alain and Bengio 2016) is a logistic regression on frozen states. It is cross-validated with groups:
frames of an episode are alike, so they are never both in training and in test folds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pr2l.core.statistics import Estimate, wilson
from pr2l.data.questions import COUNTS, DIRECTIONS, DISTANCES

FOLDS = 5
RESAMPLES = 2000  # of the bootstrap
PENALTY = 0.01  # inverse strength of the ridge penalty: there are more features than frames
YES, NO = "yes", {"no", "not", "nowhere", "nothing", "none", "zero", "cannot"}  # and isn't, can't, ...
PRESENT_ANSWERS = {*DIRECTIONS, *DISTANCES, *COUNTS[1:]}  # answers to where, how far and how many that mean yes


class Probe(NamedTuple):
    """Result of a linear probe.

    Attributes:
        accuracy: Balanced accuracy from 0 to 1 (mean over classes of the recall), with a 95 % interval over groups.
        chance: Accuracy of guessing: one over the number of classes.
        frames: Number of frames.
    """

    accuracy: Estimate
    chance: float
    frames: int

    @property
    def skill(self) -> float:
        """Accuracy rescaled so that 0 is chance and 1 is perfect."""
        return (self.accuracy.value - self.chance) / (1 - self.chance)


def says(answer: str, target: str) -> bool:
    """Whether an answer says that the target is present.

    The first yes or no word decides. Without one, an answer says so if it names the target, or is a direction, a
    distance or a count such as "far left", "near" or "two".

    Args:
        answer: The VLM's answer.
        target: Name of the target; "" = unknown.
    """
    answer, target = (text.lower().replace("\u2019", "'") for text in (answer, target))  # a typographic apostrophe
    answer = answer.strip(" .")
    words = re.findall(r"[\w']+", answer)
    decided = next((word for word in words if word == YES or word in NO or word.endswith("n't")), None)
    if decided is not None:
        return decided == YES
    return answer in PRESENT_ANSWERS or (target != "" and f" {target} " in f" {' '.join(words)} ")


def share(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> Estimate | None:
    """The share of hits with Wilson's 95 % interval, for frames that are alike within a group.

    The number of frames is divided by the design effect (Korn and Graubard 1998), which is at least 1. If all or none
    are hits, the design effect is unknown, and every frame counts.

    Args:
        hits: [N].
        groups: [N] group of each frame.

    Returns:
        None for no frames.
    """
    if not len(hits):
        return None
    return wilson(float(hits.mean()), len(hits) / max(1.0, _design_effect(hits, groups)))


def _design_effect(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float:
    """Variance of the share of hits, relative to that of independent frames."""
    rate, number = hits.mean(), np.unique(groups, return_inverse=True)[1]
    surplus = np.bincount(number, weights=hits - rate)  # hits of each group above the average
    if len(surplus) < 2 or rate in (0, 1):
        return 1.0
    variance = len(surplus) / (len(surplus) - 1) * (surplus**2).sum() / len(hits) ** 2
    return float(variance / (rate * (1 - rate) / (len(hits) - 1)))


def agreement(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa of two prompts' answers: 1 = always the same, 0 = chance; None if all answers are the same."""
    if len({*one, *other}) == 1:
        return None
    return float(cohen_kappa_score(one, other))


def probe(features: npt.NDArray[Any], labels: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Probe | None:
    """Accuracy of a logistic regression, cross-validated over FOLDS folds of whole groups.

    Args:
        features: [N, F].
        labels: [N] classes. Classes in fewer than FOLDS groups are left out.
        groups: [N] group of each frame.

    Returns:
        None if fewer than two classes remain.
    """
    classes = [value for value in np.unique(labels) if len(np.unique(groups[labels == value])) >= FOLDS]
    keep = np.isin(labels, classes)
    if len(classes) < 2:
        return None
    features, labels, groups = features[keep], labels[keep], groups[keep]
    # A PCA with all components: with more features than frames it makes the fit much faster and loses nothing.
    regression = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=300)
    classifier = make_pipeline(StandardScaler(), PCA(), regression)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    # One thread: for small matrices more threads are slower. With constant features the PCA divides 0 by 0, and the
    # accuracy is chance.
    with threadpool_limits(1, "blas"), np.errstate(invalid="ignore"):
        predicted = cross_val_predict(classifier, features, labels, groups=groups, cv=folds)
    return Probe(_balanced(predicted == labels, labels, groups), 1 / len(classes), len(labels))


def _balanced(hits: npt.NDArray[np.bool_], labels: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Estimate:
    """Balanced accuracy of hits [N], with its 95 % bootstrap interval over groups; draws that miss a class are omitted.

    At 1 the interval is at least as wide as Wilson's over groups.
    """
    of_class = labels[:, None] == np.unique(labels)
    number = np.unique(groups, return_inverse=True)[1]
    frames, right = np.zeros((2, number.max() + 1, of_class.shape[1]))  # [groups, classes]
    np.add.at(frames, number, of_class)
    np.add.at(right, number, of_class & hits[:, None])
    counts = np.random.default_rng(0).multinomial(len(frames), np.full(len(frames), 1 / len(frames)), RESAMPLES)
    counts = counts[(counts @ frames > 0).all(axis=1)]
    draws = (counts @ right / (counts @ frames)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    value = float((right.sum(0) / frames.sum(0)).mean())
    if value in (0, 1):
        border = wilson(value, len(frames))
        low, high = min(low, border.low), max(high, border.high)
    return Estimate(value, float(low), float(high))
