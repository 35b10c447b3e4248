"""Behaviour cloning with a recurrent policy, the method of PR2L in Habitat, from PIRLNav (Ramrakhya et al. 2023).

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

from .base import Actions, BatchSource, LearnsFrom, Observation, Tensors, Trajectory, UserError, Values
from .common.actions import discrete_count
from .common.loop import Loop, LoopLearner, Update
from .common.options import Device, Number, PositiveNumber

__all__ = ["BCLearner", "Defaults", "Learner", "create"]

Memory: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None


def transition_weights(trajectory: Trajectory, options: Defaults) -> torch.Tensor:
    """Compute the weight of each transition in the loss.

    The weight is `options.inflection` if the expert's action differs from the previous action, and 1 otherwise, as for
    the first transition; it is multiplied by the expert action's entry of `options.action_weights`. Without inflection
    weights, a policy that repeats the last action has a low loss (Wijmans et al. 2019). This follows PIRLNav's paper;
    PIRLNav's released sensor compares the two preceding actions instead, one step late.

    Args:
        trajectory: Episode of n transitions with discrete actions.
        options: Options of the algorithm.

    Returns:
        float32 [n].
    """
    actions, expert_actions = _discrete(trajectory.actions), _discrete(trajectory.expert_actions)
    weights = torch.ones(len(trajectory))
    weights[1:][expert_actions[1:] != actions[:-1]] = options.inflection
    if options.action_weights:
        weights = weights * torch.tensor(options.action_weights)[expert_actions]
    return weights


def weighted_loss(logits: torch.Tensor, expert_actions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Compute the weighted cross-entropy, summed over n transitions.

    Args:
        logits: Logits [n, A] of A actions.
        expert_actions: int64 [n], target actions.
        weights: float32 [n], weight of each transition.
    """
    return (weights * cross_entropy(logits, expert_actions, reduction="none")).sum()


class BCLearner(LoopLearner):
    """Learner that imitates the expert's actions by behaviour cloning.

    Args:
        policy: Policy to train.
        options: Options of the algorithm.
    """

    learns_from: ClassVar[LearnsFrom] = "trajectories"
    policy: RecurrentPolicy

    def __init__(self, policy: RecurrentPolicy, options: Defaults) -> None:
        self.options = options
        optimizer = torch.optim.AdamW(policy.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        super().__init__(policy, Loop({"policy": policy}, optimizer, self.update, self.rate, options.threads))

    def rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of an update.

        Args:
            step: Transitions before the update.
            total_steps: Transitions of the whole training.
        """
        factor = 1 - step / total_steps if self.options.schedule == "linear" else 1.0
        return self.options.learning_rate * factor

    def update(self, source: BatchSource[Sequence[Trajectory]]) -> Update:
        """Make one gradient step on the weighted mean loss over at least `options.batch` transitions.

        The update reads `options.forward` trajectories at a time and accumulates gradients, which limits the memory.

        Args:
            source: Trajectories with expert actions.

        Returns:
            The number of transitions, and the metrics loss, accuracy (0..1) and epoch.
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
            loss_sum = weighted_loss(logits, expert_actions, weights)
            loss_sum.backward()
            transitions += len(expert_actions)
            weight, loss = weight + weights.sum().item(), loss + loss_sum.item()
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
        """Choose actions; see `Learner.act`.

        The memory is the state of the LSTM, two tensors [layers, B, lstm_size], or None without an LSTM.

        Args:
            observation: As in `Learner.act`.
            memory: The memory that the previous call returned; None = empty.
            episode_starts: bool [B], True = clear the row's memory; None = no episode begins.
            greedy: Choose the most probable action; otherwise sample one.
        """
        tensors = {key: torch.as_tensor(value, device=self.device) for key, value in observation.items()}
        if memory is not None and episode_starts is not None:
            goes_on = torch.as_tensor(~episode_starts.astype(bool), device=self.device)[None, :, None]
            memory = memory[0] * goes_on, memory[1] * goes_on
        logits, memory = self.policy.step(tensors, memory)
        distribution = torch.distributions.Categorical(logits=logits)
        actions = logits.argmax(dim=1) if greedy else distribution.sample()
        return Actions(actions.cpu().numpy(), memory, distribution.log_prob(actions).cpu().numpy())

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        if "counters" in values:  # a checkpoint from before policies/common/loop.py existed
            counters = values["counters"]
            values = {
                "num_timesteps": counters["num_timesteps"],
                "param_groups": values["param_groups"],
                "source": {"taken": counters["trajectories"]},
            }
        super().load_state_dict(tensors, values)


Learner = BCLearner


class RecurrentPolicy(nn.Module):
    """Policy that maps the features of a network through an LSTM to action logits.

    Args:
        network: Features extractor over token observations.
        actions: Number of discrete actions.
        options: Options of the algorithm; with `lstm_layers = 0` the policy has no LSTM.
    """

    def __init__(self, network: BaseFeaturesExtractor, actions: int, options: Defaults) -> None:
        super().__init__()
        self.network, width = network, network.features_dim
        layers = options.lstm_layers
        self.lstm = nn.LSTM(width, options.lstm_size, layers) if layers else None
        self.head = nn.Linear(options.lstm_size if layers else width, actions)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.weight.device

    def forward(self, observations: dict[str, torch.Tensor], lengths: list[int]) -> torch.Tensor:
        """Compute the action logits of whole trajectories.

        Args:
            observations: Tensors [N, ...], the trajectories one after the other.
            lengths: Number of transitions of each trajectory; the sum is N.

        Returns:
            Logits [N, A].
        """
        features = self.network(observations)
        if self.lstm is not None:
            packed = pack_sequence(features.split(lengths), enforce_sorted=False)
            features = torch.cat(unpack_sequence(self.lstm(packed)[0]))
        return self.head(features)

    def step(self, observation: dict[str, torch.Tensor], memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Compute the action logits of one observation from each of B episodes.

        Args:
            observation: Tensors [B, ...].
            memory: State of the LSTM, two tensors [layers, B, lstm_size]; None = empty.

        Returns:
            Logits [B, A] and the next memory.
        """
        features = self.network(observation)
        if self.lstm is not None:
            outputs, memory = self.lstm(features[None], memory)
            features = outputs[0]
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
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
        action_space: Discrete from 0.
        num_envs: Not used.
        network: Class that turns an observation into features.
        network_options: Its options.
        options: Options of behaviour cloning.
        seed: Seed of all random generators, and so of the first weights.

    Raises:
        UserError: The action space is not Discrete from 0, or `options.action_weights` has another length.
    """
    actions = discrete_count(action_space, "bc")
    if options.action_weights and len(options.action_weights) != actions:
        raise UserError(
            f"algorithm_options.action_weights has {len(options.action_weights)} weights for {actions} actions; "
            "use one for each action, or [] for none"
        )
    set_random_seed(seed)
    make: Any = network  # each Network takes the Defaults of its file
    policy = RecurrentPolicy(make(observation_space, network_options), actions, options)
    return BCLearner(policy.to(get_device(options.device)), options)


def _observations(chunk: Sequence[Trajectory], device: torch.device) -> Tensors:
    """Concatenate the observations of all trajectories, without each episode's last observation."""
    keys = chunk[0].observations
    return {
        key: torch.cat([trajectory.observations[key][: len(trajectory)] for trajectory in chunk]).to(device)
        for key in keys
    }


def _discrete(actions: Any) -> torch.Tensor:
    """Convert discrete actions of any integer type to int64 [n]."""
    return actions.long()


class Defaults(BaseModel):
    """Options of behaviour cloning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: PositiveNumber = 1e-4  # learning rate of the first update; from the paper
    schedule: Literal["constant", "linear"] = "linear"  # linear: the rate falls to 0 at the last step, as in the paper
    weight_decay: Number = 1e-6  # weight decay of AdamW; from the paper
    batch: PositiveInt = 16384  # minimum number of transitions per gradient step, in whole trajectories; from the paper
    forward: PositiveInt = 8  # trajectories per forward pass; more are faster and need more memory
    max_grad_norm: PositiveNumber = 0.2  # maximum norm of the gradient; from PIRLNav
    inflection: PositiveNumber = 3.48  # weight of a transition at which the action changes; from PIRLNav
    action_weights: tuple[Number, ...] = ()  # weight of each expert action; () = all 1; paper: 1.5 for stop and turns
    lstm_layers: NonNegativeInt = 2  # layers of the LSTM; from PIRLNav; 0 = policy without memory
    lstm_size: PositiveInt = 2048  # units per LSTM layer; from PIRLNav
    device: Device = "auto"  # device of the policy; auto = a GPU if there is one
    threads: NonNegativeInt = 1  # torch threads during an update; more may change rounding; 0 = no change
