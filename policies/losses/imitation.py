"""Loss of policies that imitate a weighted part of the steps in a batch of trajectories."""

from __future__ import annotations

import torch

from ..common.policy import Policy
from ..common.steps import Steps


def imitation_loss(
    policy: Policy, steps: Steps, passed: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute -mean(w log pi(a|s)) over the steps of the trajectories that passed a filter.

    The policy reads the observations of steps with a positive weight only.

    Args:
        policy: Policy.
        steps: N steps of B trajectories.
        passed: bool [B], True = the trajectory passed the filter.
        weights: w, float32 [N], at least 0; None = all 1.

    Returns:
        Scalar; a constant 0 if no step has a positive weight.
    """
    inside = passed[steps.trajectory]
    weights = inside.float() if weights is None else weights * inside
    chosen = weights > 0
    if not chosen.any():
        return torch.zeros((), device=policy.device)
    log_probabilities = policy.log_prob(steps.rows(steps.before[chosen]), steps.actions[chosen])
    return -(weights[chosen] * log_probabilities).sum() / inside.sum()
