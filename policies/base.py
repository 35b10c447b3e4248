"""The learner contract: what training, evaluation, collection and benchmarks use of an algorithm, and nothing else.

An algorithm is one file of this folder with

    Defaults      its options, a frozen pydantic model
    Learner       the class of its learners, whose `learns_from` is read before anything is created
    create(...)   a fresh learner from spaces and options: see `Algorithm`
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


class Actions(NamedTuple):
    """What `Learner.act` returns for a batch of B observations."""

    actions: np.ndarray  # [B, ...], as the action space has them
    memory: Any = None  # to be given to the next call; None without memory
    log_probabilities: np.ndarray | None = None  # float32 [B] of these actions; None where there are none


@dataclass(frozen=True, eq=False)
class Transitions:
    """A batch of B steps, each as (observation, action, reward, next observation).

    Args:
        observations: Tensors [B, ...] by the keys of the observation space.
        actions: B actions that were taken.
        rewards: float32 [B]; over n steps, their discounted sum.
        next_observations: As observations; of a step that ended its episode, the episode's last observation.
        terminated: bool [B], True where the episode ended because of the task.
        truncated: bool [B], True where it was cut off, such as by its horizon.
        monte_carlo_returns: float32 [B], discounted sum of the rewards from this step to the episode's end.
        discounts: float32 [B], factor of the next observation's value in a bootstrapped target: gamma ** n after n
            steps, 0 where terminated.
        contexts: One per row, what the task says at that step; empty where nothing was recorded.
        expert_actions: B actions that the expert would have taken; None where nothing but the actions was recorded.
        return_discounts: float32 [B], factor of the value of the episode's last observation, which
            `monte_carlo_returns` leaves out: gamma ** (steps to the end) if the episode was truncated, 0 if it
            terminated; None where nobody computed it.
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

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A whole episode of n steps.

    Args:
        observations: Tensors [n + 1, ...] by the keys of the observation space: tokens float16 [n + 1, T, D], mask
            bool [n + 1, T] (True = real), proprio float32 [n + 1, P] if there is any. The last one is what the last
            action led to.
        actions: n actions that were taken.
        rewards: float32 [n].
        terminated: bool [n], True in the last row of an episode that ended because of the task.
        truncated: bool [n], True in the last row of an episode that was cut off, such as by its horizon.
        monte_carlo_returns: float32 [n], discounted sum of the rewards from each step to the end.
        discounts: float32 [n], factor of the next observation's value: gamma, 0 where terminated.
        contexts: One per observation, n + 1; empty where nothing was recorded.
        expert_actions: n actions that the expert would have taken; where it acted alone, the actions.
        return_discounts: float32 [n], as of `Transitions`.
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
        """The number of steps, one less than there are observations."""
        return len(self.rewards)


@dataclass(frozen=True, eq=False)
class PreferencePairs:
    """A batch of B pairs of trajectories (segments of episodes will do), of which one each was preferred."""

    chosen: Sequence[Trajectory]
    rejected: Sequence[Trajectory]

    def __len__(self) -> int:
        return len(self.chosen)


class BatchSource(Protocol[Batch_co]):
    """Data without end, which goes on after a resume where it stopped.

    `Batch` is Transitions (of `count` rows), a list of `count` Trajectory, or PreferencePairs (of `count` pairs).
    """

    def __len__(self) -> int:
        """Rows, trajectories or pairs in one pass over the data."""
        ...

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        ...

    def next_batch(self, count: int) -> Batch_co: ...

    def state_dict(self) -> Values:
        """Where the source is, as JSON values."""
        ...

    def load_state_dict(self, values: Values) -> None: ...


class Hooks:
    """What a learner calls while it learns; every method does nothing until it is overridden.

    An exception that a hook raises ends the training and passes through.
    """

    def on_update_start(self, learner: Learner) -> None:
        """Called before the first update, and between two updates: the moment at which to take `state_dict`.

        A learner of rollouts begins its rollout after this.
        """

    def on_step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Called after each step of the vector environment, with one info per environment."""

    def on_update(self, metrics: Mapping[str, float]) -> None:
        """Called after each update, with the names and values to log."""

    def on_end(self, learner: Learner) -> None:
        """Called after the last update, unless an exception ended the training."""


class Learner(Protocol):
    """A policy that acts and learns."""

    learns_from: ClassVar[LearnsFrom]

    @property
    def num_timesteps(self) -> int:
        """Environment steps (rollouts), transitions or pairs that it has learned from, also before a resume."""
        ...

    @property
    def parameter_count(self) -> int:
        """Numbers that learn."""
        ...

    @property
    def device(self) -> torch.device: ...

    def act(
        self,
        observation: Observation,
        memory: Any = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """Choose an action for each of B observations; B need not be the number of environments.

        Args:
            observation: Arrays [B, ...].
            memory: What the call before returned; None = empty.
            episode_starts: bool [B], True where a new episode begins, so that its memory is empty; None = nowhere.
            greedy: Take the most probable action; otherwise draw one from torch's generator.
        """
        ...

    def learn(self, source: Any, total_steps: int, hooks: Hooks) -> None:
        """Learn until `num_timesteps` is at least `total_steps`, which counts what came before a resume too.

        Args:
            source: What `learns_from` declares: a VecEnv whose observations are tokens, or a BatchSource.
            total_steps: In the unit of `num_timesteps`.
            hooks: Called as training goes on.
        """
        ...

    def state_dict(self) -> tuple[Tensors, Values]:
        """Copies of all that a resumed training needs; to be called between updates (`Hooks.on_update_start`)."""
        ...

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Put back what `state_dict` took from a learner of the same spaces and options; learning goes on exactly.

        Process-wide random generators may change too. Raises RuntimeError for weights of other shapes.
        """
        ...

    def load_policy(self, tensors: Tensors) -> None:
        """Put back the weights alone, for acting; tensors: as of `state_dict`."""
        ...


AnyLearner: TypeAlias = Learner


class Algorithm(Protocol):
    """The module of an algorithm."""

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
        """Create a fresh learner, seeding torch, NumPy and Python.

        Args:
            observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
            action_space: Of one environment.
            num_envs: Environments of a rollout.
            network: The class of a file of policies/networks/.
            network_options: Its Defaults.
            options: The algorithm's Defaults.
            seed: Of everything random.

        Raises:
            ValueError: Spaces or options that do not fit together.
        """
        ...
