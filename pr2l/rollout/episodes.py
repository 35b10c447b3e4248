"""Episodes that know their number: each is seeded by it, accounted for at its end, and can be played again.

A simulator cannot be saved, but an episode is its seed and its actions. So a run that was killed goes on in
the middle of its episodes: reset with the same seed, repeat the actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import gymnasium as gym
import numpy as np

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.environments.isolation.isolated import Isolated, Timeouts

Observation = dict[str, np.ndarray]
Info = dict[str, Any]

# First words of the spawn keys, so that no two purposes can ever share a seed.
TRAINING, EVALUATION, EXPLORATION, NOISE = 0, 1, 2, 3


def training_seed(run_seed: int, env: int, episode: int) -> int:
    """The seed of the env-th simulator's episode in training; 32 bits, as many as simulators take."""
    return _seed(run_seed, TRAINING, env, episode)


def evaluation_seed(number: int) -> int:
    """The seed of an evaluation episode: the same for every run and method, and unlike any in training."""
    return _seed(0, EVALUATION, number)


def interleaved_seed(env: int, count: int, episode: int) -> int:
    """The seed of an episode of the env-th of `count` simulators that take turns at the evaluation episodes."""
    return evaluation_seed(env + count * episode)


def _seed(entropy: int, *key: int) -> int:
    return int(np.random.SeedSequence(entropy, spawn_key=key).generate_state(1)[0])


class SeededEpisodes(gym.Wrapper[Observation, Any, Observation, Any]):
    """The outermost wrapper of one environment.

    seed_of: the seed of this environment's n-th episode, n = 0, 1, ...; a seed given to reset is ignored.
    The last step's info has "episode": {"r": return, "l": length, "number": n, and the last step's "success", "context"
    and "measures"}, with the short keys that Stable-Baselines3 reads. An episode that a failing simulator has cut is
    played again from its seed, once: the next reset begins the same one, and its "episode" has "again": True. If that
    is cut too, "cut" is the reason.
    """

    def __init__(self, env: gym.Env[Observation, Any], seed_of: Callable[[int], int]) -> None:
        super().__init__(env)
        self._seed_of = seed_of
        self._next = 0
        self._again = False  # whether this episode is a second attempt
        self._actions: list[Any] = []
        self._return = 0.0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        self._observation, info = self.env.reset(seed=self._seed_of(self._next), options=options)
        self._next += 1
        self._actions, self._return = [], 0.0
        return self._observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._actions.append(np.asarray(action).tolist())
        self._return += float(reward)
        if terminated or truncated:
            info["episode"] = self._account(info)
        return self._observation, float(reward), terminated, truncated, info

    def _account(self, info: Info) -> Info:
        """Of the episode that has just ended."""
        success, number = bool(info["success"]), self._next - 1
        cut: Info = {}
        if "cut" in info:
            cut = {"cut": info["cut"]} if self._again else {"again": True}
        self._again = "again" in cut
        self._next -= self._again
        kept = {"context": info["context"], "measures": info.get("measures", {})}
        return {"r": self._return, "l": len(self._actions), "success": success, "number": number, **kept, **cut}

    def rewind(self) -> None:
        """Makes the next reset begin episode 0 again."""
        self._next, self._again = 0, False

    @property
    def restarts(self) -> int:
        """How often the simulator was replaced; 0 where it is not isolated."""
        return int(getattr(self.unwrapped, "restarts", 0))

    def state(self) -> dict[str, Any]:
        """The running episode as JSON values, for `restore`."""
        return {
            "episode": self._next - 1,
            "actions": list(self._actions),
            "observation": _digest(self._observation),
        }

    def restore(self, state: dict[str, Any]) -> tuple[Observation, Info]:
        """Plays the episode up to where it was; returns what its last step (or reset) returned.

        Where the simulator does not come back as it was, it warns, and begins the next episode if this one
        has ended.
        """
        self._next = state["episode"]
        observation, info = self.reset()
        for count, action in enumerate(state["actions"], start=1):
            observation, _, terminated, truncated, info = self.step(action)
            if terminated or truncated:
                _warn(f"ended after {count} of {len(state['actions'])} actions")
                return self.reset()
        if _digest(observation) != state["observation"]:
            _warn("shows another observation")
        return observation, info


def make_episodes(
    environment: str,
    task: str,
    options: Any,
    split: str,
    labels: bool,
    seed_of: Callable[[int], int],
    isolated: bool = False,
    timeouts: Mapping[str, Any] | None = None,
) -> SeededEpisodes:
    """SeededEpisodes of an environment of the registry; arguments as of its `make` and of SeededEpisodes.

    isolated: in another process of this interpreter; what is made isolated by itself stays as it is.
    timeouts: values over those of the isolated environment's own Timeouts. Raises UserError where it is not isolated.
    """
    module = registry.load("environments", environment)
    env = module.make(task, options, split=split, labels=labels)
    if isolated and not isinstance(env.unwrapped, Isolated):
        env.close()
        shown = env.observation_space, env.action_space
        values = options.model_dump(mode="json")
        name = module.__name__.removeprefix("pr2l.")  # as isolation/worker.py imports it
        env = Isolated(name, task, values, split=split, labels=labels, name=environment, spaces=shown)
    if timeouts:
        far = env.unwrapped
        if not isinstance(far, Isolated):
            env.close()
            raise UserError(f"timeouts are for isolated simulators: {environment} needs isolated=true too")
        far.timeouts = Timeouts(**{**far.timeouts.model_dump(), **timeouts})
    return SeededEpisodes(env, seed_of)


def _digest(observation: Observation) -> str:
    parts = (np.ascontiguousarray(observation[key]) for key in sorted(observation))
    return blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).hexdigest()


def _warn(what: str) -> None:
    warnings.warn(
        f"an episode that was played again from its seed and actions {what}: the simulator is not "
        "deterministic, so the run goes on, but not bit for bit as it would have",
        stacklevel=3,
    )
