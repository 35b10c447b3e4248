"""Steps of several trajectories in one batch, so that a network reads each observation once.

Two trajectories of 3 and 2 steps have 4 + 3 observations:

    observation      0    1    2    3  |  4    5    6  |
    step             0    1    2       |  3    4       |
    before           0    1    2       |  4    5       |    observation before the step
    before + 1       1    2    3       |  5    6       |    observation after the step
    firsts           0                 |  4            |    first observation of each trajectory
    trajectory       0    0    0       |  1    1       |
    steps_to_end     2    1    0       |  1    0       |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base import Tensors, Trajectory


@dataclass(frozen=True, eq=False)
class Steps:
    """N steps of B trajectories with their N + B observations.

    Args:
        observations: Tensors [N + B, ...] by the keys of the observation space.
        before: int64 [N], row of the observation before each step; the next row is the observation after it.
        firsts: int64 [B], row of the first observation of each trajectory.
        trajectory: int64 [N], number of the trajectory of each step.
        steps_to_end: int64 [N], number of steps that follow in the trajectory.
        actions: Actions [N, ...] that the agent took.
        rewards: float32 [N].
        returns: float32 [N], discounted sum of the rewards from the step to the end of its trajectory.
        final_rewards: float32 [B], reward of the last step of each trajectory.
        total_rewards: float32 [B], sum of the rewards of each trajectory.
    """

    observations: Tensors
    before: torch.Tensor
    firsts: torch.Tensor
    trajectory: torch.Tensor
    steps_to_end: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    returns: torch.Tensor
    final_rewards: torch.Tensor
    total_rewards: torch.Tensor

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.rewards)

    def rows(self, rows: torch.Tensor) -> Tensors:
        """Return some of the observations.

        Args:
            rows: int64 [n], rows, or bool [N + B].
        """
        return {key: values[rows] for key, values in self.observations.items()}


def flat_steps(trajectories: Sequence[Trajectory], device: torch.device) -> Steps:
    """Join trajectories to one batch of steps.

    Args:
        trajectories: One or more, each of at least one step, with actions of a Discrete or MultiDiscrete space.
        device: Device of the result.
    """
    lengths = torch.tensor([len(trajectory) for trajectory in trajectories])
    numbers = torch.arange(len(trajectories)).repeat_interleave(lengths)
    ends = lengths.cumsum(0)
    steps = torch.arange(len(numbers))
    columns = {
        "before": steps + numbers,
        "firsts": ends - lengths + torch.arange(len(trajectories)),
        "trajectory": numbers,
        "steps_to_end": ends[numbers] - 1 - steps,
        "actions": torch.cat([torch.as_tensor(trajectory.actions) for trajectory in trajectories]),
        "rewards": torch.cat([trajectory.rewards for trajectory in trajectories]),
        "returns": torch.cat([trajectory.monte_carlo_returns for trajectory in trajectories]),
        "final_rewards": torch.stack([trajectory.rewards[-1] for trajectory in trajectories]),
        "total_rewards": torch.stack([trajectory.rewards.sum() for trajectory in trajectories]),
    }
    observations = {
        key: torch.cat([trajectory.observations[key] for trajectory in trajectories]).to(device)
        for key in trajectories[0].observations
    }
    return Steps(observations, **{name: column.to(device) for name, column in columns.items()})
