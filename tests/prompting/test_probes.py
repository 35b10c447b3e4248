"""Answers read as yes or no, rates with intervals, and linear probes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.prompting.probes import FOLDS, _balanced, _design_effect, agreement, probe, says, share

GROUPS = np.repeat(np.arange(20), 5)
HALVES = np.tile([True, False], 50)


@pytest.mark.parametrize(
    ("answer", "target", "yes"),
    [
        ("yes", "imp", True),
        ("Yes, there is no doubt.", "imp", True),
        ("no", "imp", False),
        ("No, a toilet is not found in this room.", "toilet", False),
        ("There is no spider in this image.", "spider", False),
        ("far left", "imp", True),
        ("near", "imp", True),
        ("two", "imp", True),
        ("zero", "imp", False),
        ("nowhere", "imp", False),
        ("imp and hell knight", "hell knight", True),
        ("imp and hell knight", "knight of hell", False),
        ("the room has two doors on the left", "imp", False),
        ("imps", "imp", False),
        ("nothing", "imp", False),
        ("", "imp", False),
        ("a picture", "", False),
        ("", "", False),
        (".", "", False),
        ("I can't see a spider in this image.", "spider", False),
        ("There aren't any spiders, nor a spider", "spider", False),
        ("The thing at the left wasn't a spider.", "spider", False),
        ("There isn\u2019t a spider here", "spider", False),
        ("There is a devil's door", "devil\u2019s door", True),
    ],
)
def test_says_reads_an_answer_as_yes_or_no(answer: str, target: str, yes: bool) -> None:
    assert says(answer, target) is yes


@given(st.sampled_from(["yes", "No", "CAN'T", "isn\u2019t"]), st.text(max_size=40), st.text(max_size=10))
def test_first_yes_or_no_of_an_answer_decides(first: str, rest: str, target: str) -> None:
    assert says(f"{first} {rest}", target) is (first == "yes")
    assert says(f"a picture: {first} {rest}", target) is (first == "yes")


def test_share_of_independent_frames_has_wilson_interval() -> None:
    """For 10 hits of 10 the lower end is 10 / (10 + z^2) with z^2 = 3.8416."""
    groups = np.arange(10)
    value, low, high = share(np.ones(10, bool), groups)
    assert (value, high) == (1.0, pytest.approx(1.0))
    assert low == pytest.approx(10 / 13.8416, abs=1e-4)
    assert share(np.zeros(10, bool), groups).high == pytest.approx(3.8416 / 13.8416, abs=1e-4)
    assert share(np.zeros(0, bool), groups[:0]) is None


def test_equal_frames_of_a_group_widen_the_interval() -> None:
    """In 10 of 20 groups all 5 frames are hits.

    The surplus of each group is 2.5, so the variance is 20/19 * 20 * 2.5**2 / 100**2, compared with 0.25 / 99 for
    independent frames. So 100 frames count as 100 * 19 / 99.
    """
    hits, groups = np.arange(100) % 10 < 5, np.arange(100) // 5
    assert _design_effect(hits, groups) == pytest.approx(99 / 19)
    n = 100 * 19 / 99
    low = (0.5 + 1.96**2 / (2 * n) - 1.96 * np.sqrt(0.25 / n + 1.96**2 / (4 * n**2))) / (1 + 1.96**2 / n)
    assert share(hits, groups).low == pytest.approx(low, abs=1e-4)
    assert _design_effect(hits, np.arange(100)) == pytest.approx(1)
    assert share(hits, np.arange(100) % 5) == share(hits, np.arange(100)), "at least 1 for equal groups"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_share_is_in_its_interval_and_groups_never_narrow_it(frames) -> None:
    hits, groups = (np.array(values) for values in zip(*frames, strict=True))
    grouped, independent = share(hits, groups), share(hits, np.arange(len(hits)))
    assert -1e-12 <= grouped.low <= grouped.value + 1e-12 and grouped.value <= grouped.high + 1e-12 <= 1 + 2e-12
    assert grouped.low <= independent.low + 1e-12 and grouped.high >= independent.high - 1e-12


def test_agreement_is_cohens_kappa() -> None:
    """Three of four answers agree, and half would by chance: (0.75 - 0.5) / (1 - 0.5)."""
    assert agreement([True, True, False, False], [True, False, False, False]) == pytest.approx(0.5)
    assert agreement([True, False], [True, False]) == 1
    assert agreement([True, True], [False, False]) == 0
    assert agreement([True, True], [True, True]) is None


def test_probe_predicts_from_a_feature_but_not_from_noise() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 30))
    result = probe(np.concatenate([noise, 9.0 * HALVES[:, None]], axis=1), HALVES, GROUPS)
    assert result.accuracy.value > 0.95 and result.skill > 0.9
    assert (result.chance, result.frames) == (0.5, 100)
    noise_only = probe(noise, HALVES, GROUPS)
    assert noise_only.accuracy.low < 0.5 < noise_only.accuracy.high


def test_probe_of_constant_features_is_at_chance_without_a_warning(recwarn) -> None:
    result = probe(np.ones((100, 4)), HALVES, GROUPS)
    assert result.accuracy.value == pytest.approx(0.5) and abs(result.skill) < 1e-9
    assert not recwarn.list


def test_folds_do_not_split_groups() -> None:
    """Each group has its own feature and one label, so folds that split groups would give an accuracy of 1."""
    labels = np.repeat(np.arange(20) % 2 == 0, 5)
    result = probe(np.eye(20)[GROUPS], labels, GROUPS)
    assert result.accuracy.value < 0.7
    split = probe(np.eye(20)[GROUPS], labels, np.arange(100))
    assert split.accuracy.value > 0.9


def test_probe_leaves_out_classes_in_few_groups() -> None:
    labels = np.array(["left"] * 50 + ["right"] * 48 + ["ahead"] * 2)
    features = np.stack([labels == "left", labels == "right"], axis=1) * 5.0
    groups = np.tile(np.arange(10), 10)
    result = probe(features, labels, groups)
    assert (result.chance, result.frames, result.accuracy.value) == (0.5, 98, pytest.approx(1.0))
    assert probe(features[:50], labels[:50], groups[:50]) is None
    assert probe(features, labels, np.arange(100) % (FOLDS - 1)) is None


def test_copies_of_frames_in_a_group_do_not_narrow_the_interval() -> None:
    """Half of 20 groups are predicted right: the standard error is sqrt(1/4/20) = 0.11, the interval +- 0.22."""
    hits, labels, groups = np.tile([True, True, False, False], 10), np.tile([True, False], 20), np.arange(40) // 2
    interval = _balanced(hits, labels, groups)
    assert interval.value == 0.5 and interval.low == pytest.approx(0.5 - 0.22, abs=0.04)
    assert _balanced(np.repeat(hits, 7), np.repeat(labels, 7), np.repeat(groups, 7)) == interval


def test_resamples_without_a_class_are_omitted() -> None:
    hits, groups = np.array([True, True, True, False]), np.arange(4)
    interval = _balanced(hits, np.array(["near", "near", "near", "far"]), groups)
    assert tuple(interval) == (0.5, 0.5, 0.5), "all of near and none of far are right"
