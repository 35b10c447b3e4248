"""Batches of transitions and trajectories from recorded episodes with embedded frames.

Actions, rewards, terminations, truncations, proprio and contexts are held in memory; tokens are read from the
memory-mapped store when a batch is drawn. Rows are the numbers of the frames, and steps the numbers of the actions. An
episode of n steps has n + 1 rows:

    row              0    1    2    3  |  4    5    6  |
    observation     o0   o1   o2   o3  | o0   o1   o2  |
    step             0    1    2       |  3    4       |
    action          a0   a1   a2       | a0   a1       |
    next row         1    2    3       |  5    6       |

Row 3 has no step, because no action follows the last observation of an episode: the pair (row 3, row 4) would lead
from the end of one episode to the start of the next. With n_step = 2, step 0 leads to row 2, but step 2 only to row 3,
because a sum of rewards stops at the end of the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pr2l.core.errors import UserError
from pr2l.core.types import Contexts
from pr2l.data.action_features import ActionFeatures
from pr2l.data.recording import Episode, Recording
from pr2l.data.store import Store
from pr2l.policies.base import ActionBatch, Tensors, Trajectory, Transitions, Values
from pr2l.policies.common.loop import ShuffledSource

Rows = npt.NDArray[np.int_]


class Episodes:
    """Sequence of the trajectories of a data set, which also returns transitions by their step numbers.

    Args:
        recording: The data set.
        store: The embeddings of all frames of the data set, in the same order.
        gamma: Discount factor per step, 0 to 1.
        action_features: Candidates for the action of each step, with their features; None = transitions have none.
    """

    def __init__(
        self,
        recording: Recording,
        store: Store,
        gamma: float = 0.99,
        action_features: ActionFeatures | None = None,
    ) -> None:
        self.recording, self.gamma, self._store = recording, gamma, store
        self._action_features = action_features
        episodes = [recording.episode(number) for number in range(recording.episodes)]
        counts = np.array([len(episode.rewards) for episode in episodes])
        self._ends = np.cumsum(counts)  # for each episode, one past its last step
        self._step_ends = np.repeat(self._ends, counts)  # for each step, the end of its episode
        self._rows = np.delete(np.arange(len(recording)), recording.starts[1:] - 1)  # the row of each step
        self._rewards = np.concatenate([episode.rewards for episode in episodes])
        self._terminated = np.concatenate([episode.terminated for episode in episodes])
        self._truncated = np.concatenate([episode.truncated for episode in episodes])
        self._returns = np.concatenate([discounted_returns(episode.rewards, gamma) for episode in episodes])
        self._actions = _concatenate([episode.actions for episode in episodes])
        self.has_expert_actions = any(episode.expert_actions is not None for episode in episodes)
        self._expert_actions = self._actions
        if self.has_expert_actions:
            self._expert_actions = _concatenate([_expert_actions(episode) for episode in episodes])
        self._contexts: Contexts = [context for episode in episodes for context in episode.contexts]
        proprio = [episode.proprio for episode in episodes if episode.proprio is not None]
        self._proprio = np.concatenate(proprio) if proprio else None

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._ends)

    @property
    def steps(self) -> int:
        """Total number of steps of all episodes."""
        return len(self._rewards)

    def __getitem__(self, number: int) -> Trajectory:
        """Return an episode of n steps with its n + 1 observations."""
        first, end = self._ends[number] - self._length(number), self._ends[number]
        steps = np.arange(first, end)
        start, stop = self.recording.starts[number], self.recording.starts[number + 1]
        return Trajectory(
            observations=self._observations(slice(start, stop)),
            actions=_take(self._actions, steps),
            rewards=_floats(self._rewards[steps]),
            terminated=torch.from_numpy(self._terminated[steps]),
            truncated=torch.from_numpy(self._truncated[steps]),
            monte_carlo_returns=_floats(self._returns[steps]),
            discounts=_floats(self.gamma * ~self._terminated[steps]),
            expert_actions=_take(self._expert_actions, steps),
            contexts=self._contexts[start:stop],
            return_discounts=self._return_discounts(steps),
        )

    def transitions(self, steps: Rows, n_step: int = 1) -> Transitions:
        """Return a batch of transitions.

        Args:
            steps: int [B], step numbers, 0 to `self.steps` - 1.
            n_step: Number of steps between an observation and the next observation, and number of summed rewards;
                fewer if the episode ends earlier. `terminated` and `truncated` belong to the last of these steps.
        """
        steps = np.asarray(steps)
        lengths = np.minimum(n_step, self._step_ends[steps] - steps)  # rewards that each row sums
        rewards = np.zeros(len(steps))
        for ahead in range(n_step):
            inside = ahead < lengths
            rewards[inside] += self.gamma**ahead * self._rewards[steps[inside] + ahead]
        last = steps + lengths - 1
        rows = self._rows[steps]
        candidates, features = (None, None) if self._action_features is None else self._action_features[steps]
        return Transitions(
            observations=self._observations(rows),
            actions=_take(self._actions, steps),
            rewards=_floats(rewards),
            next_observations=self._observations(rows + lengths),
            terminated=torch.from_numpy(self._terminated[last]),
            truncated=torch.from_numpy(self._truncated[last]),
            monte_carlo_returns=_floats(self._returns[steps]),
            discounts=_floats(self.gamma**lengths * ~self._terminated[last]),
            contexts=[self._contexts[row] for row in rows],
            expert_actions=_take(self._expert_actions, steps) if self.has_expert_actions else None,
            return_discounts=self._return_discounts(steps),
            proposed_actions=candidates,
            action_features=features,
        )

    def _length(self, number: int) -> int:
        return int(self.recording.starts[number + 1] - self.recording.starts[number]) - 1

    def _return_discounts(self, steps: Rows) -> torch.Tensor:
        ends = self._step_ends[steps]
        return _floats(self.gamma ** (ends - steps) * ~self._terminated[ends - 1])

    def _observations(self, rows: slice | Rows) -> Tensors:
        tokens = self._store[rows]
        observations = {"tokens": tokens.values, "mask": tokens.mask}
        if self._proprio is not None:
            observations["proprio"] = torch.from_numpy(self._proprio[rows].copy())
        return observations


class TrajectorySource(ShuffledSource[Trajectory]):
    """Source of batches of whole episodes; each episode occurs once per epoch.

    Args:
        episodes: The data.
        seed: Seed of the order, which differs in each epoch.
    """

    def __init__(self, episodes: Episodes, seed: int) -> None:
        super().__init__(episodes, seed)
        self._recording = episodes.recording

    def state_dict(self) -> Values:
        return {**super().state_dict(), "data": self._recording.key["sha256"]}

    def load_state_dict(self, values: Values) -> None:
        """Restore the position.

        Args:
            values: A `state_dict()`.

        Raises:
            UserError: They belong to another data set.
        """
        check_same_data(self._recording, values)
        super().load_state_dict(values)


class TransitionSource:
    """Source of batches of transitions; each step occurs once per epoch.

    The last batch of an epoch is filled up with steps of the next epoch.

    Args:
        episodes: The data.
        seed: Seed of the order, which differs in each epoch.
        n_step: Number of steps between an observation and the next observation, see `Episodes.transitions`.
    """

    def __init__(self, episodes: Episodes, seed: int, n_step: int = 1) -> None:
        self.episodes, self.n_step = episodes, n_step
        self._numbers: ShuffledSource[int] = ShuffledSource(range(episodes.steps), seed)

    def __len__(self) -> int:
        return self.episodes.steps

    @property
    def epoch(self) -> float:
        """Number of passes over the data so far, a fraction."""
        return self._numbers.position / len(self)

    def next_batch(self, count: int) -> Transitions:
        """Return the next transitions of the random order.

        Args:
            count: Number of transitions; it may be larger than an epoch.
        """
        return self.episodes.transitions(np.array(self._numbers.next_batch(count), int), self.n_step)

    def state_dict(self) -> Values:
        return {**self._numbers.state_dict(), "data": self.episodes.recording.key["sha256"]}

    def load_state_dict(self, values: Values) -> None:
        """Restore the position.

        Args:
            values: A `state_dict()`.

        Raises:
            UserError: They belong to another data set.
        """
        check_same_data(self.episodes.recording, values)
        self._numbers.load_state_dict(values)


def check_same_data(recording: Recording, values: Values) -> None:
    """Raise UserError if the state of a source belongs to another data set.

    Args:
        recording: The data set of the source.
        values: A `state_dict()`. States of earlier versions do not name their data set and pass the check.
    """
    if values.get("data", recording.key["sha256"]) != recording.key["sha256"]:
        raise UserError(
            f"{recording.folder} has other episodes than when the run was stopped; restore them, or start a new run"
        )


def discounted_returns(rewards: npt.NDArray[np.float64], gamma: float) -> npt.NDArray[np.float64]:
    """Compute the discounted sum of rewards from each step to the end of the episode.

    The sum has no estimate of the rewards after a truncation.

    Args:
        rewards: float64 [n].
        gamma: Discount factor per step, 0 to 1.

    Returns:
        The Monte Carlo returns, float64 [n].
    """
    returns = np.array(rewards, np.float64)
    for step in range(len(returns) - 2, -1, -1):
        returns[step] += gamma * returns[step + 1]
    return returns


def _expert_actions(episode: Episode) -> Any:
    """Return the expert's actions: the executed actions if there was no noise."""
    return episode.actions if episode.expert_actions is None else episode.expert_actions


def _concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate the actions of several episodes, in the layout of `space_arrays`."""
    if isinstance(parts[0], dict):
        return {key: _concatenate([actions[key] for actions in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_concatenate(column) for column in zip(*parts, strict=True))
    if isinstance(parts[0], list):
        return [text for texts in parts for text in texts]
    return np.concatenate(parts)


def _take(actions: Any, steps: Rows) -> ActionBatch:
    """Return the actions of some steps, as tensors or texts."""
    if isinstance(actions, dict):
        return {key: _take(column, steps) for key, column in actions.items()}
    if isinstance(actions, tuple):
        return tuple(_take(column, steps) for column in actions)
    if isinstance(actions, list):
        return [actions[step] for step in steps]
    return torch.from_numpy(actions[steps])


def _floats(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
