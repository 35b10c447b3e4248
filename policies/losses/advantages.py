"""Advantages and weights of steps, and filters of trajectories, for policies that imitate the better part of data.

Each function says whether it follows a paper or the released code of the paper, because they differ:

    DigiRL   Bai et al. 2024, "DigiRL: Training In-The-Wild Device-Control Agents with Autonomous RL"
    Digi-Q   Bai et al. 2025, "Digi-Q: Learning Q-Value Functions for Training Device-Control Agents"
    AWR      Peng et al. 2019, "Advantage-Weighted Regression"

Tensors of steps are float32 [N], one entry per step; tensors of trajectories are float32 [B].
"""

from __future__ import annotations

import torch

INSTRUCTION_VALUE_MARGIN = 1e-4  # the released code of DigiRL keeps the instruction-level value this far from 0 and 1


def doubly_robust_mix(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    final_rewards: torch.Tensor,
    steps_to_end: torch.Tensor,
    decay: float,
) -> torch.Tensor:
    """Compute the doubly-robust advantage of DigiRL's paper.

        A = w r_H + (1 - w) (V(s') + r - V(s))    with w = decay ** (H - h)

    The Monte-Carlo outcome r_H has no bias but a high variance far from the end; there the difference of values takes
    over. At the last step of an episode, w is 1 and A is the outcome.

    Args:
        rewards: r, reward of each step.
        values: V(s), value of the observation before the step.
        next_values: V(s'), value of the observation after the step.
        final_rewards: r_H, reward of the last step of the step's episode.
        steps_to_end: H - h, number of steps that follow in the episode; 0 at the last step.
        decay: Factor per step, 0 to 1; lambda in the paper.
    """
    weights = decay**steps_to_end
    return weights * final_rewards + (1 - weights) * (next_values + rewards - values)


def doubly_robust_sum(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    returns: torch.Tensor,
    margin: float = 0.05,
) -> torch.Tensor:
    """Compute the doubly-robust advantage of DigiRL's released code.

        A = clamp(V(s') - V(s) - margin + r + G, 0, 1)

    It differs from the paper: the two estimates are added, not mixed, and the last step of a success counts its reward
    twice, as r and in G. The code takes V as the minimum of two critics.

    Args:
        rewards: r, reward of each step.
        values: V(s), value of the observation before the step.
        next_values: V(s'), value of the observation after the step.
        returns: G, discounted sum of the rewards from the step to the end of its episode; the code's discount is 0.5.
        margin: Advantage that a step must exceed to count; 0.05 in the code, 1 / H for a time limit of H = 20 steps.
    """
    return (next_values - values - margin + rewards + returns).clamp(0, 1)


def hard_weights(advantages: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Return 1 for steps whose advantage exceeds the threshold, and 0 for the others.

    The paper of DigiRL uses the threshold 1 / H for a time limit of H steps, its code 0 after `doubly_robust_sum` has
    subtracted 1 / H. Digi-Q (code) uses 0.05 for 20 steps and 0.1 for 10.

    Args:
        advantages: float32 [N].
        threshold: Largest advantage that gets no weight.
    """
    return (advantages > threshold).float()


def exponential_weights(advantages: torch.Tensor, temperature: float, maximum: float = 100.0) -> torch.Tensor:
    """Compute the weights of advantage-weighted regression, min(exp(A / temperature), maximum).

    AWR (paper) uses temperature 1 and maximum 20; the option "awr" of Digi-Q (code) uses temperature 0.01.

    Args:
        advantages: float32 [N].
        temperature: Positive; a small one follows the best steps only, a large one weights all steps equally.
        maximum: Largest weight, which bounds the variance of the gradient.
    """
    return (advantages / temperature).exp().clamp(max=maximum)


def instruction_advantages(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Compute the instruction-level advantage of DigiRL (paper and code), reward - V(instruction).

    It is high for successes at tasks that the policy rarely solves, so that training moves on to harder tasks: DigiRL's
    automatic curriculum.

    Args:
        rewards: float32 [B], sum of the rewards of each trajectory.
        values: float32 [B], probability of a success that the value function gave to the task before the first step.
    """
    return rewards - values.clamp(INSTRUCTION_VALUE_MARGIN, 1 - INSTRUCTION_VALUE_MARGIN)


def cutoff(scores: torch.Tensor, quantile: float) -> float:
    """Return the smallest score that passes the filter of DigiRL (code): a quantile of all scores so far.

    Online the score is `instruction_advantages`, offline the reward (code). With rewards of 0 and 1 and the quantile
    0.9, the offline filter keeps all successes if more than 10 % of the trajectories are successes. If fewer are, the
    cutoff is 0 and the filter keeps every trajectory, failures included; `kept` can drop those.

    Args:
        scores: float32 [n], at least one.
        quantile: Fraction of the scores below the cutoff, 0 to 1; between two scores it is interpolated.
    """
    return torch.quantile(scores, quantile).item()


def kept(scores: torch.Tensor, rewards: torch.Tensor, least: float, *, successes_only: bool = False) -> torch.Tensor:
    """Return which trajectories pass the filter, bool [B].

    Args:
        scores: float32 [B], score of each trajectory.
        rewards: float32 [B], sum of the rewards of each trajectory.
        least: Smallest score that passes, from `cutoff`.
        successes_only: Also drop trajectories without a positive reward. This is neither in the paper nor in the code.
    """
    passed = scores >= least
    return passed & (rewards > 0) if successes_only else passed
