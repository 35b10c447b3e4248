"""Replay of trajectories that a learner collects with its own policy.

    VecEnv -> running episode of each environment -> replay of whole episodes -> batches of trajectories
                                                     recorded data, if any   /

A trajectory in the replay never changes, so the state of a learner contains its tensors without a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from ..base import Actions, BatchSource, Hooks, Observation, Tensors, Trajectory, Values
from .state import below


@dataclass
class Episode:
    """Episode that is being played.

    Args:
        observations: For each observation so far, its arrays by key.
        actions: Actions so far, one less than the observations.
        rewards: Rewards so far.
        chosen: Action that was chosen and whose step is not known yet; None = none.
    """

    observations: list[dict[str, np.ndarray]]
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    chosen: np.ndarray | None = None

    def add(self, reward: float, observation: dict[str, np.ndarray]) -> None:
        """Add the step of the chosen action.

        Args:
            reward: Reward of the action.
            observation: Observation after the action.
        """
        assert self.chosen is not None
        self.observations.append(observation)
        self.actions.append(self.chosen)
        self.rewards.append(reward)
        self.chosen = None

    def tensors(self) -> Tensors:
        """Return the tensors from which `of_tensors` makes an equal episode."""
        parts = {
            f"observations/{key}": np.stack([entry[key] for entry in self.observations]) for key in self.observations[0]
        }
        if self.actions:
            parts |= {"actions": np.stack(self.actions), "rewards": np.array(self.rewards)}
        if self.chosen is not None:
            parts["chosen"] = np.asarray(self.chosen)
        return {name: torch.from_numpy(values) for name, values in parts.items()}

    @classmethod
    def of_tensors(cls, tensors: Tensors) -> Episode:
        """Return an episode.

        Args:
            tensors: The result of `tensors`.
        """
        observations = {key: values.numpy() for key, values in below(tensors, "observations").items()}
        count = len(observations["mask"])
        rows = [{key: values[row] for key, values in observations.items()} for row in range(count)]
        episode = cls(rows, chosen=tensors["chosen"].numpy() if "chosen" in tensors else None)
        if "actions" in tensors:
            episode.actions, episode.rewards = [*tensors["actions"].numpy()], tensors["rewards"].tolist()
        return episode

    def trajectory(self, gamma: float, *, truncated: bool) -> Trajectory:
        """Return the episode as a trajectory.

        Args:
            gamma: Discount factor of the returns, per step.
            truncated: Whether a time limit or a failure cut the episode off; otherwise the task ended it.
        """
        parts = self.tensors()
        observations = below(parts, "observations")
        observations["mask"] = observations["mask"].bool()
        return trajectory(observations, parts["actions"], parts["rewards"].float(), gamma, truncated=truncated)


def trajectory(
    observations: Tensors, actions: torch.Tensor, rewards: torch.Tensor, gamma: float, *, truncated: bool
) -> Trajectory:
    """Return a trajectory of n steps with its returns and discounts.

    Args:
        observations: Tensors [n + 1, ...] by key.
        actions: [n, ...].
        rewards: float32 [n].
        gamma: Discount factor per step.
        truncated: Whether a time limit or a failure cut the episode off; otherwise the task ended it.
    """
    returns = rewards.clone()
    for step in range(len(rewards) - 2, -1, -1):
        returns[step] += gamma * returns[step + 1]
    last = torch.arange(len(rewards)) == len(rewards) - 1
    return Trajectory(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=last & (not truncated),
        truncated=last & truncated,
        monte_carlo_returns=returns,
        discounts=gamma * (~last | truncated).float(),
        expert_actions=actions,
    )


class Replay:
    """Whole episodes, of which the oldest leave when there are too many observations.

    Args:
        capacity: Maximum number of observations in all episodes; the newest episode stays even if it is longer.
        gamma: Discount factor of the returns, per step.
    """

    def __init__(self, capacity: int, gamma: float) -> None:
        self.capacity, self.gamma = capacity, gamma
        self.trajectories: deque[Trajectory] = deque()
        self.observations = 0  # number of observations in all episodes

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.trajectories)

    def add(self, trajectory: Trajectory) -> None:
        """Add an episode.

        Args:
            trajectory: Trajectory whose tensors are never changed later.
        """
        self.trajectories.append(trajectory)
        self.observations += len(trajectory) + 1
        while self.observations > self.capacity and len(self) > 1:
            self.observations -= len(self.trajectories.popleft()) + 1

    def sample(self, count: int) -> list[Trajectory]:
        """Draw episodes with replacement, with torch's random generator.

        Args:
            count: Number of episodes.
        """
        return [self.trajectories[index] for index in torch.randint(len(self), (count,)).tolist()]

    def tensors(self) -> Tensors:
        """Return the tensors of all episodes, not copies, by "<number>/<name>"."""
        return {
            f"{number}/{name}": tensor
            for number, trajectory in enumerate(self.trajectories)
            for name, tensor in parts_of(trajectory).items()
        }

    def restore(self, tensors: Tensors) -> None:
        """Replace all episodes.

        Args:
            tensors: The result of `tensors`.
        """
        self.trajectories.clear()
        self.observations = 0
        for parts in numbered(tensors):
            observations = below(parts, "observations")
            truncated = bool(parts["truncated"])
            self.add(trajectory(observations, parts["actions"], parts["rewards"], self.gamma, truncated=truncated))


class Rollouts:
    """Environments that fill a replay, and a source of trajectories from the replay and recorded data.

    Args:
        venv: Environments of token observations.
        episodes: Running episode of each environment, which continue.
        replay: Replay that receives the finished episodes.
        data: Recorded trajectories; None = the replay only.
        hooks: Callbacks, of which on_step is used.
    """

    def __init__(
        self,
        venv: VecEnv,
        episodes: list[Episode],
        replay: Replay,
        data: BatchSource[Sequence[Trajectory]] | None,
        hooks: Hooks,
    ) -> None:
        self.venv, self.episodes, self.replay, self.data, self.hooks = venv, episodes, replay, data, hooks

    def collect(self, act: Callable[[Observation], Actions], n_steps: int) -> int:
        """Step all environments, and move the episodes that end to the replay.

        Args:
            act: Policy.
            n_steps: Steps of each environment.

        Returns:
            The number of steps of all environments.
        """
        rows = range(self.venv.num_envs)
        for _ in range(n_steps):
            self.add(rows, *self.venv.step(self.choose(act, rows)))
        return n_steps * self.venv.num_envs

    def choose(self, act: Callable[[Observation], Actions], rows: Sequence[int]) -> np.ndarray:
        """Return actions [len(rows), ...], which `add` adds to the episodes after their steps.

        Args:
            act: Policy.
            rows: Numbers of environments, at least one.
        """
        last = [self.episodes[row].observations[-1] for row in rows]
        actions = act({key: np.stack([entry[key] for entry in last]) for key in last[0]}).actions
        for row, action in zip(rows, actions, strict=True):
            self.episodes[row].chosen = action
        return actions

    def add(self, rows: Sequence[int], observations: Any, rewards: Any, dones: Any, infos: Any) -> None:
        """Add the steps of the chosen actions to the episodes, and move the episodes that end to the replay.

        Args:
            rows: Numbers of the environments.
            observations: As all others in the format of `VecEnv.step`, for these environments.
            rewards: Rewards.
            dones: Whether the episodes end.
            infos: Infos.
        """
        for place, (row, reward, done, info) in enumerate(zip(rows, rewards, dones, infos, strict=True)):
            current, episode = row_of(observations, place), self.episodes[row]
            episode.add(float(reward), info["terminal_observation"] if done else current)
            if done:
                truncated = info.get("TimeLimit.truncated", False)
                self.replay.add(episode.trajectory(self.replay.gamma, truncated=truncated))
                self.episodes[row] = Episode([current])
        self.hooks.on_step(infos)

    def next_batch(self, count: int) -> list[Trajectory]:
        """Draw trajectories, each from the replay and the data in proportion to their numbers of trajectories.

        Args:
            count: Number of trajectories; the result is empty if there is none yet.
        """
        recorded = 0 if self.data is None else len(self.data)
        if not recorded + len(self.replay):
            return []
        from_data = int((torch.rand(count) < recorded / (recorded + len(self.replay))).sum())
        batch = [] if self.data is None or not from_data else [*self.data.next_batch(from_data)]
        return batch + (self.replay.sample(count - from_data) if from_data < count else [])

    def state_dict(self) -> Values:
        return {} if self.data is None else {"data": self.data.state_dict()}

    def load_state_dict(self, values: Values) -> None:
        if self.data is not None:
            self.data.load_state_dict(values["data"])


def parts_of(trajectory: Trajectory) -> Tensors:
    """Return the tensors from which `Replay.restore` makes an equal trajectory.

    Args:
        trajectory: Trajectory with actions in one tensor.
    """
    observations = {f"observations/{key}": values for key, values in trajectory.observations.items()}
    actions, truncated = torch.as_tensor(trajectory.actions), trajectory.truncated[-1].clone()
    return {**observations, "actions": actions, "rewards": trajectory.rewards, "truncated": truncated}


def numbered(tensors: Tensors) -> list[Tensors]:
    """Return the tensors by "<number>/<name>" as a list of tensors by name, in the order of the numbers.

    Args:
        tensors: Tensors with the numbers 0, 1, ...
    """
    groups: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        number, _, rest = name.partition("/")
        groups.setdefault(int(number), {})[rest] = tensor
    return [groups[number] for number in sorted(groups)]


def row_of(observations: Any, row: int) -> dict[str, np.ndarray]:
    """Return a copy of one row of a batch of observations, so that the batch can be freed.

    Args:
        observations: Arrays [N, ...] by key.
        row: Number of the row.
    """
    return {key: values[row].copy() for key, values in observations.items()}
