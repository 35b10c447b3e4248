"""Numbered, seeded episodes that can be replayed.

The state of a simulator cannot be saved, but the seed and the actions determine an episode. So a run that was killed
resumes in the middle of its episodes: it resets each environment with the same seed and repeats the actions.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from pr2l.core import registry
from pr2l.core.errors import UserError, code_of
from pr2l.core.types import Context, Frame
from pr2l.environments.isolation.isolated import Isolated, Timeouts
from pr2l.rollout import external
from pr2l.rollout.contract import BadValue, ContractCheck, Info, Observation, check_spaces
from pr2l.rollout.elements import action_to_json, as_element

# The first number of a spawn key is the purpose of the seed, so that seeds of two purposes differ.
TRAINING, EVALUATION, EXPLORATION, NOISE, POLICY = 0, 1, 2, 3, 4

ISOLATED_ONLY = ("silence", "memory", "restarts")  # fields of Timeouts that apply to isolated environments only
REPLAYS = 3  # attempts to replay an episode if its simulator fails during the replay


def training_seed(run_seed: int, env: int, episode: int) -> int:
    """Return the seed of a training episode.

    Args:
        run_seed: The seed of the run.
        env: The index of the environment.
        episode: The number of the episode in that environment, from 0.

    Returns:
        A seed of 32 bits, the most that simulators accept.
    """
    return _seed(run_seed, TRAINING, env, episode)


def evaluation_seed(number: int) -> int:
    """Return the seed of an evaluation episode.

    The seeds are the same for every run and method. They are derived separately from training seeds.

    Args:
        number: The number of the episode, from 0.
    """
    return _seed(0, EVALUATION, number)


def interleaved_seed(env: int, count: int, episode: int) -> int:
    """Return the seed of an evaluation episode if several environments take the episodes in turn.

    Args:
        env: The index of the environment.
        count: The number of environments.
        episode: The number of the episode in that environment, from 0.
    """
    return evaluation_seed(env + count * episode)


def _seed(entropy: int, *key: int) -> int:
    return int(np.random.SeedSequence(entropy, spawn_key=key).generate_state(1)[0])


class Record(NamedTuple):
    """What an evaluator reads of an episode.

    Args:
        context: Context at the start.
        frames: n + 1 frames, uint8 [H, W, 3].
        actions: The n actions between them as text: `info["action"]` if the environment has it, else the action, with
            numbers as JSON.
    """

    context: Context
    frames: list[Frame]
    actions: list[str]


class SeededEpisodes(gym.Wrapper[Observation, Any, Observation, Any]):
    """Wrapper that numbers and seeds the episodes of an environment, checks its contract, and can replay an episode.

    The info of an episode's last step has "episode": {"r": return, "l": length, "number": n, and the last step's
    "success", "context" and "measures"}. "r" and "l" are the keys that Stable-Baselines3 reads.

    If a simulator fails, its episode is cut and repeated once from its seed. The "episode" of the cut attempt has
    "again": True. If the second attempt is cut too, its "episode" has the reason as "cut".

    With `record`, the info of the last step has "record", the `Record` of the episode.

    Args:
        env: The environment. `ContractCheck` checks and copies all values that it returns.
        seed_of: Returns the seed of the n-th episode of this environment, n = 0, 1, ...; `reset` ignores its own seed.
        name: The environment's name in error messages; None = the name of its class.
        slots: Keys that every `info["context"]` must have.
        labels: Whether `info["labels"]` must be a list.
        on_bad_value: How to handle a NaN or an infinity, see `ContractCheck`.
        record: Whether to keep the frames of the running episode, for an evaluator.
    """

    env: ContractCheck
    _record: Record

    def __init__(
        self,
        env: gym.Env[Observation, Any],
        seed_of: Callable[[int], int],
        name: str | None = None,
        *,
        slots: Collection[str] = (),
        labels: bool = False,
        on_bad_value: BadValue = "stop",
        record: bool = False,
    ) -> None:
        super().__init__(ContractCheck(env, name, slots=slots, labels=labels, on_bad_value=on_bad_value))
        self._seed_of, self._keeps_record = seed_of, record
        self._next = 0
        self._again = False  # whether this episode is a second attempt
        self._actions: list[Any] = []  # of this episode so far, as JSON values
        self._return = 0.0
        self._held: EpisodeState | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        self._observation, info = self.env.reset(seed=self._seed_of(self._next), options=options)
        self._next += 1
        self._actions, self._return = [], 0.0
        if self._keeps_record:
            self._record = Record(info["context"], [self._observation["frame"]], [])
        return self._observation, info

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish, see `ContractCheck.begin_step`."""
        self.env.begin_step(as_element(self.action_space, action, "action"))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        action = as_element(self.action_space, action, "action")
        self._actions.append(action_to_json(self.action_space, action))
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += reward
        if self._keeps_record:
            self._record.frames.append(self._observation["frame"])
            self._record.actions.append(action_text(info.get("action"), self._actions[-1]))
        if terminated or truncated:
            info["episode"] = self._summary(info)
            if self._keeps_record:
                info["record"] = self._record
        return self._observation, reward, terminated, truncated, info

    def draw_action(self, frame: Frame, action: Any) -> Frame:
        """Draw an action on a frame, see `ContractCheck.draw_action`.

        Args:
            frame: uint8 [H, W, 3].
            action: An action as for `step`.
        """
        return self.env.draw_action(frame, as_element(self.action_space, action, "action"))

    def _summary(self, info: Info) -> Info:
        """Return the "episode" of the info for the episode that has just ended."""
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
        """The number of replaced simulators, if isolated, plus the number of episodes that `on_bad_value` has cut."""
        return int(getattr(self.unwrapped, "restarts", 0)) + self.env.cuts

    def state(self) -> dict[str, Any]:
        """Return the running episode as JSON values, for `restore`."""
        return (self._held or self._state()).values()

    def hold_state(self) -> None:
        """Let `state` return the present state until `release_state`, even while another thread steps."""
        self._held = self._state()

    def release_state(self) -> None:
        """End `hold_state`."""
        self._held = None

    def _state(self) -> EpisodeState:
        return EpisodeState(self._next - 1, self._actions, len(self._actions), self._observation, self._again)

    def restore(self, state: dict[str, Any]) -> tuple[Observation, Info]:
        """Replay an episode up to the saved step.

        If the simulator fails during the replay, the replay starts again, with at most `REPLAYS` attempts. If the
        result differs from the saved episode, this warns. If the replayed episode ends too early, this also begins the
        next one.

        Args:
            state: The result of `state`. A state of an earlier version has no "again".

        Returns:
            The observation and the info of the last replayed step or reset.
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
        """Return the observation and info after these actions, and whether the episode has ended."""
        observation, info = self.reset()
        for action in actions:
            observation, _, terminated, truncated, info = self.step(action)
            if terminated or truncated:
                return observation, info, True
        return observation, info, False


class EpisodeState(NamedTuple):
    """State of a running episode, which later steps do not change.

    Args:
        episode: Number of the episode.
        actions: Actions of the episode as JSON values; later steps append to this list, a reset makes a new one.
        steps: Number of actions that belong to the state.
        observation: The observation after them.
        again: Whether the episode is a second attempt.
    """

    episode: int
    actions: list[Any]
    steps: int
    observation: Observation
    again: bool

    def values(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "episode": self.episode,
            "actions": self.actions[: self.steps],
            "observation": _digest(self.observation),
            "again": self.again,
        }


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
    record: bool = False,
) -> SeededEpisodes:
    """Make the seeded episodes of one environment.

    Args:
        environment: The environment's name in the registry, or "module:Class" of a Gymnasium environment.
        task: A key of the environment's TASKS.
        options: An instance of the environment's Defaults.
        split: "train" or "evaluation".
        labels: Whether infos contain the simulator's ground truth.
        seed_of: Returns the seed of the n-th episode.
        isolated: Whether to run the environment in its own process. An environment that always does so is unchanged.
        timeouts: Fields of `Timeouts` that replace an isolated environment's own; None = keep all. For other
            environments the VecEnv applies the time limits.
        slots: Keys that every context must have.
        on_bad_value: How to handle a NaN or an infinity, see `ContractCheck`.
        record: Whether the info of an episode's last step has its `Record`.

    Raises:
        UserError: If a key of `timeouts` is for isolated environments only and this environment is not isolated.
        ContractError: If the environment's spaces violate the contract.
    """
    module = registry.load("environments", environment)
    name = f"{environment}/{task}"
    with code_of(registry.owner("environments", environment)):
        env = module.make(task, options, split=split, labels=labels)
    try:
        check_spaces(env, name)
        if isolated and not isinstance(env.unwrapped, Isolated):
            env.close()
            env_spaces = env.observation_space, env.action_space
            values = options.model_dump(mode="json")
            row = module.__name__.removeprefix("pr2l."), task  # as isolation/worker.py imports it
            if isinstance(module, external.ExternalModule):
                row = external.__name__, environment
            env = Isolated(*row, values, split=split, labels=labels, name=environment, spaces=env_spaces)
        if timeouts:
            worker = env.unwrapped
            alone = [key for key in ISOLATED_ONLY if key in timeouts]
            if isinstance(worker, Isolated):
                worker.timeouts = Timeouts(**{**worker.timeouts.model_dump(), **timeouts})
            elif alone:
                raise UserError(
                    f"timeouts.{alone[0]} is only for isolated simulators; add isolated=true for {environment}"
                )
        return SeededEpisodes(env, seed_of, name, slots=slots, labels=labels, on_bad_value=on_bad_value, record=record)
    except BaseException:
        env.close()
        raise


def action_text(text: Any, action: Any) -> str:
    """Return an action as text.

    Args:
        text: `info["action"]` after the action; other values than a text are ignored.
        action: The action as JSON values.
    """
    if isinstance(text, str):
        return text
    return action if isinstance(action, str) else json.dumps(action)


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
