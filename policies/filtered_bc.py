"""Filtered behaviour cloning, the baseline of DigiRL: imitate the trajectories with the highest rewards.

loss = -mean of log pi(a|s) over the steps of the trajectories that pass the filter
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from pydantic import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_device, set_random_seed
from torch import nn

from .base import BatchSource, LearnsFrom, Trajectory
from .common.factored_policy import FactoredPolicy
from .common.loop import Loop, Update
from .common.policy import Policy
from .common.steps import flat_steps
from .common.trajectory_filter import FilteredLearner, FilterOptions, TrajectoryFilter
from .losses.imitation import imitation_loss

__all__ = ["Defaults", "FilteredBCLearner", "Learner", "create"]


class FilteredBCLearner(FilteredLearner):
    """Learner that imitates the actions of the trajectories with the highest rewards.

    Args:
        policy: Policy to train.
        options: Options of the algorithm.
    """

    learns_from: ClassVar[LearnsFrom] = "trajectories"

    def __init__(self, policy: Policy, options: Defaults) -> None:
        self.options, self.filter = options, TrajectoryFilter(options)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        super().__init__(policy, Loop({"policy": policy}, optimizer, self.update, self.rate, options.threads))

    def update(self, source: BatchSource[Sequence[Trajectory]]) -> Update:
        """Make one gradient step on the trajectories of a batch that pass the filter; none if no trajectory passes.

        Args:
            source: Trajectories.

        Returns:
            The number of steps in the batch, and the metrics loss, kept (fraction of the trajectories) and epoch.
        """
        steps = flat_steps(source.next_batch(self.options.trajectories), self.device)
        passed = self.filter.keep(steps.total_rewards, steps.total_rewards)
        loss = imitation_loss(self.policy, steps, passed)
        if passed.any():
            self.loop.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.options.max_grad_norm)
            self.loop.optimizer.step()
        metrics = {
            "train/loss": loss.item(),
            "train/kept": passed.float().mean().item(),
            "train/epoch": source.epoch,
        }
        return Update(len(steps), metrics)


Learner = FilteredBCLearner


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
    policy: Policy | None = None,
) -> FilteredBCLearner:
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
        action_space: Discrete or MultiDiscrete, from 0.
        num_envs: Not used.
        network: Class that turns an observation into features.
        network_options: Its options.
        options: Options of filtered behaviour cloning.
        seed: Seed of all random generators, and so of the first weights.
        policy: Policy to train; None = new heads on the network.

    Raises:
        UserError: The action space is of another kind, or `factors_of_type` or `parents` do not fit it.
    """
    set_random_seed(seed)
    make: Any = network  # each Network takes the Defaults of its file
    if policy is None:
        heads = FactoredPolicy(make(observation_space, network_options), action_space, options)
        policy = heads.to(get_device(options.device))
    return FilteredBCLearner(policy, options)


class Defaults(FilterOptions):
    """Options of filtered behaviour cloning."""
