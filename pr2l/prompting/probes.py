"""Accuracy of answers, and of linear probes on embeddings, with the chance level.

A linear probe (Alain and Bengio 2016) is a logistic regression on frozen states. Frames of one episode are similar, so
cross-validation puts all of them into the same fold.
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
from pr2l.core.types import Segment
from pr2l.data.questions import COUNTS, DIRECTIONS, DISTANCES

LayerSegment = tuple[int, Segment]  # layer as a negative index from the end, and segment

FOLDS = 5
RESAMPLES = 2000  # number of bootstrap resamples
PENALTY = 0.01  # inverse strength of the ridge penalty: there are more features than frames
YES, NO = "yes", {"no", "not", "nowhere", "nothing", "none", "zero", "cannot"}  # and isn't, can't, ...
PRESENT_ANSWERS = {*DIRECTIONS, *DISTANCES, *COUNTS[1:]}  # answers to "where", "how far", "how many" that mean yes


class Probe(NamedTuple):
    """Result of a linear probe.

    Attributes:
        accuracy: Balanced accuracy (mean recall of the classes) from 0 to 1, with a 95 % interval over groups.
        chance: Accuracy of guessing: one divided by the number of classes.
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
    """Return whether an answer says that the target is present.

    The first yes or no word decides. Without such a word, the answer counts as yes if it names the target, or if it is
    a direction, a distance or a count such as "far left", "near" or "two".

    Args:
        answer: Answer of the VLM.
        target: Name of the target; "" = unknown.
    """
    answer, target = (text.lower().replace("\u2019", "'") for text in (answer, target))  # a typographic apostrophe
    answer = answer.strip(" .")
    words = re.findall(r"[\w']+", answer)
    deciding_word = next((word for word in words if word == YES or word in NO or word.endswith("n't")), None)
    if deciding_word is not None:
        return deciding_word == YES
    return answer in PRESENT_ANSWERS or (target != "" and f" {target} " in f" {' '.join(words)} ")


def share(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> Estimate | None:
    """Return the fraction of hits with Wilson's 95 % interval, for frames that are similar within a group.

    The interval uses the number of frames divided by the design effect (Korn and Graubard 1998), which is at least 1.
    If all frames are hits or none is, the design effect is unknown, and 1 is used.

    Args:
        hits: [N] whether each frame is a hit.
        groups: [N] group of each frame.

    Returns:
        The fraction from 0 to 1; None if there are no frames.
    """
    if not len(hits):
        return None
    return wilson(float(hits.mean()), len(hits) / max(1.0, _design_effect(hits, groups)))


def _design_effect(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float:
    """Return the variance of the fraction of hits, divided by the variance for independent frames."""
    rate, number = hits.mean(), np.unique(groups, return_inverse=True)[1]
    surplus = np.bincount(number, weights=hits - rate)  # hits of each group above the average
    if len(surplus) < 2 or rate in (0, 1):
        return 1.0
    variance = len(surplus) / (len(surplus) - 1) * (surplus**2).sum() / len(hits) ** 2
    return float(variance / (rate * (1 - rate) / (len(hits) - 1)))


def agreement(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Return Cohen's kappa between the answers of two prompts.

    Args:
        first: [N] whether each answer of the first prompt says yes.
        second: [N] the same for the second prompt.

    Returns:
        1 = equal answers, 0 = chance agreement; None if all answers of both prompts are the same.
    """
    if len({*first, *second}) == 1:
        return None
    return float(cohen_kappa_score(first, second))


def probe(features: npt.NDArray[Any], labels: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Probe | None:
    """Return the accuracy of a logistic regression, cross-validated over FOLDS folds of whole groups.

    Args:
        features: [N, F] states of the frames.
        labels: [N] class of each frame. Classes in fewer than FOLDS groups are left out.
        groups: [N] group of each frame.

    Returns:
        The probe's result; None if fewer than two classes remain.
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
    # One thread: for small matrices more threads are slower. With constant features the PCA divides 0 by 0; the
    # accuracy is then at chance level.
    with threadpool_limits(1, "blas"), np.errstate(invalid="ignore"):
        predicted = cross_val_predict(classifier, features, labels, groups=groups, cv=folds)
    return Probe(_balanced(predicted == labels, labels, groups), 1 / len(classes), len(labels))


def _balanced(hits: npt.NDArray[np.bool_], labels: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Estimate:
    """Return the balanced accuracy of hits [N], with its 95 % bootstrap interval over groups.

    Resamples that lack a class are omitted. At 0 and 1 the interval is at least as wide as Wilson's over groups.
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
