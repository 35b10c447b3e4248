"""Behaviour cloning with a recurrent policy, as PR2L's in Habitat after PIRLNav (Ramrakhya et al. 2023).

tokens -> network -> [summary, proprio] -> LSTM -> action logits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_device, set_random_seed
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from .base import Actions, BatchSource, LearnsFrom, Observation, Tensors, Trajectory, Values
from .common.actions import discrete_count
from .common.loop import Loop, LoopLearner, Update
from .common.options import Device, Number, PositiveNumber

__all__ = ["BCLearner", "Defaults", "Learner", "create"]

Memory: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None


def transition_weights(trajectory: Trajectory, options: Defaults) -> torch.Tensor:
    """float32 [n]: `inflection` where the expert's action is not the one taken before, else 1; times its own weight.

    The first transition counts 1. So weighted, repeating the last action is no longer a good guess (Wijmans et al.
    2019). PIRLNav's released sensor compares the two actions before that one, a step late; this is as its paper says.
    """
    actions, expert_actions = _discrete(trajectory.actions), _discrete(trajectory.expert_actions)
    weights = torch.ones(len(trajectory))
    weights[1:][expert_actions[1:] != actions[:-1]] = options.inflection
    if options.action_weights:
        weights = weights * torch.tensor(options.action_weights)[expert_actions]
    return weights


def weighted_loss(logits: torch.Tensor, expert_actions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum over n transitions of weight times cross-entropy; logits [n, A], actions int64 [n], weights [n]."""
    return (weights * cross_entropy(logits, expert_actions, reduction="none")).sum()


class BCLearner(LoopLearner):
    """A policy that learns to do what the expert would have done."""

    learns_from: ClassVar[LearnsFrom] = "trajectories"
    policy: RecurrentPolicy

    def __init__(self, policy: RecurrentPolicy, options: Defaults) -> None:
        self.options = options
        optimizer = torch.optim.AdamW(
            policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        super().__init__(policy, Loop({"policy": policy}, optimizer, self.update, self.rate, options.threads))

    def rate(self, step: int, total_steps: int) -> float:
        left = 1 - step / total_steps if self.options.schedule == "linear" else 1.0
        return self.options.learning_rate * left

    def update(self, source: BatchSource[Sequence[Trajectory]]) -> Update:
        """One gradient step, on the weighted mean loss of as many trajectories as hold `batch` transitions.

        They are read and go through the network `forward` at a time, so no more than these are in memory at once.
        """
        policy, optimizer = self.policy, self.loop.optimizer
        transitions, weight, loss, right = 0, 0.0, 0.0, 0
        optimizer.zero_grad()
        while transitions < self.options.batch:
            chunk = source.next_batch(self.options.forward)
            expert_actions = torch.cat([_discrete(trajectory.expert_actions) for trajectory in chunk]).to(policy.device)
            weights = torch.cat([transition_weights(trajectory, self.options) for trajectory in chunk])
            weights = weights.to(policy.device)
            logits = policy(_observations(chunk, policy.device), [len(trajectory) for trajectory in chunk])
            summed = weighted_loss(logits, expert_actions, weights)
            summed.backward()
            transitions += len(expert_actions)
            weight, loss = weight + weights.sum().item(), loss + summed.item()
            right += int((logits.argmax(dim=1) == expert_actions).sum())
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.grad /= weight
        nn.utils.clip_grad_norm_(policy.parameters(), self.options.max_grad_norm)
        optimizer.step()
        metrics = {"train/loss": loss / weight, "train/accuracy": right / transitions, "train/epoch": source.epoch}
        return Update(transitions, metrics)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """As `Learner.act`; memory: the LSTM's, two tensors [layers, B, lstm_size]; None without one."""
        tensors = {key: torch.as_tensor(value, device=self.device) for key, value in observation.items()}
        if memory is not None and episode_starts is not None:
            goes_on = torch.as_tensor(~episode_starts.astype(bool), device=self.device)[None, :, None]
            memory = memory[0] * goes_on, memory[1] * goes_on
        logits, memory = self.policy.step(tensors, memory)
        distribution = torch.distributions.Categorical(logits=logits)
        actions = logits.argmax(dim=1) if greedy else distribution.sample()
        return Actions(actions.cpu().numpy(), memory, distribution.log_prob(actions).cpu().numpy())

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        if "counters" in values:  # of a run folder from before there was a common loop
            counters = values["counters"]
            values = {
                "num_timesteps": counters["num_timesteps"],
                "param_groups": values["param_groups"],
                "source": {"taken": counters["trajectories"]},
            }
        super().load_state_dict(tensors, values)


Learner = BCLearner


class RecurrentPolicy(nn.Module):
    """A network's features through an LSTM (none with lstm_layers = 0) to the logits of `actions` actions."""

    def __init__(self, network: BaseFeaturesExtractor, actions: int, options: Defaults) -> None:
        super().__init__()
        self.network, width = network, network.features_dim
        layers = options.lstm_layers
        self.lstm = nn.LSTM(width, options.lstm_size, layers) if layers else None
        self.head = nn.Linear(options.lstm_size if layers else width, actions)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, observations: dict[str, torch.Tensor], lengths: list[int]) -> torch.Tensor:
        """Logits [N, A] for whole trajectories of so many transitions, which lie one after the other in N rows."""
        features = self.network(observations)
        if self.lstm is not None:
            packed = pack_sequence(features.split(lengths), enforce_sorted=False)
            features = torch.cat(unpack_sequence(self.lstm(packed)[0]))
        return self.head(features)

    def step(self, observation: dict[str, torch.Tensor], memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Logits [B, A] for one observation of each of B episodes, and their next memory; None = empty."""
        features = self.network(observation)
        if self.lstm is not None:
            recalled, memory = self.lstm(features[None], memory)
            features = recalled[0]
        return self.head(features), memory


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
) -> BCLearner:
    """As `Algorithm.create`; ValueError for actions that are not discrete, or that `action_weights` does not fit."""
    actions = discrete_count(action_space, "bc")
    if options.action_weights and len(options.action_weights) != actions:
        raise ValueError(
            f"algorithm_options.action_weights has {len(options.action_weights)} weights for {actions} actions; "
            "give one for each action, or [] for none"
        )
    set_random_seed(seed)
    make: Any = network  # every file's Network takes its own Defaults
    policy = RecurrentPolicy(make(observation_space, network_options), actions, options)
    return BCLearner(policy.to(get_device(options.device)), options)


def _observations(chunk: Sequence[Trajectory], device: torch.device) -> Tensors:
    """The observations at the steps of all trajectories, one after the other."""
    keys = chunk[0].observations
    return {key: torch.cat([part.observations[key][: len(part)] for part in chunk]).to(device) for key in keys}


def _discrete(actions: Any) -> torch.Tensor:
    """Discrete actions int64 [n], whatever integer type they were stored in."""
    return actions.long()


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: PositiveNumber = 1e-4  # the paper's
    schedule: Literal["constant", "linear"] = "linear"  # linear falls to 0 at the last step, as the paper's
    weight_decay: Number = 1e-6  # the paper's, of AdamW
    batch: PositiveInt = 16384  # transitions of a gradient step, at least, as trajectories stay whole; the paper's
    forward: PositiveInt = 8  # trajectories in one forward pass: more take more memory and are faster
    max_grad_norm: PositiveNumber = 0.2  # PIRLNav's
    inflection: PositiveNumber = 3.48  # weight where the action changes; PIRLNav's
    action_weights: tuple[Number, ...] = ()  # of each expert action; () = 1; paper: 1.5 for stop, turns
    lstm_layers: NonNegativeInt = 2  # PIRLNav's; 0 = a policy without memory
    lstm_size: PositiveInt = 2048  # units of each, PIRLNav's
    device: Device = "auto"  # auto = a GPU if there is one
    threads: NonNegativeInt = 1  # torch threads of an update: with more, sums may be rounded otherwise; 0 = torch's
