"""Episodes on disk: a policy plays a task; frames, actions, rewards and contexts become a Minari data set.

Nothing is downloaded or asked of the network; `minari.MinariDataset(folder / "data")` reads it back, as does
`minari.load_dataset(folder.name)` with MINARI_DATASETS_PATH set to the folder's parent.

An expert that never errs shows nothing of how to recover from an error. So a share of its actions can be replaced by
random ones (`noise`), while what it would have done is kept beside them: noise injection as in DART (Laskey et al.
2017). `actions` are then those taken, and `infos["choice"]`, as long as they, is the policy's own choice, the label to
learn.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage
from rich.progress import Progress
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core import registry
from pr2l.core.config import parse_options
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.types import Labels
from pr2l.data.labelled_frames import measured
from pr2l.rollout.episodes import NOISE, SeededEpisodes
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training.evaluate import model_actor, play, random_actor, trained
from pr2l.training.runs import Run

Observation: TypeAlias = dict[str, np.ndarray]
Write: TypeAlias = Callable[[EpisodeBuffer, dict[str, Any], list[Labels]], None]

LABELS = "labels.jsonl"  # beside `data`, where labels are kept


def collect(
    environment: str,
    task: str,
    folder: Path,
    *,
    policy: str = "random",
    episodes: int = 100,
    options: Mapping[str, Any] | None = None,
    split: Literal["train", "evaluation"] = "train",
    seed: int = 0,
    noise: float = 0.0,
    labels: bool = False,
) -> minari.MinariDataset:
    """Plays episodes with the seeds seed, seed + 1, ... and writes each below `folder` when it ends.

    policy: "random", "oracle", or the folder of a run of this task. options: values for the environment's
    Defaults, over those of the run, if any. noise: the probability of a random action in place of the policy's, whose
    choice is then kept too; 0..1; none of the environment's ENDING_ACTIONS is drawn. Frames are stored without loss.
    labels: keep the simulator's labels too: labels.jsonl has a line per episode, the list of its frames' labels, with
    distances in units of what the environment calls NEAR.
    Each episode's metadata has `context`, `success`, `return` and `seed`; the data set's has `noise`. Ctrl-C keeps what
    is whole. Raises UserError where the folder exists already, or where a name or an option is wrong.
    """
    folder = folder.resolve()  # minari joins relative paths twice
    if folder.exists():
        raise UserError(f"{folder} exists already; collect writes a new data set, so name another folder")
    module = registry.load("environments", environment)
    if task not in module.TASKS:
        raise UnknownName(f"tasks of {environment}", task, module.TASKS)
    run = _run(policy, environment, task)
    given = {**(run.config.environment_options if run else {}), **(options or {})}
    defaults = parse_options(module.Defaults, given, f"options of {environment!r}")
    env = module.make(task, defaults, split=split, labels=labels or policy != "random")
    title = f"{policy} plays {environment}/{task}"
    with closing(env), Progress() as bars:
        bar = bars.add_task(title, total=episodes)
        about = {"description": f"{title}, {split} episodes from seed {seed}", "noise": noise}
        storage = _new_storage(folder, env, {**about, "environment_options": given})

        def write(episode: EpisodeBuffer, about: dict[str, Any], known: list[Labels]) -> None:
            with not_interrupted():
                if labels:
                    with (folder / LABELS).open("a", encoding="utf-8") as file:
                        file.write(json.dumps([measured(each, module) for each in known]) + "\n")
                storage.update_episodes([episode])
                storage.update_episode_metadata([about], [storage.total_episodes - 1])
            bars.advance(bar)

        never = getattr(module, "ENDING_ACTIONS", ())
        _play(Recorder(env, write, noise, never), module, task, run, policy, episodes, seed)
    return minari.MinariDataset(storage)


class Recorder(gym.Wrapper[Observation, Any, Observation, Any]):
    """Hands each whole episode to `write`: N + 1 observations, N actions and rewards; what to know of it; its labels.

    noise: the probability that a random action is taken, none of `never`; the seed of the episode determines when and
    which.
    """

    def __init__(
        self, env: gym.Env[Observation, Any], write: Write, noise: float = 0.0, never: Collection[int] = ()
    ) -> None:
        super().__init__(env)
        self._write, self._noise, self._never = write, noise, never
        self._anything = deepcopy(env.action_space)  # one that nobody else seeds or draws from

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        shown = {key: [value] for key, value in observation.items()}
        choices: dict[str, Any] | None = {"choice": []} if self._noise else None
        self._episode = EpisodeBuffer(seed=seed, observations=shown, actions=[], infos=choices)
        self._random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(NOISE,)))
        self._anything.seed(int(self._random.integers(2**32)))
        self._context = info["context"]
        self._labels: list[Labels] = [info.get("labels", [])]
        return observation, info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        episode: Any = self._episode
        if self._noise:
            episode.infos["choice"].append(np.int64(action))
            if self._random.random() < self._noise:
                action = self._any_action()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._labels.append(info.get("labels", []))
        for key, value in observation.items():
            episode.observations[key].append(value)
        episode.actions.append(np.int64(action))
        episode.rewards.append(float(reward))
        episode.terminations.append(bool(terminated))
        episode.truncations.append(bool(truncated))
        if (terminated or truncated) and "cut" not in info:  # what a failing simulator has cut is no episode
            context = {f"context/{slot}": text for slot, text in self._context.items()}
            returned = sum(episode.rewards)
            self._write(episode, {**context, "success": bool(info["success"]), "return": returned}, self._labels)
        return observation, float(reward), terminated, truncated, info

    def _any_action(self) -> Any:
        drawn = (self._anything.sample() for _ in count())
        return next(action for action in drawn if action not in self._never)


def _run(policy: str, environment: str, task: str) -> Run | None:
    """The run that a policy names; UserError if it was trained for something else."""
    if policy in ("random", "oracle"):
        return None
    if not Path(policy).is_dir():
        raise UnknownName("policies", policy, ["random", "oracle"], hint="There is no run folder of that name either.")
    run = Run.load(Path(policy))
    if (run.config.environment, run.config.task) != (environment, task):
        raise UserError(
            f"{policy} was trained on {run.config.environment} {run.config.task}, not on {environment} {task}; "
            f"collect there, or name a run of {environment} {task}"
        )
    return run


def _play(env: Recorder, module: Any, task: str, run: Run | None, policy: str, episodes: int, seed: int) -> None:
    venv = DummyVecEnv([lambda: SeededEpisodes(env, lambda episode: seed + episode)])
    if run is not None:
        encoder, model, _ = trained(run)
        torch.manual_seed(seed)
        play(VecEmbed(venv, encoder), model_actor(run.config, model), episodes)
    elif policy == "oracle":
        decide = module.oracle(task)
        play(venv, lambda observation, starts: np.array([decide(env)]), episodes)
    else:
        play(venv, random_actor(venv.action_space, 1, seed), episodes)


def _new_storage(folder: Path, env: gym.Env[Any, Any], about: dict[str, Any]) -> MinariStorage:
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", env.observation_space, env.action_space, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **about})
    return storage


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, so that no file is left half written."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
