"""What can be told from an answer, and from an embedding by a linear probe, with what chance alone would tell.

A linear probe (Alain and Bengio 2016) is a logistic regression on frozen states: what it can tell, a policy need not
compute. Every frame is told by a probe that was fitted without its group, so that neighbouring frames of an episode,
which look alike, are never on both sides.
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
TOLD = {*DIRECTIONS, *DISTANCES, *COUNTS[1:]}  # whole answers to where, how far and how many that say it is there


class Probe(NamedTuple):
    """Balanced accuracy in 0..1, the mean over classes of the share told right, with its 95 % interval over groups.

    chance: what guessing gets, one over the number of classes; frames: how many were told.
    """

    accuracy: Estimate
    chance: float
    frames: int

    @property
    def skill(self) -> float:
        """0 = chance, 1 = everything is told."""
        return (self.accuracy.value - self.chance) / (1 - self.chance)


def says(answer: str, target: str) -> bool:
    """Whether an answer says that the target is there: by the first yes or no in it, or else by naming the target.

    "far left", "near" and "two" say so too, as answers to where, how far and how many. Anything else does not.
    """
    answer, target = (text.lower().replace("\u2019", "'") for text in (answer, target))  # a typographic apostrophe
    answer = answer.strip(" .")
    words = re.findall(r"[\w']+", answer)
    decided = next((word for word in words if word == YES or word in NO or word.endswith("n't")), None)
    if decided is not None:
        return decided == YES
    return answer in TOLD or (target != "" and f" {target} " in f" {' '.join(words)} ")


def share(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> Estimate | None:
    """The share of hits [N] with its 95 % interval by Wilson (1927), sound for shares near 0 and 1 too; None of none.

    Frames of a group [N] are alike, so they count as fewer: N over the design effect (Korn and Graubard 1998), which
    is at least 1. Where all frames are hits, or none is, nothing is known of it, and each counts.
    """
    if not len(hits):
        return None
    return wilson(float(hits.mean()), len(hits) / max(1.0, _design_effect(hits, groups)))


def _design_effect(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> float:
    """The variance of the share of hits, over what it would be if frames of a group [N] were not alike."""
    rate, number = hits.mean(), np.unique(groups, return_inverse=True)[1]
    surplus = np.bincount(number, weights=hits - rate)  # of each group's hits
    if len(surplus) < 2 or rate in (0, 1):
        return 1.0
    variance = len(surplus) / (len(surplus) - 1) * (surplus**2).sum() / len(hits) ** 2
    return float(variance / (rate * (1 - rate) / (len(hits) - 1)))


def agreement(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa of two prompts' answers: 1 = always the same, 0 = as by chance; None where neither ever varies."""
    if len({*one, *other}) == 1:
        return None
    return float(cohen_kappa_score(one, other))


def probe(features: npt.NDArray[Any], truth: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Probe | None:
    """How well the truth [N] can be told linearly from features [N, F], over FOLDS folds of whole groups [N].

    Classes with fewer frames, or in fewer groups, than there are folds are left out; None where one is left at most.
    """
    classes = [value for value in np.unique(truth) if len(np.unique(groups[truth == value])) >= FOLDS]
    keep = np.isin(truth, classes)
    if len(classes) < 2:
        return None
    features, truth, groups = features[keep], truth[keep], groups[keep]
    # The PCA keeps everything: frames span a space of their number, and a fit there takes a fraction of the time.
    regression = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=300)
    telling = make_pipeline(StandardScaler(), PCA(), regression)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    # One thread: these matrices are small, and threads that wait for each other take longer than one alone.
    # Where all features are constant the PCA divides 0 by 0, and all is chance.
    with threadpool_limits(1, "blas"), np.errstate(invalid="ignore"):
        told = cross_val_predict(telling, features, truth, groups=groups, cv=folds)
    return Probe(_balanced(told == truth, truth, groups), 1 / len(classes), len(truth))


def _balanced(hits: npt.NDArray[np.bool_], truth: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Estimate:
    """Mean over classes of the share of hits [N], with its 95 % bootstrap interval.

    Whole groups are drawn, as frames of one are alike; draws that miss a class are left out.
    """
    of_class = truth[:, None] == np.unique(truth)
    number = np.unique(groups, return_inverse=True)[1]
    frames, right = np.zeros((2, number.max() + 1, of_class.shape[1]))  # of each group and class
    np.add.at(frames, number, of_class)
    np.add.at(right, number, of_class & hits[:, None])
    times = np.random.default_rng(0).multinomial(len(frames), np.full(len(frames), 1 / len(frames)), RESAMPLES)
    times = times[(times @ frames > 0).all(axis=1)]
    drawn = (times @ right / (times @ frames)).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float((right.sum(0) / frames.sum(0)).mean()), float(low), float(high))
