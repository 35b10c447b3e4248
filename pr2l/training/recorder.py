"""Recording of single episodes, with noise in the actions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from itertools import count
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from minari.data_collector import EpisodeBuffer

from pr2l.core.errors import UserError
from pr2l.core.types import Labels
from pr2l.data.space_arrays import stack
from pr2l.rollout.elements import as_element
from pr2l.rollout.episodes import NOISE

Observation: TypeAlias = dict[str, np.ndarray]
Write: TypeAlias = Callable[[EpisodeBuffer, dict[str, Any], list[Labels]], None]

LONG_CONTEXT = 4096  # characters; HDF5 attributes hold at most 64 kB, so longer contexts are stored per step


class Recorder(gym.Wrapper[Observation, Any, Observation, Any]):
    """Wrapper that records episodes and passes each episode to `write` when it ends.

    The wrapper copies observations and actions in the dtypes of their spaces, so an environment may reuse its arrays.

    Args:
        env: The environment. Its infos have "context" and "success", like the infos of ContractCheck, and may have
            "labels" and "cut". Episodes that end with "cut" (the simulator failed) are left out.
        write: Function of the episode, its metadata, and the labels of its n + 1 frames.
        noise: Probability of a random action, 0 to 1. The seed of the episode determines the steps of the random
            actions and the actions themselves.
        never: Actions that noise does not draw.
        infos: Keys of the infos to record.

    Attributes:
        episode_seed: The seed of the running episode.
    """

    def __init__(
        self,
        env: gym.Env[Observation, Any],
        write: Write,
        noise: float = 0.0,
        never: Collection[int] = (),
        infos: Sequence[str] = (),
    ) -> None:
        super().__init__(env)
        self._write, self._noise, self._never, self._keys = write, noise, never, tuple(infos)
        self._noise_space = deepcopy(env.action_space)  # a copy, so that no other code seeds it or draws from it

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self.episode_seed, self._random = seed, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(NOISE,)))
        self._noise_space.seed(int(self._random.integers(2**32)))
        self.begin(observation, info)
        return observation, info

    def begin(self, observation: Observation, info: dict[str, Any]) -> None:
        """Start a new recording; `reset` calls it, and demonstrations call it again after moving to their start.

        Args:
            observation: The first observation.
            info: The info of the first observation.
        """
        self._actions: list[Any] = []
        self._choices: list[Any] = []
        self._rewards: list[float] = []
        self._observations: list[Any] = []
        self._infos: list[dict[str, Any]] = []
        self._contexts: list[dict[str, str]] = []
        self._labels: list[Labels] = []
        self._observe(observation, info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        action = as_element(self.action_space, action, "action")
        self._choices.append(action)
        if self._noise and self._random.random() < self._noise:
            action = self._random_action()
        self._actions.append(deepcopy(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._rewards.append(float(reward))
        self._observe(observation, info)
        if (terminated or truncated) and "cut" not in info:
            self._end(bool(terminated), bool(truncated), bool(info["success"]))
        return observation, float(reward), terminated, truncated, info

    def _observe(self, observation: Observation, info: dict[str, Any]) -> None:
        self._observations.append(as_element(self.observation_space, observation, "observation"))
        self._contexts.append(dict(info["context"]))
        self._labels.append(deepcopy(info.get("labels", [])))
        self._infos.append({key: deepcopy(info.get(key)) for key in self._keys})
        if len(self._infos) == 2:  # some entries are only in the infos of steps
            self._check_infos(info)

    def _check_infos(self, info: dict[str, Any]) -> None:
        missing = [key for key in self._keys if all(row[key] is None for row in self._infos)]
        if missing:
            raise UserError(f"the environment's info has no {missing[0]!r}; it has {', '.join(sorted(info))}")

    def _end(self, terminated: bool, truncated: bool, success: bool) -> None:
        steps = len(self._rewards)
        infos: dict[str, Any] = {key: info_column([row[key] for row in self._infos]) for key in self._keys}
        if self._noise:
            infos["choice"] = stack(self.action_space, self._choices)
        first = self._contexts[0]
        long = sum(map(len, first.values())) > LONG_CONTEXT
        if long or any(context != first for context in self._contexts):
            infos["context"] = [json.dumps(context) for context in self._contexts]
        episode = EpisodeBuffer(
            seed=self.episode_seed,
            observations=stack(self.observation_space, self._observations),
            actions=stack(self.action_space, self._actions),
            rewards=self._rewards,
            terminations=[False] * (steps - 1) + [terminated],
            truncations=[False] * (steps - 1) + [truncated],
            infos=infos or None,
        )
        context = {} if long else {f"context/{slot}": text for slot, text in first.items()}
        self._write(episode, {**context, "success": success, "return": sum(self._rewards)}, self._labels)

    def _random_action(self) -> Any:
        draws = (self._noise_space.sample() for _ in count())
        return next(action for action in draws if not any(np.array_equal(action, ending) for ending in self._never))


def info_column(values: Sequence[Any]) -> Any:
    """Stack an entry of the infos over time.

    Args:
        values: The n values of the entry.

    Returns:
        An array [n, ...] if all values are numbers or arrays of numbers of one shape, otherwise a list of n JSON texts.
    """
    if all(isinstance(value, (bool, int, float, np.ndarray, np.generic)) for value in values):
        arrays = [np.asarray(value) for value in values]
        if all(array.dtype.kind in "biuf" and array.shape == arrays[0].shape for array in arrays):
            return np.stack(arrays)
    return [json.dumps(_finite(value), default=_to_json) for value in values]


def _finite(value: Any) -> Any:
    """Replace NaN and infinity in dicts by None, because JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_json(value: Any) -> Any:
    """Convert NumPy arrays and numbers to lists and Python numbers, and all other objects to `str`."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
