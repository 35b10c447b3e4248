"""DigiRL (Bai et al. 2024): imitate the better steps of the better trajectories, chosen by values of success.

    instruction value   first observation -> probability that the episode succeeds      filters trajectories
    step value          any observation   -> the same probability, from two critics     weights their steps
    policy              -mean of w log pi(a|s) over the steps of the trajectories that pass the filter

This file learns offline, from recorded trajectories; digirl_online.py collects its own. All values are learned by
classification of the outcome (cross-entropy), without bootstrapping. Differences from the released code:

    - its instruction value reads the text of the instruction, which here is in the prompt of the tokens;
    - its critics are networks over other features than the policy's, here over the same tokens;
    - it makes separate passes for critics and policy, here one batch of trajectories serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from pydantic import BaseModel, NonNegativeInt
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.utils import get_device, set_random_seed
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .base import BatchSource, LearnsFrom, Tensors, Trajectory, Values
from .common.factored_policy import FactoredPolicy
from .common.loop import Loop, Update
from .common.options import Fraction, Number, PositiveNumber, Sizes
from .common.policy import Policy
from .common.steps import Steps, flat_steps
from .common.trajectory_filter import FilteredLearner, FilterOptions, TrajectoryFilter
from .losses.advantages import (
    doubly_robust_mix,
    doubly_robust_sum,
    exponential_weights,
    hard_weights,
    instruction_advantages,
)
from .losses.imitation import imitation_loss
from .networks.base import TokenNetwork

__all__ = ["Critic", "Defaults", "DigiRLLearner", "Learner", "create", "step_value_loss", "step_weights"]


def step_value_loss(logits: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Compute the loss of the step-level values, as in the released code.

    The observations before and after a step both get the label of the step, 1 if its return is positive. The loss is
    the sum of these two cross-entropies and of the two critics, and the mean over the steps.

    Args:
        logits: [N + B, 2], logits of success of all observations from two critics.
        steps: N steps of B trajectories.
    """
    labels = (steps.returns > 0).float()[:, None].expand(-1, logits.shape[-1])
    sums = [
        binary_cross_entropy_with_logits(logits[rows], labels, reduction="sum")
        for rows in (steps.before, steps.before + 1)
    ]
    return (sums[0] + sums[1]) / len(steps)


def instruction_value_loss(logits: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Compute the loss of the instruction-level value, as in the released code: cross-entropy with the outcome.

    Args:
        logits: [B], logits of success from the first observation of each trajectory.
        steps: Steps of B trajectories.
    """
    return binary_cross_entropy_with_logits(logits, (steps.final_rewards > 0).float())


def step_weights(logits: torch.Tensor, steps: Steps, options: Defaults) -> torch.Tensor:
    """Compute the weight of each step in the policy's loss, float32 [N].

    A step's value is the smaller one of the two critics (code). See losses/advantages.py for the two advantages.

    Args:
        logits: [N + B, 2], logits of success of all observations from two critics.
        steps: N steps of B trajectories.
        options: Options of the algorithm.
    """
    if options.advantage == "none":
        return torch.ones_like(steps.rewards)
    all_values = logits.detach().sigmoid().min(dim=-1).values
    values, next_values = all_values[steps.before], all_values[steps.before + 1]
    if options.advantage == "code":
        advantages = doubly_robust_sum(steps.rewards, values, next_values, steps.returns, options.margin)
        threshold = 0.0
    else:
        final_rewards = steps.final_rewards[steps.trajectory]
        advantages = doubly_robust_mix(
            steps.rewards, values, next_values, final_rewards, steps.steps_to_end, options.decay
        )
        threshold = options.margin
    if options.weighting == "filter":
        return hard_weights(advantages, threshold)
    return exponential_weights(advantages, options.temperature, options.max_weight)


class DigiRLLearner(FilteredLearner):
    """Learner of DigiRL from trajectories.

    Args:
        policy: Policy to train.
        critic: Values to train.
        options: Options of the algorithm.
    """

    learns_from: ClassVar[LearnsFrom] = "trajectories"
    options: Defaults

    def __init__(self, policy: Policy, critic: Critic, options: Defaults) -> None:
        self.options, self.critic, self.filter = options, critic, TrajectoryFilter(options)
        self.updates = 0  # gradient steps so far
        parameters = [*policy.parameters(), *critic.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=options.weight_decay)
        modules = {"policy": policy, "critic": critic}
        super().__init__(policy, Loop(modules, optimizer, self.update, self.rate, options.threads))

    def update(self, source: BatchSource[Sequence[Trajectory]]) -> Update:
        """Make one gradient step on a batch of trajectories.

        Args:
            source: Trajectories.

        Returns:
            The number of steps in the batch, and the metrics of `gradient_step` and epoch.
        """
        steps = flat_steps(source.next_batch(self.options.trajectories), self.device)
        return Update(len(steps), {**self.gradient_step(steps), "train/epoch": source.epoch})

    def gradient_step(self, steps: Steps) -> dict[str, float]:
        """Make one gradient step of the critic and, after the first `options.critic_updates`, of the policy.

        Args:
            steps: Steps of a batch of trajectories.

        Returns:
            Losses; kept, the fraction of trajectories that pass the filter; weight, the mean weight of their steps.
        """
        instruction_logits = self.critic.instruction(steps.rows(steps.firsts))
        logits = self.critic.steps(steps.observations)
        instruction_loss, value_loss = instruction_value_loss(instruction_logits, steps), step_value_loss(logits, steps)
        passed = self.filter.keep(self.scores(instruction_logits, steps), steps.total_rewards)
        weights = step_weights(logits, steps, self.options)
        policy_loss = torch.zeros((), device=self.device)
        if self.updates >= self.options.critic_updates:
            policy_loss = imitation_loss(self.policy, steps, passed, weights)
        self.updates += 1
        self.loop.optimizer.zero_grad()
        (instruction_loss + value_loss + policy_loss).backward()
        for module in (self.policy, self.critic):
            nn.utils.clip_grad_norm_(module.parameters(), self.options.max_grad_norm)
        self.loop.optimizer.step()
        kept_weights = weights[passed[steps.trajectory]]
        return {
            "train/instruction_loss": instruction_loss.item(),
            "train/value_loss": value_loss.item(),
            "train/policy_loss": policy_loss.item(),
            "train/kept": passed.float().mean().item(),
            "train/weight": kept_weights.mean().item() if len(kept_weights) else 0.0,
        }

    def scores(self, instruction_logits: torch.Tensor, steps: Steps) -> torch.Tensor:
        """Return the score by which the filter ranks each trajectory, float32 [B].

        Args:
            instruction_logits: [B], logits of success from the first observations.
            steps: Steps of B trajectories.
        """
        if self.options.filter == "curriculum":
            return instruction_advantages(steps.total_rewards, instruction_logits.detach().sigmoid())
        return steps.total_rewards if self.options.filter == "reward" else torch.zeros_like(steps.total_rewards)

    def state_dict(self) -> tuple[Tensors, Values]:
        tensors, values = super().state_dict()
        return tensors, {**values, "updates": self.updates}

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        super().load_state_dict(tensors, values)
        self.updates = values["updates"]


Learner = DigiRLLearner


class Critic(nn.Module):
    """Logits of success: of an instruction from the first observation, and of any observation from two critics.

    One logit with a cross-entropy is the same as the two classes of the released code. The two critics share a network
    and have layers of their own.

    Args:
        make_network: Function that returns a new network over token observations.
        options: Options of the algorithm.
    """

    def __init__(self, make_network: Callable[[], TokenNetwork], options: Defaults) -> None:
        super().__init__()
        self.instruction_network, self.step_network = make_network(), make_network()
        width, sizes = self.step_network.features_dim, list(options.critic_sizes)
        self.instruction_head = nn.Sequential(*create_mlp(width, 1, sizes))
        self.step_heads = nn.ModuleList(nn.Sequential(*create_mlp(width, 1, sizes)) for _ in range(2))

    def instruction(self, observations: Tensors) -> torch.Tensor:
        """Return the logits [B] of the success of episodes that begin with these observations.

        Args:
            observations: Tensors [B, ...].
        """
        return self.instruction_head(self.instruction_network(observations))[:, 0]

    def steps(self, observations: Tensors) -> torch.Tensor:
        """Return the logits [n, 2] of two critics of the success after these observations.

        Args:
            observations: Tensors [n, ...].
        """
        features = self.step_network(observations)
        return torch.cat([head(features) for head in self.step_heads], dim=-1)


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
) -> DigiRLLearner:
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
        action_space: Discrete or MultiDiscrete, from 0.
        num_envs: Not used.
        network: Class that turns an observation into features; the policy and both values have one each.
        network_options: Its options.
        options: Options of DigiRL.
        seed: Seed of all random generators, and so of the first weights.
        policy: Policy to train; None = new heads on the network.

    Raises:
        UserError: The action space is of another kind, or `factors_of_type` or `parents` do not fit it.
    """
    trained = modules(observation_space, action_space, network, network_options, options, seed, policy)
    return DigiRLLearner(*trained, options)


def modules(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    network: Any,
    network_options: BaseModel,
    options: Defaults,
    seed: int,
    policy: Policy | None = None,
) -> tuple[Policy, Critic]:
    """Return the policy and a critic with random weights, after seeding torch, NumPy and Python.

    Args:
        observation_space: See `create`, as for the other arguments.
        action_space: Action space of one environment.
        network: Class of the networks.
        network_options: Their options.
        options: Options of DigiRL.
        seed: Seed of all random generators.
        policy: Policy to train, whose device the critic gets too; None = new heads on the network.
    """
    set_random_seed(seed)
    if policy is None:
        heads = FactoredPolicy(network(observation_space, network_options), action_space, options)
        policy = heads.to(get_device(options.device))
    return policy, Critic(lambda: network(observation_space, network_options), options).to(policy.device)


class Defaults(FilterOptions):
    """Options of DigiRL."""

    filter: Literal["reward", "curriculum", "none"] = "reward"  # score of trajectories; code: offline reward
    advantage: Literal["code", "paper", "none"] = "code"  # doubly-robust advantage of steps; none: all weights are 1
    weighting: Literal["filter", "exponential"] = "filter"  # from advantage to weight: 1 or 0, or AWR
    gamma: Fraction = 0.5  # discount factor of the returns in advantage=code; from the code
    decay: Fraction = 0.5  # weight of the outcome per step to the end in advantage=paper
    margin: Number = 0.05  # advantage that a step must exceed; 1 / H of the time limit, as in code and paper
    temperature: PositiveNumber = 0.1  # temperature of weighting=exponential
    max_weight: PositiveNumber = 20.0  # largest weight of weighting=exponential; from AWR
    critic_sizes: Sizes = (256,)  # hidden units per layer of the values; two layers of 768 in the code
    critic_updates: NonNegativeInt = 0  # updates that train the values only, before the policy learns too
