"""Timing in turn, memory, operations, and the verdict of an interval on a goal."""

import time

import pytest
import torch

from pr2l.core.statistics import Estimate
from pr2l.profiling.measure import Measure, exact
from pr2l.profiling.report import as_markdown
from pr2l.profiling.timing import (
    Effort,
    Variant,
    flops,
    matrix_product,
    peak_memory,
    profile,
    rate,
    rounds,
    speedup,
    time_in_turn,
)


def test_variants_run_in_turn_after_a_warm_up():
    order = []
    variants = {name: Variant(lambda name=name: order.append(name)) for name in "ab"}
    seconds = time_in_turn(variants, Effort(rounds=3, seconds=0))
    assert order == list("ab" * 4)
    assert {name: len(timings) for name, timings in seconds.items()} == {"a": 3, "b": 3}


def test_seconds_are_per_frame():
    sleep = lambda: time.sleep(0.05)  # noqa: E731
    seconds = time_in_turn({"a": Variant(sleep, frames=5)}, Effort(rounds=1, seconds=0))
    assert seconds["a"] == [pytest.approx(0.01, rel=0.5)]


def test_rounds_go_on_for_the_time_and_end_at_the_deadline():
    slow = lambda effort: sum(time.sleep(0.02) is None for _ in rounds(effort))  # noqa: E731
    assert slow(Effort(rounds=2, seconds=0)) == 2
    assert 3 <= slow(Effort(rounds=1, seconds=0.1)) <= 6
    now = time.perf_counter()
    assert slow(Effort(rounds=100, seconds=0, deadline=now)) == 1
    assert slow(Effort(rounds=100, seconds=0, deadline=time.perf_counter() + 0.2)) < 12


def test_speedup_is_the_median_of_the_ratios_of_each_round():
    slow, fast = [2.0, 30.0, 8.0, 9.0, 50.0, 6.0], [1.0, 10.0, 2.0, 3.0, 10.0, 6.0]  # ratios 2 3 4 3 5 1
    assert speedup(slow, fast) == Estimate(3.0, 1.0, 5.0)
    assert rate([0.5, 0.25] * 3, 2.0) == Estimate(6.0, 4.0, 8.0)


VERDICTS = [
    (Estimate(3.0, 2.8, 3.3), 3.0, False, "undecided (>= 3)"),
    (Estimate(3.2, 3.0, 3.3), 3.0, False, "reached (>= 3)"),
    (Estimate(2.7, 2.5, 2.9), 3.0, False, "missed (>= 3)"),
    (Estimate(0.1, 0.05, 0.12), 0.15, True, "reached (<= 0.15)"),
    (Estimate(0.1, 0.05, 0.16), 0.15, True, "undecided (<= 0.15)"),
    (Estimate(0.2, 0.16, 0.3), 0.15, True, "missed (<= 0.15)"),
    (Estimate(9.0, float("-inf"), float("inf")), 3.0, False, "undecided (>= 3)"),
    (exact(0.255), 0.25, True, "missed (<= 0.25)"),
    (exact(0.255), None, True, ""),
]


@pytest.mark.parametrize(("value", "goal", "below", "verdict"), VERDICTS)
def test_verdict_compares_the_interval_with_the_goal(value, goal, below, verdict):
    assert Measure("", value, "x", goal, below).verdict == verdict


def test_text_and_json_of_measures():
    few = Measure("few rounds", rate([0.5, 0.25]), "frames/s")
    measures = [Measure("speed", Estimate(2.0, 1.5, 20.25), "x", 1.0), few, Measure("count", exact(14730), "bytes")]
    assert list(map(str, measures)) == ["2.000 [1.500, 20.250] x", "3.000 (too few rounds) frames/s", "14,730 bytes"]
    assert (few.as_json()["low"], few.as_json()["high"]) == (None, None)
    assert measures[0].as_json() | {"labels": None} == {
        "name": "speed",
        "median": 2.0,
        "low": 1.5,
        "high": 20.25,
        "unit": "x",
        "goal": 1.0,
        "verdict": "reached (>= 1)",
        "labels": None,
    }
    table = as_markdown(measures[:1], {"PPO": "no time was left"})
    assert table.endswith(
        "| speed | 2.000 [1.500, 20.250] x | reached (>= 1) |\n\nNot measured:\n\n- PPO: no time was left\n"
    )


def test_flops_and_peak_memory_of_known_functions():
    product = matrix_product(torch.float32, torch.device("cpu"), side=512)
    assert flops(product) == 2 * 512**3
    for _ in range(2):  # the second time in freed memory
        peak = peak_memory(lambda: [torch.ones(250_000) for _ in range(100)])
        assert peak == pytest.approx(100e6, rel=0.15)


def test_profile_returns_shares_of_time():
    product = matrix_product(torch.float32, torch.device("cpu"), side=1024)
    numbers = torch.randn(100_000)
    of_products = profile(product)
    of_activations = profile(lambda: [torch.nn.functional.gelu(numbers) for _ in range(9)])
    for shares in (of_products, of_activations):
        assert sum(shares.values()) == pytest.approx(1.0)
    assert of_products["linear layers"] > 0.9
    assert of_activations["activations"] > 0.8 and of_activations["linear layers"] == 0.0
