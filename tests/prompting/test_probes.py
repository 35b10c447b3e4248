"""Answers read as yes or no, shares and probes: numbers that are known on paper."""

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
def test_what_an_answer_says(answer: str, target: str, yes: bool) -> None:
    assert says(answer, target) is yes


@given(st.sampled_from(["yes", "No", "CAN'T", "isn\u2019t"]), st.text(max_size=40), st.text(max_size=10))
def test_the_first_yes_or_no_decides_whatever_follows(first: str, rest: str, target: str) -> None:
    assert says(f"{first} {rest}", target) is (first == "yes")
    assert says(f"a picture: {first} {rest}", target) is (first == "yes")


def test_wilson_by_hand() -> None:
    """Of 10 all right: centre (1 + z2/20) / (1 + z2/10) with z2 = 3.8416, so 10 / 13.8416 at the low end."""
    each = np.arange(10)
    value, low, high = share(np.ones(10, bool), each)
    assert (value, high) == (1.0, pytest.approx(1.0))
    assert low == pytest.approx(10 / 13.8416, abs=1e-4)
    assert share(np.zeros(10, bool), each).high == pytest.approx(3.8416 / 13.8416, abs=1e-4)
    assert share(np.zeros(0, bool), each[:0]) is None


def test_frames_of_a_group_that_say_the_same_count_once() -> None:
    """Half of 20 groups of 5 are hits, each with a surplus of 2.5: a variance of 20/19 * 20 * 2.5**2 / 100**2, where
    frames that are not alike have 0.25 / 99. So 100 frames count as 100 * 19 / 99, one a group."""
    hits, groups = np.arange(100) % 10 < 5, np.arange(100) // 5
    assert _design_effect(hits, groups) == pytest.approx(99 / 19)
    n = 100 * 19 / 99
    low = (0.5 + 1.96**2 / (2 * n) - 1.96 * np.sqrt(0.25 / n + 1.96**2 / (4 * n**2))) / (1 + 1.96**2 / n)
    assert share(hits, groups).low == pytest.approx(low, abs=1e-4)
    assert _design_effect(hits, np.arange(100)) == pytest.approx(1)
    assert share(hits, np.arange(100) % 5) == share(hits, np.arange(100)), "alike groups count no frame twice"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_a_share_lies_in_its_interval_which_groups_only_widen(frames) -> None:
    hits, groups = (np.array(values) for values in zip(*frames, strict=True))
    found, alone = share(hits, groups), share(hits, np.arange(len(hits)))
    assert -1e-12 <= found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12 <= 1 + 2e-12
    assert found.low <= alone.low + 1e-12 and found.high >= alone.high - 1e-12


def test_kappa_by_hand() -> None:
    """Three of four agree, by chance a half would: (0.75 - 0.5) / (1 - 0.5)."""
    assert agreement([True, True, False, False], [True, False, False, False]) == pytest.approx(0.5)
    assert agreement([True, False], [True, False]) == 1
    assert agreement([True, True], [False, False]) == 0
    assert agreement([True, True], [True, True]) is None


def test_what_a_feature_tells_is_told_and_noise_is_not() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 30))
    told = probe(np.concatenate([noise, 9.0 * HALVES[:, None]], axis=1), HALVES, GROUPS)
    assert told.accuracy.value > 0.95 and told.skill > 0.9
    assert (told.chance, told.frames) == (0.5, 100)
    guessed = probe(noise, HALVES, GROUPS)
    assert guessed.accuracy.low < 0.5 < guessed.accuracy.high


def test_constant_features_are_chance_without_a_warning(recwarn) -> None:
    told = probe(np.ones((100, 4)), HALVES, GROUPS)
    assert told.accuracy.value == pytest.approx(0.5) and abs(told.skill) < 1e-9
    assert not recwarn.list


def test_what_only_tells_groups_apart_tells_nothing() -> None:
    """Each group has a feature of its own and one truth: with its frames on both sides, all is told."""
    truth = np.repeat(np.arange(20) % 2 == 0, 5)
    told = probe(np.eye(20)[GROUPS], truth, GROUPS)
    assert told.accuracy.value < 0.7
    leaking = probe(np.eye(20)[GROUPS], truth, np.arange(100))
    assert leaking.accuracy.value > 0.9


def test_rare_classes_are_left_out() -> None:
    truth = np.array(["left"] * 50 + ["right"] * 48 + ["ahead"] * 2)
    features = np.stack([truth == "left", truth == "right"], axis=1) * 5.0
    groups = np.tile(np.arange(10), 10)
    told = probe(features, truth, groups)
    assert (told.chance, told.frames, told.accuracy.value) == (0.5, 98, pytest.approx(1.0))
    assert probe(features[:50], truth[:50], groups[:50]) is None
    assert probe(features, truth, np.arange(100) % (FOLDS - 1)) is None


def test_more_frames_like_those_of_a_group_do_not_narrow_the_interval() -> None:
    """Half of 20 groups are told right: one group a draw is worth sqrt(1/4/20) = 0.11, twice of it is 0.22."""
    hits, truth, groups = np.tile([True, True, False, False], 10), np.tile([True, False], 20), np.arange(40) // 2
    few = _balanced(hits, truth, groups)
    assert few.value == 0.5 and few.low == pytest.approx(0.5 - 0.22, abs=0.04)
    assert _balanced(np.repeat(hits, 7), np.repeat(truth, 7), np.repeat(groups, 7)) == few


def test_a_class_of_one_group_is_missing_in_some_draws() -> None:
    hits, groups = np.array([True, True, True, False]), np.arange(4)
    found = _balanced(hits, np.array(["near", "near", "near", "far"]), groups)
    assert tuple(found) == (0.5, 0.5, 0.5), "all of near, none of far"
