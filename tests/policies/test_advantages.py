"""Advantages, weights and filters with numbers worked by hand."""

import math

import pytest
import torch

from pr2l.policies.losses.advantages import (
    cutoff,
    doubly_robust_mix,
    doubly_robust_sum,
    exponential_weights,
    hard_weights,
    instruction_advantages,
    kept,
)

# A success in three steps; the values of its four observations are 0.2, 0.5, 0.4 and 0.9.
REWARDS = torch.tensor([0.0, 0.0, 1.0])
VALUES = torch.tensor([0.2, 0.5, 0.4])
NEXT_VALUES = torch.tensor([0.5, 0.4, 0.9])
STEPS_TO_END = torch.tensor([2, 1, 0])


def test_doubly_robust_advantage_of_the_paper():
    """w = 1/4, 1/2, 1.  A = 1/4 + 3/4 (0.3), 1/2 + 1/2 (-0.1), 1."""
    advantages = doubly_robust_mix(REWARDS, VALUES, NEXT_VALUES, torch.ones(3), STEPS_TO_END, decay=0.5)
    assert advantages.tolist() == pytest.approx([0.475, 0.45, 1.0])


@pytest.mark.parametrize(("decay", "expected"), [(1.0, [1, 1, 1]), (0.0, [0.3, -0.1, 1.0])])
def test_decay_of_the_paper_chooses_between_the_outcome_and_the_values(decay, expected):
    """With decay 1 only the outcome counts; with decay 0 the values count, except at the last step (0 ** 0 = 1)."""
    advantages = doubly_robust_mix(REWARDS, VALUES, NEXT_VALUES, torch.ones(3), STEPS_TO_END, decay)
    assert advantages.tolist() == pytest.approx(expected)


def test_the_paper_s_advantage_of_a_failure():
    advantages = doubly_robust_mix(torch.zeros(3), VALUES, NEXT_VALUES, torch.zeros(3), STEPS_TO_END, decay=0.5)
    assert advantages.tolist() == pytest.approx([0.75 * 0.3, 0.5 * -0.1, 0.0])


def test_doubly_robust_advantage_of_the_code():
    """Discount 0.5: G = 1/4, 1/2, 1.  A = 0.3 - 0.05 + 0.25, -0.1 - 0.05 + 0.5, and the last is clamped to 1."""
    returns = torch.tensor([0.25, 0.5, 1.0])
    advantages = doubly_robust_sum(REWARDS, VALUES, NEXT_VALUES, returns)
    assert advantages.tolist() == pytest.approx([0.5, 0.35, 1.0])


def test_the_code_s_advantage_of_a_failure():
    """A = 0.3 - 0.05; the others, -0.1 - 0.05 and 0.04 - 0.05, are clamped to 0 and get no weight."""
    values, next_values = torch.tensor([0.2, 0.5, 0.4]), torch.tensor([0.5, 0.4, 0.44])
    advantages = doubly_robust_sum(torch.zeros(3), values, next_values, torch.zeros(3))
    assert advantages.tolist() == pytest.approx([0.25, 0, 0])
    assert hard_weights(advantages).tolist() == [1, 0, 0]


def test_last_step_of_a_success_always_passes_in_the_code_s_form():
    """The reward counts twice: even if the value falls from 1 to 0, A = -1 - 0.05 + 1 + 1."""
    one, zero = torch.ones(1), torch.zeros(1)
    assert doubly_robust_sum(one, one, zero, one).item() == pytest.approx(0.95)


def test_hard_weights_exclude_the_threshold():
    assert hard_weights(torch.tensor([-1.0, 0.0, 0.05, 0.06]), threshold=0.05).tolist() == [0, 0, 0, 1]


def test_exponential_weights():
    """exp(-1), exp(0), exp(1), and exp(5) = 148 limited to 100."""
    weights = exponential_weights(torch.tensor([-0.5, 0.0, 0.5, 2.5]), temperature=0.5)
    assert weights.tolist() == pytest.approx([1 / math.e, 1, math.e, 100])


def test_exponential_weights_are_finite_at_the_temperature_of_digiq():
    """exp(1 / 0.01) exceeds the range of float32."""
    assert exponential_weights(torch.ones(1), temperature=0.01).item() == 100


def test_instruction_advantages():
    """A success at a hard task scores higher than one at an easy task; certain values stay 1e-4 from 0 and 1."""
    scores = instruction_advantages(torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([0.1, 0.9, 1.0, 0.0]))
    assert scores.tolist() == pytest.approx([0.9, 0.1, -0.9999, -0.0001])


def passing(rewards, *, successes_only=False):
    rewards = torch.tensor(rewards)
    return kept(rewards, rewards, cutoff(rewards, 0.9), successes_only=successes_only).tolist()


def test_filter_keeps_all_successes_if_there_are_many():
    assert passing([1.0, 0.0, 1.0, 0.0]) == [True, False, True, False]


@pytest.mark.parametrize(("successes_only", "failure_passes"), [(False, True), (True, False)])
def test_filter_with_few_successes(successes_only, failure_passes):
    """One success in 20: the 0.9 quantile is 0, so the filter of DigiRL's code keeps the 19 failures too."""
    rewards = [1.0] + [0.0] * 19
    assert passing(rewards, successes_only=successes_only) == [True] + [failure_passes] * 19


@pytest.mark.parametrize(("successes_only", "passes"), [(False, True), (True, False)])
def test_filter_without_a_success(successes_only, passes):
    assert passing([0.0, 0.0], successes_only=successes_only) == [passes, passes]


def test_cutoff_is_interpolated():
    """The 0.9 quantile of 0 .. 5 is at position 4.5."""
    assert cutoff(torch.arange(6.0), 0.9) == pytest.approx(4.5)


def test_curriculum_prefers_a_success_at_a_hard_task():
    """Ten successes, of which the last was the least expected: only its score reaches the 0.9 quantile."""
    rewards, values = torch.ones(10), torch.tensor([0.9] * 9 + [0.2])
    scores = instruction_advantages(rewards, values)
    assert kept(scores, rewards, cutoff(scores, 0.95)).tolist() == [False] * 9 + [True]
