"""Statistics of samples small enough to work out by hand."""

import numpy as np
import pytest

from pr2l.statistics import bootstrap, bootstrap_runs, iqm, mean


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
