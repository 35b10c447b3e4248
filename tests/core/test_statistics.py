"""Statistics of small samples, compared with values computed by hand, by scipy and by rliable."""

import numpy as np
import pytest
import scipy.stats

from pr2l.core.statistics import (
    Estimate,
    bootstrap,
    bootstrap_runs,
    episode_mean,
    first_reached,
    improvement,
    iqm,
    mean,
    median,
    median_interval,
    over_tasks,
    performance_profile,
    spearman,
    stratified,
    stratified_rates,
    success_rate,
    wilson,
)

# [tasks, runs] of two methods, evaluated below by scipy 1.17 (trim_mean, mannwhitneyu) and rliable 1.2.
OURS = np.array([[0.1, 0.5, 0.9, 0.4, 0.7], [0.0, 0.2, 0.2, 0.3, 0.95], [0.6, 0.8, 0.85, 0.9, 1.0]])
THEIRS = np.array([[0.1, 0.3, 0.5, 0.45], [0.2, 0.25, 0.0, 0.1], [0.7, 0.9, 0.65, 0.3]])


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([5.0], 5.0),
        ([1.0, 2.0, 3.0], 2.0),  # with fewer than four values nothing is cut
        ([0.0, 1.0, 3.0, 1000.0], 2.0),
        ([-100.0, 2.0, 2.0, 4.0, 4.0, 4.0, 8.0, 900.0], 3.5),  # 2, 4, 4, 4 remain
    ],
)
def test_iqm_is_the_25_percent_trimmed_mean(sample, expected):
    assert iqm(np.array(sample)) == expected
    assert iqm(np.array([sample[::-1], sample])).tolist() == [expected, expected]


def test_bootstrap_of_a_constant_sample():
    assert bootstrap([0.5] * 10) == (0.5, 0.5, 0.5)


def test_bootstrap_of_coin_flips_equals_the_binomial_interval():
    """60 heads of 100: the 2.5 % and 97.5 % points of Binomial(100, 0.6) are 50 and 69."""
    value, low, high = bootstrap([1.0] * 60 + [0.0] * 40, resamples=20_000)
    assert value == 0.6
    assert (low, high) == pytest.approx((0.50, 0.69), abs=0.011)


def test_higher_confidence_gives_a_wider_interval():
    sample = list(range(50))
    wide, narrow = bootstrap(sample, confidence=0.99), bootstrap(sample, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_depends_on_its_seed_only():
    sample = [0.0, 1.0, 5.0, 2.0]
    before = str(np.random.get_state())
    assert bootstrap(sample, seed=3, resamples=9) == bootstrap(sample, seed=3, resamples=9)
    assert bootstrap(sample, seed=3, resamples=9) != bootstrap(sample, seed=4, resamples=9)
    assert str(np.random.get_state()) == before


def test_bootstrap_of_another_statistic():
    sample = [0.0, 1.0, 3.0, 1000.0]
    assert bootstrap(sample, iqm).value == 2
    assert bootstrap(sample, mean).value == 251


@pytest.mark.parametrize("sample", [[], [[1.0, 2.0]]])
def test_bootstrap_refuses_empty_and_two_dimensional_samples(sample):
    with pytest.raises(ValueError, match="at least one value in one dimension"):
        bootstrap(sample)


@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15)])
def test_median_interval_is_between_two_sorted_values(count, low, high):
    """The ranks of tables of the sign test, for a two-sided level of .05."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert median_interval(values) == Estimate((count + 1) / 2, low, high)


def test_median_interval_covers_the_median():
    draws = np.random.default_rng(0).exponential(size=(2000, 12))
    inside = [interval.low <= np.log(2) <= interval.high for interval in map(median_interval, draws)]
    assert 0.95 <= np.mean(inside) <= 0.97  # 1 - 2 x 79 / 4096 = .961


def test_five_values_have_no_median_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == Estimate(3.0, -np.inf, np.inf)
    with pytest.raises(ValueError, match="at least one value"):
        median_interval([])


def test_estimate_as_text():
    assert str(bootstrap([0.5] * 10)) == "0.50 [0.50, 0.50]"


def test_bootstrap_runs_covers_the_spread_of_runs_and_of_episodes():
    # No spread: width 0. Only runs differ: from run to run. Only episodes differ: the interval of the episodes.
    assert bootstrap_runs([[1.0, 1.0], [1.0]]) == (1.0, 1.0, 1.0)
    value, low, high = bootstrap_runs([[0.0] * 50, [1.0] * 50])
    assert (value, low, high) == (0.5, 0.0, 1.0)
    coin = [0.0, 1.0] * 50
    _, low, high = bootstrap_runs([coin, coin, coin, coin])
    half = 1.96 * 0.5 / np.sqrt(300)  # of the mean of three runs of 100 coins
    assert low == pytest.approx(0.5 - half, abs=0.01) and high == pytest.approx(0.5 + half, abs=0.01)


def test_bootstrap_runs_draws_n_minus_1_runs():
    """Of two runs without spread, each sample is one run, so the interval reaches from run to run."""
    assert bootstrap_runs([[2.0] * 9, [4.0] * 9]) == (3.0, 2.0, 4.0)
    value, low, high = bootstrap_runs([[0.0], [1.0], [2.0]])  # a sample is the mean of two of the three
    assert (value, low, high) == (1.0, 0.0, 2.0)


def test_bootstrap_runs_weights_runs_equally():
    assert bootstrap_runs([[0.0] * 300, [1.0]]).value == 0.5


def test_empty_runs_are_refused():
    for interval in (bootstrap_runs, success_rate):
        for runs in ([], [[1.0], []]):
            with pytest.raises(ValueError, match="at least one run"):
                interval(runs)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (20, 20, 0.8389, 1.0),  # 1 / (1 + z^2 / 20), z = 1.96
        (0, 10, 0.0, 0.2775),
        (1, 2, 0.0945, 0.9055),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_success_rate_of_one_run_has_the_wilson_interval(successes, trials, low, high):
    outcomes = [1.0] * successes + [0.0] * (trials - successes)
    estimate = success_rate([outcomes])
    assert estimate == pytest.approx((successes / trials, low, high), abs=1e-4)
    assert estimate == wilson(successes / trials, trials)


@pytest.mark.parametrize("runs", [1, 2, 3, 5])
@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_success_rates_of_0_and_1_have_a_width(runs, outcome):
    """The interval is at least as wide as the Wilson interval of all episodes."""
    value, low, high = success_rate([[outcome] * 20] * runs)
    lowest = wilson(1.0, 20 * runs).low
    assert value == outcome and 0 <= low <= value <= high <= 1
    assert high - low >= 1 - lowest - 1e-9
    assert high - low < 0.25


def test_stratified_statistics_of_rates_of_1_have_a_width():
    rates = np.ones((3, 5))
    for statistic in (over_tasks(iqm), over_tasks(mean), median):
        value, low, high = stratified_rates(statistic, rates, episodes=30, trials=450)
        assert (value, high) == (1, 1) and low <= wilson(1.0, 450).low
    better = stratified_rates(improvement, rates, rates * 0, episodes=30, trials=15)
    assert better == pytest.approx((1, 1 / (1 + 1.959964**2 / 15), 1)), "as for 15 pairs that all are wins"
    profile = stratified_rates(lambda draws: performance_profile(draws, np.array([0.5])), rates, episodes=30, trials=15)
    assert profile.value == [1] and profile.low[0] < 0.8


def test_success_rate_of_several_runs_covers_the_spread_of_runs_and_of_episodes():
    """Equal runs: at least about the width of the binomial interval. Unequal runs: from run to run."""
    equal = success_rate([[1.0] * 15 + [0.0] * 15] * 4)
    assert equal.value == 0.5 and 0.5 - equal.low > 1.96 * 0.5 / np.sqrt(120)
    unequal = success_rate([[0.0] * 30, [1.0] * 30])
    assert unequal.value == 0.5 and unequal.low < 0.01 and unequal.high > 0.99
    one_task = stratified_rates(over_tasks(mean), np.array([[0.0, 1.0]]), episodes=30, trials=60)
    assert unequal == tuple(map(float, one_task))


def test_success_rate_weights_runs_equally():
    assert success_rate([[1.0] * 90, [0.0] * 10]).value == 0.5


@pytest.mark.parametrize(("outcomes", "is_rate"), [([0.0, 1.0, 1.0], True), ([0.0, 0.5, 1.0], False)])
def test_episode_mean_of_zeros_and_ones_is_a_success_rate(outcomes, is_rate):
    assert (episode_mean([outcomes]) == success_rate([outcomes])) == is_rate
    assert episode_mean([[0.0] * 10]) == wilson(0.0, 10)


@pytest.mark.parametrize(
    ("runs", "rate", "correlation", "coverage"),
    [
        (1, 0.5, 0.0, 0.93),
        (1, 0.95, 0.0, 0.9),
        (5, 0.1, 0.0, 0.93),
        (5, 0.1, 0.05, 0.91),
        (5, 0.5, 0.05, 0.91),
        (5, 0.95, 0.05, 0.9),
        (10, 0.5, 0.1, 0.92),
        (5, 1.0, 0.0, 1.0),
    ],
)
def test_coverage_of_the_true_rate(runs, rate, correlation, coverage):
    """Of 200 experiments, with runs of 30 episodes whose rates are Beta with this intra-class correlation."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        concentration = (1 - correlation) / correlation if correlation else np.inf
        rates = rng.beta(rate * concentration, (1 - rate) * concentration, runs) if correlation else [rate] * runs
        estimate = success_rate([(rng.random(30) < true_rate).astype(float) for true_rate in rates], resamples=500)
        covered += estimate.low - 1e-9 <= rate <= estimate.high + 1e-9
    assert covered / 200 >= coverage


def test_aggregates_of_two_tasks():
    """Scores 0, 1, 2, 9, of which IQM keeps 1 and 2; task means 0.5 and 5.5."""
    scores = np.array([[0.0, 1.0], [9.0, 2.0]])
    assert over_tasks(iqm)(scores) == 1.5
    assert over_tasks(mean)(scores) == 3
    assert median(scores) == 3
    assert median(np.array([[0.0, 1.0], [9.0, 2.0], [1.0, 1.0]])) == 1
    both = np.stack([scores, scores + 1])  # leading axes are kept
    assert over_tasks(iqm)(both).tolist() == [1.5, 2.5] and median(both).tolist() == [3, 4]


def test_aggregates_equal_scipy_and_rliable():
    assert over_tasks(iqm)(OURS) == pytest.approx(0.5833333333333334)
    assert over_tasks(mean)(OURS) == pytest.approx(0.56)
    assert median(OURS) == pytest.approx(0.52)
    assert improvement(OURS, THEIRS) == pytest.approx(0.7)
    per_task = [float(improvement(ours[None], theirs[None])) for ours, theirs in zip(OURS, THEIRS, strict=True)]
    assert per_task == pytest.approx([0.7, 0.675, 0.725])  # U / 20 per task
    profile = performance_profile(OURS, np.array([0.0, 0.2, 0.5, 0.9]))
    assert profile == pytest.approx([14 / 15, 11 / 15, 8 / 15, 2 / 15])


def test_improvement_is_the_share_of_wins():
    """Of the pairs 2 > 1, 2 < 3, 3 > 1 and 3 = 3, two are wins and one is a tie, which counts half."""
    assert improvement(np.array([[2.0, 3.0]]), np.array([[1.0, 3.0]])) == 2.5 / 4
    assert improvement(OURS, OURS) == 0.5
    assert improvement(OURS, THEIRS) + improvement(THEIRS, OURS) == pytest.approx(1)


def test_performance_profile_is_the_share_of_higher_scores():
    profile = performance_profile(np.array([[0.0, 0.5], [1.0, 1.0]]), np.array([-1.0, 0.0, 0.5, 1.0]))
    assert profile.tolist() == [1, 0.75, 0.5, 0]


def test_stratified_bootstrap_draws_runs_but_not_tasks():
    """Runs of a task are equal and tasks are not, so drawing runs gives no width, and drawing tasks would."""
    band = stratified(over_tasks(mean), np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    assert (band.value, band.low, band.high) == (0.5, 0.5, 0.5)


def test_stratified_bootstrap_of_coin_flips_equals_the_binomial_interval():
    """Two tasks of 50 coins each: 30 + 30 heads of 100; their resampled number is Binomial(100, 0.6)."""
    task = [1.0] * 30 + [0.0] * 20
    value, low, high = stratified(over_tasks(mean), np.array([task, task]), resamples=20_000)
    assert value == 0.6 and (low, high) == pytest.approx((0.50, 0.69), abs=0.011)


def test_stratified_intervals_equal_rliable():
    """With 20,000 resamples; two seeds of rliable differ by less than the tolerance."""
    expected = ((over_tasks(iqm), 0.411, 0.769), (over_tasks(mean), 0.437, 0.695), (median, 0.32, 0.76))
    for statistic, low, high in expected:
        assert stratified(statistic, OURS, resamples=20_000)[1:] == pytest.approx((low, high), abs=0.01)
    assert stratified(improvement, OURS, THEIRS, resamples=20_000)[1:] == pytest.approx((0.483, 0.883), abs=0.02)


def test_stratified_draws_methods_independently_and_curves_jointly():
    scores = np.array([[0.0, 1.0]])
    band = stratified(improvement, scores, scores)
    assert band.low < 0.5 < band.high  # with joint draws, all pairs would be ties
    curves = np.array([[[0.0, 1.0], [0.0, 3.0]]])  # [task, run, point]
    bands = stratified(lambda scores: scores.mean(axis=(-3, -2)), curves)
    assert bands.value.tolist() == [0, 2] and bands.low.tolist() == [0, 1] and bands.high.tolist() == [0, 3]


def test_stratified_depends_on_its_seed():
    first, second, other_seed = (stratified(improvement, OURS, THEIRS, seed=seed, resamples=50) for seed in (1, 1, 2))
    assert first == second and first != other_seed


def test_first_reached_is_the_first_step_at_a_threshold():
    steps, values = [10.0, 20.0, 30.0, 40.0], [None, 0.4, 0.5, 0.3]
    assert first_reached(steps, values, 0.5) == 30
    assert first_reached(steps, values, 0.1) == 20
    assert first_reached(steps, values, 0.6) is None


def test_spearman_equals_scipy():
    ranks = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(ranks, np.array([10.0, 20.0, 30.0, 1000.0])) == 1
    assert spearman(ranks, -ranks) == -1
    # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)): with d = 1, -1, 0, 0 for two exchanged neighbours.
    assert spearman(ranks, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(ranks, np.ones(4)) == 0
    ours, theirs = OURS.ravel()[:12], THEIRS.ravel()
    assert spearman(ours, theirs) == pytest.approx(scipy.stats.spearmanr(ours, theirs).statistic)
    assert spearman(np.array([ranks, -ranks]), ranks).tolist() == [1, -1]
