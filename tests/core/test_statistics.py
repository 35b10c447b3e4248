"""Statistics of samples small enough to work out by hand."""

import numpy as np
import pytest
import scipy.stats

from pr2l.core.statistics import (
    bootstrap,
    bootstrap_runs,
    first_reached,
    improvement,
    iqm,
    mean,
    median,
    over_tasks,
    performance_profile,
    spearman,
    stratified,
)

# [tasks, runs] of two methods, and what scipy 1.17 (trim_mean, mannwhitneyu) and rliable 1.2 say of them.
OURS = np.array([[0.1, 0.5, 0.9, 0.4, 0.7], [0.0, 0.2, 0.2, 0.3, 0.95], [0.6, 0.8, 0.85, 0.9, 1.0]])
THEIRS = np.array([[0.1, 0.3, 0.5, 0.45], [0.2, 0.25, 0.0, 0.1], [0.7, 0.9, 0.65, 0.3]])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([5.0], 5.0),
        ([1.0, 2.0, 3.0], 2.0),  # fewer than four: nothing is cut
        ([0.0, 1.0, 3.0, 1000.0], 2.0),
        ([-100.0, 2.0, 2.0, 4.0, 4.0, 4.0, 8.0, 900.0], 3.5),  # 2, 4, 4, 4 remain
    ],
)
def test_iqm_cuts_a_quarter_at_each_end(sample, expected):
    assert iqm(np.array(sample)) == expected
    assert iqm(np.array([sample[::-1], sample])).tolist() == [expected, expected]


def test_a_constant_sample_has_no_spread():
    assert bootstrap([0.5] * 10) == (0.5, 0.5, 0.5)


def test_interval_of_a_coin_matches_the_binomial():
    """60 heads of 100: the 2.5 % and 97.5 % points of Binomial(100, 0.6) are 50 and 69."""
    value, low, high = bootstrap([1.0] * 60 + [0.0] * 40, resamples=20_000)
    assert value == 0.6
    assert (low, high) == pytest.approx((0.50, 0.69), abs=0.011)


def test_more_confidence_is_a_wider_interval():
    sample = list(range(50))
    wide, narrow = bootstrap(sample, confidence=0.99), bootstrap(sample, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_seed_same_interval_and_no_other_generator_is_touched():
    sample = [0.0, 1.0, 5.0, 2.0]
    before = str(np.random.get_state())
    assert bootstrap(sample, seed=3, resamples=9) == bootstrap(sample, seed=3, resamples=9)
    assert bootstrap(sample, seed=3, resamples=9) != bootstrap(sample, seed=4, resamples=9)
    assert str(np.random.get_state()) == before


def test_the_statistic_can_be_chosen():
    sample = [0.0, 1.0, 3.0, 1000.0]
    assert bootstrap(sample, iqm).value == 2
    assert bootstrap(sample, mean).value == 251


@pytest.mark.parametrize("sample", [[], [[1.0, 2.0]]])
def test_no_values_no_interval(sample):
    with pytest.raises(ValueError, match="at least one value in one dimension"):
        bootstrap(sample)


def test_an_estimate_reads_well():
    assert str(bootstrap([0.5] * 10)) == "0.50 [0.50, 0.50]"


def test_two_levels_reduce_to_what_varies():
    # No spread at all; only runs differ: the interval spans the runs; only episodes differ: it is the episodes' own.
    assert bootstrap_runs([[1.0, 1.0], [1.0]]) == (1.0, 1.0, 1.0)
    value, low, high = bootstrap_runs([[0.0] * 50, [1.0] * 50])
    assert (value, low, high) == (0.5, 0.0, 1.0)
    coin = [0.0, 1.0] * 50
    _, low, high = bootstrap_runs([coin, coin, coin, coin])
    half = 1.96 * 0.5 / np.sqrt(400)  # of the mean of 400 coins
    assert low == pytest.approx(0.5 - half, abs=0.01) and high == pytest.approx(0.5 + half, abs=0.01)


def test_runs_count_alike_however_many_episodes_they_have():
    assert bootstrap_runs([[0.0] * 300, [1.0]]).value == 0.5


def test_no_runs_is_an_error():
    with pytest.raises(ValueError, match="at least one run"):
        bootstrap_runs([])


def test_aggregates_by_hand():
    """Two tasks of two runs: sorted 0, 1, 2, 9, of which 1 and 2 remain; task means 0.5 and 5.5."""
    scores = np.array([[0.0, 1.0], [9.0, 2.0]])
    assert over_tasks(iqm)(scores) == 1.5
    assert over_tasks(mean)(scores) == 3
    assert median(scores) == 3
    assert median(np.array([[0.0, 1.0], [9.0, 2.0], [1.0, 1.0]])) == 1
    both = np.stack([scores, scores + 1])  # a leading axis stays
    assert over_tasks(iqm)(both).tolist() == [1.5, 2.5] and median(both).tolist() == [3, 4]


def test_aggregates_as_scipy_and_rliable_say():
    assert over_tasks(iqm)(OURS) == pytest.approx(0.5833333333333334)
    assert over_tasks(mean)(OURS) == pytest.approx(0.56)
    assert median(OURS) == pytest.approx(0.52)
    assert improvement(OURS, THEIRS) == pytest.approx(0.7)
    each = [float(improvement(one[None], other[None])) for one, other in zip(OURS, THEIRS, strict=True)]
    assert each == pytest.approx([0.7, 0.675, 0.725])  # U / 20 of each task
    above = performance_profile(OURS, np.array([0.0, 0.2, 0.5, 0.9]))
    assert above == pytest.approx([14 / 15, 11 / 15, 8 / 15, 2 / 15])


def test_improvement_by_hand():
    """Of the four pairs 2 > 1, 2 < 3, 3 > 1 and the tie 3 = 3: two and a half are won."""
    assert improvement(np.array([[2.0, 3.0]]), np.array([[1.0, 3.0]])) == 2.5 / 4
    assert improvement(OURS, OURS) == 0.5
    assert improvement(OURS, THEIRS) + improvement(THEIRS, OURS) == pytest.approx(1)


def test_a_profile_is_the_share_above_and_falls():
    profile = performance_profile(np.array([[0.0, 0.5], [1.0, 1.0]]), np.array([-1.0, 0.0, 0.5, 1.0]))
    assert profile.tolist() == [1, 0.75, 0.5, 0]


def test_a_stratified_bootstrap_draws_runs_and_never_tasks():
    """Each task's runs agree, the tasks do not: redrawing tasks would spread, redrawing runs cannot."""
    band = stratified(over_tasks(mean), np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert (band.value, band.low, band.high) == (0.5, 0.5, 0.5)


def test_a_stratified_interval_is_the_binomials():
    """Two tasks of 50 coins each: 30 + 30 heads of 100; the sum of the redrawn is Binomial(100, 0.6)."""
    task = [1.0] * 30 + [0.0] * 20
    value, low, high = stratified(over_tasks(mean), np.array([task, task]), resamples=20_000)
    assert value == 0.6 and (low, high) == pytest.approx((0.50, 0.69), abs=0.011)


def test_stratified_intervals_as_rliable_says():
    """Its intervals of 20,000 resamples; two of its seeds differ by less than the tolerance."""
    known = ((over_tasks(iqm), 0.411, 0.769), (over_tasks(mean), 0.437, 0.695), (median, 0.32, 0.76))
    for statistic, low, high in known:
        assert stratified(statistic, OURS, resamples=20_000)[1:] == pytest.approx((low, high), abs=0.01)
    assert stratified(improvement, OURS, THEIRS, resamples=20_000)[1:] == pytest.approx((0.483, 0.883), abs=0.02)


def test_methods_are_drawn_apart_and_a_curve_at_once():
    same = np.array([[0.0, 1.0]])
    band = stratified(improvement, same, same)
    assert band.low < 0.5 < band.high  # drawn together, ours would tie with theirs every time
    curves = np.array([[[0.0, 1.0], [0.0, 3.0]]])  # [task, run, point]
    at_each = stratified(lambda scores: scores.mean(axis=(-3, -2)), curves)
    assert at_each.value.tolist() == [0, 2] and at_each.low.tolist() == [0, 1] and at_each.high.tolist() == [0, 3]


def test_same_seed_same_stratified_interval():
    one, again, other = (stratified(improvement, OURS, THEIRS, seed=seed, resamples=50) for seed in (1, 1, 2))
    assert one == again and one != other


def test_the_first_step_at_a_threshold():
    steps, values = [10.0, 20.0, 30.0, 40.0], [None, 0.4, 0.5, 0.3]
    assert first_reached(steps, values, 0.5) == 30
    assert first_reached(steps, values, 0.1) == 20
    assert first_reached(steps, values, 0.6) is None


def test_spearman_by_hand_and_as_scipy_says():
    ranks = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(ranks, np.array([10.0, 20.0, 30.0, 1000.0])) == 1
    assert spearman(ranks, -ranks) == -1
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)): two neighbours have changed places, d = 1, -1, 0, 0.
    assert spearman(ranks, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(ranks, np.ones(4)) == 0
    ours, theirs = OURS.ravel()[:12], THEIRS.ravel()
    assert spearman(ours, theirs) == pytest.approx(scipy.stats.spearmanr(ours, theirs).statistic)
    assert spearman(np.array([ranks, -ranks]), ranks).tolist() == [1, -1]
