"""Interface of learners: training, evaluation, collection and benchmarks use nothing else of an algorithm.

An algorithm is one file of this folder with

    Defaults      options, a frozen pydantic model
    Learner       class of the learners; pr2l reads its `learns_from` before it creates anything
    create(...)   creates a learner from spaces and options: see `Algorithm`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel

LearnsFrom: TypeAlias = Literal["rollouts", "transitions", "trajectories", "preferences"]
"""rollouts: a VecEnv of tokens that the learner steps itself. The others: a BatchSource of what is named."""

Observation: TypeAlias = dict[str, np.ndarray]
"""tokens float16 [B, T, D], mask uint8 [B, T] (1 = real), proprio float32 [B, P] if the environment has it."""

Tensors: TypeAlias = dict[str, torch.Tensor]
Values: TypeAlias = dict[str, Any]
"""JSON values."""

ActionBatch: TypeAlias = "torch.Tensor | dict[str, ActionBatch] | tuple[ActionBatch, ...] | list[str]"
"""n actions of any space: a tensor [n, ...] of its dtype; a list for Text; for Dict and Tuple one of these."""

Batch_co = TypeVar("Batch_co", covariant=True)


class UserError(ValueError):
    """Error for a mistake that the user can correct, such as an algorithm that does not suit the actions.

    The command line prints its message without a traceback. Every other exception counts as a defect.
    """


class Actions(NamedTuple):
    """Result of `Learner.act` for a batch of B observations.

    Args:
        actions: [B, ...], in the shape of the action space.
        memory: Memory to pass to the next call; None if the policy has no memory.
        log_probabilities: float32 [B], log-probabilities of the actions; None if the policy has none.
    """

    actions: np.ndarray
    memory: Any = None
    log_probabilities: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Transitions:
    """Batch of B steps, each as (observation, action, reward, next observation).

    Args:
        observations: Tensors [B, ...] by the keys of the observation space.
        actions: B actions that the agent took.
        rewards: float32 [B], rewards; for n-step transitions, the discounted sum of n rewards.
        next_observations: Tensors [B, ...] by the same keys; for the last step of an episode, the episode's last
            observation.
        terminated: bool [B], True if the task ended the episode.
        truncated: bool [B], True if a time limit or a failure cut the episode off.
        monte_carlo_returns: float32 [B], discounted sum of the rewards from this step to the end of the episode.
        discounts: float32 [B], factor of the value of the next observation in a bootstrapped target: gamma ** n after
            n steps, 0 if terminated.
        contexts: Context of the task at each step, B of them; empty if no contexts were recorded.
        expert_actions: B actions that the expert would have taken; None if only the agent's actions were recorded.
        return_discounts: float32 [B], factor of the value of the episode's last observation, which
            `monte_carlo_returns` leaves out: gamma ** (steps to the end) if the episode was truncated, 0 if it
            terminated; None if not computed.
        proposed_actions: N candidates for the action of each step, [B, N, ...]; candidate 0 is the agent's own action.
            None = the algorithm has not asked for features of actions.
        action_features: Features of these candidates by the VLM, float16 [B, N, D]; None as `proposed_actions`.
    """

    observations: Tensors
    actions: ActionBatch
    rewards: torch.Tensor
    next_observations: Tensors
    terminated: torch.Tensor
    truncated: torch.Tensor
    monte_carlo_returns: torch.Tensor
    discounts: torch.Tensor
    contexts: Sequence[Mapping[str, str]] = ()
    expert_actions: ActionBatch | None = None
    return_discounts: torch.Tensor | None = None
    proposed_actions: torch.Tensor | None = None
    action_features: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One whole episode of n steps.

    Args:
        observations: Tensors [n + 1, ...] by the keys of the observation space: tokens float16 [n + 1, T, D], mask
            bool [n + 1, T] (True = real), and proprio float32 [n + 1, P] if the environment has it. The last row is
            the observation after the last action.
        actions: n actions that the agent took.
        rewards: float32 [n], rewards.
        terminated: bool [n], True in the last row if the task ended the episode.
        truncated: bool [n], True in the last row if a time limit or a failure cut the episode off.
        monte_carlo_returns: float32 [n], discounted sum of the rewards from each step to the end of the episode.
        discounts: float32 [n], factor of the value of the next observation: gamma, 0 if terminated.
        expert_actions: n actions that the expert would have taken; equal to `actions` if the expert acted alone.
        contexts: Context of the task at each observation, n + 1 of them; empty if no contexts were recorded.
        return_discounts: float32 [n], factor of the value of the episode's last observation; see `Transitions`.
    """

    observations: Tensors
    actions: ActionBatch
    rewards: torch.Tensor
    terminated: torch.Tensor
    truncated: torch.Tensor
    monte_carlo_returns: torch.Tensor
    discounts: torch.Tensor
    expert_actions: ActionBatch
    contexts: Sequence[Mapping[str, str]] = ()
    return_discounts: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return the number of steps, one less than the number of observations."""
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class PreferencePairs:
    """Batch of B pairs of trajectories or segments of episodes, with a preference in each pair.

    Args:
        chosen: The preferred trajectory of each pair.
        rejected: The other trajectory of each pair.
    """

    chosen: Sequence[Trajectory]
    rejected: Sequence[Trajectory]

    def __len__(self) -> int:
        return len(self.chosen)


class BatchSource(Protocol[Batch_co]):
    """Endless, resumable stream of batches from a data set.

    A batch is Transitions (of `count` rows), a list of `count` Trajectory, or PreferencePairs (of `count` pairs).
    """

    def __len__(self) -> int:
        """Return the number of rows, trajectories or pairs in one pass over the data."""
        ...

    @property
    def epoch(self) -> float:
        """Number of passes over the data so far."""
        ...

    def next_batch(self, count: int) -> Batch_co:
        """Return the next `count` rows, trajectories or pairs.

        Args:
            count: Size of the batch, at least 1. The data start again when they are used up.
        """
        ...

    def state_dict(self) -> Values:
        """Return the position in the data as JSON values."""
        ...

    def load_state_dict(self, values: Values) -> None:
        """Go back to the position that `state_dict` returned.

        Args:
            values: JSON values from `state_dict` of a source with the same data.
        """
        ...


class Hooks:
    """Callbacks of `Learner.learn`; the methods of this base class do nothing.

    An exception in a hook ends the training, and `learn` does not catch it.
    """

    def on_update_start(self, learner: Learner) -> None:
        """Run before each update; a learner of rollouts collects its rollout after this call.

        Call `learner.state_dict` here to save a checkpoint.

        Args:
            learner: The learner that is training.
        """

    def on_step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Run after each step of the vector environment.

        Args:
            infos: One info per environment; of an asynchronous step, one per environment that has made a step.
        """

    def on_update(self, metrics: Mapping[str, float]) -> None:
        """Run after each update.

        Args:
            metrics: Names and values to log.
        """

    def on_end(self, learner: Learner) -> None:
        """Run after the last update, unless an exception ended the training.

        Args:
            learner: The learner that was training.
        """


class Learner(Protocol):
    """Policy that acts and learns.

    A class that learns from rollouts may declare `reads_terminated: ClassVar[bool] = False`. Then `info` has no
    "terminal_observation" at the end of terminated episodes, only at the end of truncated ones, and pr2l saves the
    encoder's work for those frames.

    A class that learns from rollouts may declare `takes_data: ClassVar[bool] = True`. Then a config may name a data
    set, and pr2l calls `add_data` with a BatchSource of its trajectories once, before `load_state_dict` and `learn`.

    A class may declare `takes_policy: ClassVar[bool] = True`. Then `create` of its module takes `policy`, a policy of
    common/policy.py, such as a VLM that writes the actions. Observations then have the keys of that policy too, and
    actions are integers [B, ...] in the policy's own form.
    """

    learns_from: ClassVar[LearnsFrom]

    @property
    def num_timesteps(self) -> int:
        """Number of environment steps, transitions or pairs used for learning so far, including those before a resume.

        The unit is environment steps for `learns_from = "rollouts"`.
        """
        ...

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        ...

    def act(
        self,
        observation: Observation,
        memory: Any = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """Choose an action for each of B observations; B may differ from the number of environments.

        Args:
            observation: Arrays [B, ...] by the keys of the observation space.
            memory: Memory that the previous call returned; None = empty.
            episode_starts: bool [B], True if a new episode begins, which clears the memory of that row; None = no
                episode begins.
            greedy: Choose the most probable action; otherwise sample one with torch's random generator.
        """
        ...

    def learn(self, source: Any, total_steps: int, hooks: Hooks) -> None:
        """Learn until `num_timesteps` is at least `total_steps`.

        Args:
            source: Source of the kind that `learns_from` declares: a VecEnv of token observations, or a BatchSource.
            total_steps: Total of the whole training, including the steps before a resume; in the unit of
                `num_timesteps`.
            hooks: Callbacks.
        """
        ...

    def state_dict(self) -> tuple[Tensors, Values]:
        """Return copies of the whole training state; call it between updates (`Hooks.on_update_start`).

        Returns:
            Tensors by name, and JSON values.
        """
        ...

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state, so that training continues exactly where it stopped.

        This may change the process-wide random generators too.

        Args:
            tensors: Tensors from `state_dict` of a learner with the same spaces and options.
            values: JSON values from the same call.

        Raises:
            RuntimeError: The weights have other shapes.
        """
        ...

    def load_policy(self, tensors: Tensors) -> None:
        """Restore the weights of the policy only, for acting.

        Args:
            tensors: Tensors from `state_dict`.
        """
        ...


AnyLearner: TypeAlias = Learner


class Algorithm(Protocol):
    """Module of an algorithm."""

    Defaults: type[BaseModel]
    Learner: type[AnyLearner]

    def create(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        num_envs: int,
        network: type[Any],
        network_options: BaseModel,
        options: Any,
        *,
        seed: int,
    ) -> AnyLearner:
        """Create a learner with random weights, and seed torch, NumPy and Python.

        Args:
            observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
            action_space: Action space of one environment.
            num_envs: Number of environments in a rollout.
            network: Class `Network` of a file in policies/networks/.
            network_options: Options of the network, an instance of that file's `Defaults`.
            options: Options of the algorithm, an instance of its `Defaults`.
            seed: Seed of all random generators.

        Raises:
            UserError: Spaces or options do not fit together.
        """
        ...
