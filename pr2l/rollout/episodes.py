"""Numbered, seeded episodes that can be replayed.

A simulator's state cannot be saved, but an episode is determined by its seed and its actions. So a run that was killed
resumes in the middle of its episodes: reset with the same seed, repeat the actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any

import gymnasium as gym
import numpy as np

from pr2l.core import registry
from pr2l.core.errors import UserError
from pr2l.environments.isolation.isolated import Isolated, Timeouts
from pr2l.rollout import external
from pr2l.rollout.actions import action_to_json, as_action
from pr2l.rollout.contract import BadValue, ContractCheck, Info, Observation, check_spaces

# The first number of a spawn key says what a seed is for, so that no two purposes share a seed.
TRAINING, EVALUATION, EXPLORATION, NOISE = 0, 1, 2, 3

ISOLATED_ONLY = ("silence", "memory", "restarts")  # fields of Timeouts that mean nothing for other environments
REPLAYS = 3  # attempts to replay an episode whose simulator fails meanwhile


def training_seed(run_seed: int, env: int, episode: int) -> int:
    """The seed of a training episode of environment number `env`; 32 bits, as simulators take no more."""
    return _seed(run_seed, TRAINING, env, episode)


def evaluation_seed(number: int) -> int:
    """The seed of an evaluation episode: the same for every run and method, and never a training seed."""
    return _seed(0, EVALUATION, number)


def interleaved_seed(env: int, count: int, episode: int) -> int:
    """The evaluation seed of an episode of environment number `env` of `count`, which take the episodes in turn."""
    return evaluation_seed(env + count * episode)


def _seed(entropy: int, *key: int) -> int:
    return int(np.random.SeedSequence(entropy, spawn_key=key).generate_state(1)[0])


class SeededEpisodes(gym.Wrapper[Observation, Any, Observation, Any]):
    """Number and seed the episodes of one environment, check its contract, and replay episodes on request.

    The last step's info has "episode": {"r": return, "l": length, "number": n, and the last step's "success", "context"
    and "measures"}, with the short keys that Stable-Baselines3 reads. An episode that was cut because its simulator
    failed is repeated from its seed, once: the next reset begins the same one, and its "episode" has "again": True. If
    that is cut too, "cut" is the reason.

    Args:
        env: The environment; `ContractCheck` checks and copies what it returns.
        seed_of: The seed of this environment's n-th episode, n = 0, 1, ...; a seed given to reset is ignored.
        name: How errors call the environment; None = the name of its class.
        slots, labels, on_bad_value: As of `ContractCheck`.
    """

    env: ContractCheck

    def __init__(
        self,
        env: gym.Env[Observation, Any],
        seed_of: Callable[[int], int],
        name: str | None = None,
        *,
        slots: Collection[str] = (),
        labels: bool = False,
        on_bad_value: BadValue = "stop",
    ) -> None:
        super().__init__(ContractCheck(env, name, slots=slots, labels=labels, on_bad_value=on_bad_value))
        self._seed_of = seed_of
        self._next = 0
        self._again = False  # whether this episode is a second attempt
        self._actions: list[Any] = []  # of this episode so far, as JSON values
        self._return = 0.0

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        self._observation, info = self.env.reset(seed=self._seed_of(self._next), options=options)
        self._next += 1
        self._actions, self._return = [], 0.0
        return self._observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        action = as_action(self.action_space, action)
        self._actions.append(action_to_json(self.action_space, action))
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += reward
        if terminated or truncated:
            info["episode"] = self._summary(info)
        return self._observation, reward, terminated, truncated, info

    def _summary(self, info: Info) -> Info:
        """The "episode" of the episode that has just ended."""
        number = self._next - 1
        cut: Info = {}
        if "cut" in info:
            cut = {"cut": info["cut"]} if self._again else {"again": True}
        self._again = "again" in cut
        self._next -= self._again
        outcome = {"success": info["success"], "number": number, "context": info["context"]}
        measures = info.get("measures", {})
        return {"r": self._return, "l": len(self._actions), **outcome, "measures": measures, **cut}

    def rewind(self) -> None:
        """Make the next reset begin episode 0 again."""
        self._next, self._again = 0, False

    @property
    def restarts(self) -> int:
        """How often an isolated simulator was replaced, plus the episodes that `on_bad_value` has ended."""
        return int(getattr(self.unwrapped, "restarts", 0)) + self.env.cuts

    def state(self) -> dict[str, Any]:
        """The running episode as JSON values, for `restore`."""
        return {
            "episode": self._next - 1,
            "actions": list(self._actions),
            "observation": _digest(self._observation),
            "again": self._again,
        }

    def restore(self, state: dict[str, Any]) -> tuple[Observation, Info]:
        """Replay the running episode that `state` described.

        A simulator that fails during the replay is replayed anew, `REPLAYS` times in all. Where the episode does not
        come back as it was, this warns, and begins the next episode if this one has ended.

        Args:
            state: Of `state`; one that an earlier version wrote has no "again".

        Returns:
            What the episode's last step (or its reset) returned.
        """
        for _ in range(REPLAYS):
            self._next, self._again = state["episode"], state.get("again", False)
            observation, info, ended = self._replay(state["actions"])
            if "cut" not in info:
                break
        if ended:
            _warn(f"ended after {len(self._actions)} of {len(state['actions'])} actions", info.get("cut"))
            return self.reset()
        if _digest(observation) != state["observation"]:
            _warn("shows another observation")
        return observation, info

    def _replay(self, actions: list[Any]) -> tuple[Observation, Info, bool]:
        """What the last of these actions, or the reset before them, returned; and whether the episode has ended."""
        observation, info = self.reset()
        for action in actions:
            observation, _, terminated, truncated, info = self.step(action)
            if terminated or truncated:
                return observation, info, True
        return observation, info, False


def make_episodes(
    environment: str,
    task: str,
    options: Any,
    split: str,
    labels: bool,
    seed_of: Callable[[int], int],
    isolated: bool = False,
    timeouts: Mapping[str, Any] | None = None,
    *,
    slots: Collection[str] = (),
    on_bad_value: BadValue = "stop",
) -> SeededEpisodes:
    """Make SeededEpisodes of an environment of the registry.

    Args:
        environment: Its name in the registry, or "module:Class" of a Gymnasium environment.
        task: A key of its TASKS.
        options: Its Defaults.
        split: "train" or "evaluation".
        labels: Whether infos hold the simulator's ground truth.
        seed_of: The seed of the n-th episode.
        isolated: Whether to run it in a process of its own; what is isolated by itself stays as it is.
        timeouts: Values over those of an isolated environment's own Timeouts; others are timed by what steps them.
        slots: Keys that every context must have.
        on_bad_value: As of `ContractCheck`.

    Raises:
        UserError: One of `timeouts` makes sense for an isolated environment only, and this one is not.
        ContractError: Its spaces break the contract.
    """
    module = registry.load("environments", environment)
    name = f"{environment}/{task}"
    env = module.make(task, options, split=split, labels=labels)
    try:
        check_spaces(env, name)
        if isolated and not isinstance(env.unwrapped, Isolated):
            env.close()
            known = env.observation_space, env.action_space
            values = options.model_dump(mode="json")
            row = module.__name__.removeprefix("pr2l."), task  # as isolation/worker.py imports it
            if isinstance(module, external.ExternalModule):
                row = external.__name__, environment
            env = Isolated(*row, values, split=split, labels=labels, name=environment, spaces=known)
        if timeouts:
            worker = env.unwrapped
            alone = [key for key in ISOLATED_ONLY if key in timeouts]
            if isinstance(worker, Isolated):
                worker.timeouts = Timeouts(**{**worker.timeouts.model_dump(), **timeouts})
            elif alone:
                raise UserError(f"timeouts.{alone[0]} is for isolated simulators; add isolated=true for {environment}")
        return SeededEpisodes(env, seed_of, name, slots=slots, labels=labels, on_bad_value=on_bad_value)
    except BaseException:
        env.close()
        raise


def _digest(observation: Observation) -> str:
    parts = (np.ascontiguousarray(observation[key]) for key in sorted(observation))
    return blake2b(b"".join(part.tobytes() for part in parts), digest_size=16).hexdigest()


def _warn(what: str, cut: str | None = None) -> None:
    why = f"the simulator failed {REPLAYS} times ({cut})" if cut else "the simulator is not deterministic"
    warnings.warn(
        f"an episode that was replayed from its seed and actions {what}: {why}, so the run goes on, but not bit for "
        "bit as it would have",
        stacklevel=3,
    )
