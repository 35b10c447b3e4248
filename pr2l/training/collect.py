"""Record episodes of a task as a Minari data set.

`minari.MinariDataset(folder / "data")` reads the data set without a download. So does
`minari.load_dataset(folder.name)` if MINARI_DATASETS_PATH is the parent of the folder. An episode of n actions contains

    observations   n + 1, including the observation after the last action
    actions        n, in the dtype of the action space
    rewards, terminations, truncations   n
    infos          see `collect`

Demonstrations of a perfect expert do not show how to recover from mistakes. Therefore `noise` replaces a fraction of
the actions by random actions and stores the policy's actions as `infos["choice"]`: noise injection as in DART (Laskey
et al. 2017).
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from pr2l.core.config import MAX_SEED, parse_options
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.types import Labels
from pr2l.data.labelled_frames import measured
from pr2l.data.space_arrays import check_supported, stack
from pr2l.rollout.contract import ContractCheck
from pr2l.rollout.elements import as_element
from pr2l.rollout.episodes import NOISE, SeededEpisodes
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training.evaluate import learner_actor, play, trained
from pr2l.training.runs import Run

Observation: TypeAlias = dict[str, np.ndarray]
Write: TypeAlias = Callable[[EpisodeBuffer, dict[str, Any], list[Labels]], None]

LABELS = "labels.jsonl"  # in the folder of the data set: the simulator's labels, if they are stored
RESERVED = ("choice", "context")  # entries of `infos` that `collect` itself writes
LONG_CONTEXT = 4096  # characters; HDF5 attributes hold at most 64 kB, so longer contexts are stored per step


def collect(
    environment: str,
    task: str,
    folder: Path | None = None,
    *,
    policy: str = "random",
    demonstrations: Path | None = None,
    episodes: int | None = None,
    options: Mapping[str, Any] | None = None,
    split: Literal["train", "evaluation"] = "train",
    seed: int = 0,
    noise: float = 0.0,
    labels: bool = False,
    infos: Sequence[str] = (),
) -> minari.MinariDataset:
    """Record episodes of a task with the seeds seed, seed + 1, ...

    Each episode is written when it ends, with lossless frames. Ctrl-C keeps the complete episodes. The metadata of an
    episode are `context` (at its start), `success`, `return` and `seed`. The metadata of the data set are
    `environment`, `task`, `environment_options`, `policy`, `split` and `noise`. An episode whose context changes, or
    whose context is long, also has `infos["context"]`: n + 1 JSON texts.

    Args:
        environment: A name from `pr2l list environments`.
        task: A key of the environment's TASKS.
        folder: The folder to make. None = data/<environment>-<task>.
        policy: "random", "oracle", or the folder of a run of this task.
        demonstrations: A file of episodes, such as human demonstrations, whose actions are played in place of a
            policy's; only for environments that can read such files. Demonstrations that cannot be played, or whose
            actions do not end the episode, are left out and counted.
        episodes: Number of episodes to record. None = 100, or all demonstrations.
        options: Values for the environment's Defaults; they replace the values in the config of a run. None = {}.
        split: The split of the environment's maps and seeds.
        seed: The seed of the first episode.
        noise: Probability, 0 to 1, that a random action replaces the policy's action. If it is above 0, the policy's
            actions are stored as `infos["choice"]`. Actions in the environment's ENDING_ACTIONS are not drawn.
        labels: Whether to store the simulator's labels: each line of labels.jsonl is an episode, the list of the labels
            of its frames, with distances in units of the environment's NEAR.
        infos: Keys of the environment's `info` to store as `infos[key]` with n + 1 rows: arrays if all rows are
            numbers of one shape, otherwise JSON texts.

    Returns:
        The data set, as Minari reads it.

    Raises:
        UserError: If the folder exists, a name or an option is wrong, or an observation or action is not in its space.
    """
    folder = (folder or default_folder(environment, task)).resolve()  # minari joins relative paths twice
    if folder.exists():
        raise UserError(f"{folder} exists already; collect writes a new data set: name another folder with --output")
    if clash := [key for key in infos if key in RESERVED]:
        raise UserError(f"the info {clash[0]!r} cannot be asked for: it is stored already where an episode has it")
    module = registry.load("environments", environment)
    if task not in module.TASKS:
        raise UnknownName(f"tasks of {environment}", task, module.TASKS)
    if demonstrations is not None:
        _check_demonstrations(module, environment, demonstrations, policy, noise)
        policy = f"demonstrations of {demonstrations.name}"
    run = None if demonstrations else _run(policy, environment, task)
    episodes = 100 if episodes is None and demonstrations is None else episodes
    _check_seeds(seed, episodes or 1)
    values = {**(run.config.environment_options if run else {}), **(options or {})}
    defaults = parse_options(module.Defaults, values, f"options of {environment!r}")
    name, with_labels = f"{environment}/{task}", labels or policy != "random"
    env = ContractCheck(module.make(task, defaults, split=split, labels=with_labels), name, labels=labels)
    title = f"{policy} {'play' if demonstrations else 'plays'} {name}"
    with closing(env), Progress() as progress:
        bar = progress.add_task(title, total=episodes)
        metadata = {
            "description": f"{title}, {split} episodes from seed {seed}",
            "environment": environment,
            "task": task,
            "environment_options": defaults.model_dump(mode="json"),  # all, as the defaults may change
            "policy": policy,
            "split": split,
            "noise": noise,
        }
        storage = new_storage(folder, env, metadata)

        def write(episode: EpisodeBuffer, episode_metadata: dict[str, Any], frame_labels: list[Labels]) -> None:
            with not_interrupted():
                if labels:
                    with (folder / LABELS).open("a", encoding="utf-8") as file:
                        file.write(json.dumps([measured(frame, module) for frame in frame_labels]) + "\n")
                storage.update_episodes([episode])
                storage.update_episode_metadata([episode_metadata], [storage.total_episodes - 1])
            progress.advance(bar)

        never = getattr(module, "ENDING_ACTIONS", ())
        recorder = Recorder(env, write, noise, never, infos)
        omissions: Counter[str] = Counter()
        try:
            if demonstrations is not None:
                omissions = _play_demonstrations(recorder, module, demonstrations, episodes, seed)
            else:
                assert episodes is not None
                _play(recorder, module, task, run, policy, episodes, seed)
        except BaseException:
            if not storage.total_episodes:
                shutil.rmtree(folder)
            raise
    console = Console()
    if omissions:
        console.print(f"{omissions.total():,} demonstrations are left out; the most frequent reasons:")
    for reason, number in omissions.most_common(5):
        console.print(f"  {number:,}: {reason}", markup=False)
    command = embed_command(folder, environment, task, values)
    console.print(f"{storage.total_episodes:,} episodes are in {folder}; next: {command}", markup=False)
    return minari.MinariDataset(storage)


def default_folder(environment: str, task: str) -> Path:
    """Return the default folder of `collect`: data/<environment>-<task>."""
    return Path("data") / f"{environment}-{task}"


def embed_command(folder: Path, environment: str, task: str, options: Mapping[str, Any]) -> str:
    """Return the `pr2l embed` command for a data set, with a config of its task.

    Args:
        folder: The folder of the data set.
        environment: The name of the environment.
        task: The name of the task.
        options: The environment options of the recording.
    """
    configs = [name for name in registry.names("configs") if name.startswith(f"{environment}/{task}/")]
    prompted_config = f"{environment}/{task}/prompted"
    config = prompted_config if prompted_config in configs else configs[0] if configs else "CONFIG"
    path = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    words = ["pr2l", "embed", str(path), "--config", config]
    words += [f"environment_options.{key}={json.dumps(value)}" for key, value in options.items()]
    return shlex.join(words)


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
        self._seed, self._random = seed, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(NOISE,)))
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
            seed=self._seed,
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
    return [json.dumps(value, default=_to_json) for value in values]


def _to_json(value: Any) -> Any:
    """Convert NumPy arrays and numbers to lists and Python numbers, and all other objects to `str`."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _run(policy: str, environment: str, task: str) -> Run | None:
    """Load the run of a policy, None for "random" and "oracle"; UserError if the run has another task."""
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
        encoder, learner, _ = trained(run)
        torch.manual_seed(seed)
        play(VecEmbed(venv, encoder), learner_actor(learner, greedy=run.config.evaluation_greedy), episodes)
    elif policy == "oracle":
        decide = module.oracle(task)
        play(venv, _single_actor(lambda: as_element(env.action_space, decide(env), "action of the oracle")), episodes)
    else:
        env.action_space.seed(seed)
        play(venv, _single_actor(env.action_space.sample), episodes)


def _check_demonstrations(module: Any, environment: str, path: Path, policy: str, noise: float) -> None:
    if not hasattr(module, "demonstrations"):
        raise UserError(f"{environment} cannot read demonstrations: it has no function `demonstrations`")
    if noise or policy != "random":
        raise UserError("demonstrations are played as they are: leave out --noise and --policy")
    if not path.is_file():
        raise UserError(f"there is no file {path}")


def _play_demonstrations(env: Recorder, module: Any, path: Path, episodes: int | None, seed: int) -> Counter[str]:
    """Play demonstrations until `episodes` are recorded, and count the omitted demonstrations by reason."""
    omissions: Counter[str] = Counter()
    episode_count = 0
    for number, demonstration in enumerate(_read_demonstrations(module, path)):
        if episode_count == episodes:
            break
        problem = demonstration.problem or _play_demonstration(env, module, demonstration, seed + number)
        omissions.update([problem] if problem else [])
        episode_count += not problem
    if not episode_count:
        reason = f"the first one because {next(iter(omissions))}" if omissions else "it has none"
        raise UserError(f"no demonstration of {path} could be recorded: {reason}")
    return omissions


def _read_demonstrations(module: Any, path: Path) -> Iterator[Any]:
    try:
        yield from module.demonstrations(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def _play_demonstration(env: Recorder, module: Any, demonstration: Any, seed: int) -> str:
    """Play one demonstration; returns "", or the reason if the demonstration cannot be recorded."""
    env.reset(seed=seed)
    try:
        env.begin(*module.begin(env, demonstration.start))
    except (ValueError, RuntimeError) as error:  # the simulator lacks its scene, or failed
        return str(error)
    for action in demonstration.actions:
        _, _, terminated, truncated, info = env.step(action)
        if "cut" in info:
            return f"the simulator failed: {info['cut']}"
        if terminated or truncated:
            return ""
    return "its actions do not end the episode"


def _check_seeds(seed: int, episodes: int) -> None:
    if not 0 <= seed <= MAX_SEED - episodes + 1:
        raise UserError(
            f"seed={seed} with {episodes} episodes needs the seeds {seed} to {seed + episodes - 1}, and seeds are 0 to "
            f"{MAX_SEED}; give a seed of at most {MAX_SEED - episodes + 1}"
        )


def _single_actor(decide: Callable[[], Any]) -> Any:
    """Make an actor for one environment; it returns a list, because arrays cannot hold Dict or Text actions."""
    return lambda observation, starts: [decide()]


def new_storage(folder: Path, env: gym.Env[Any, Any], metadata: dict[str, Any]) -> MinariStorage:
    """Make an empty data set for the spaces of an environment.

    Args:
        folder: The folder of the data set; Minari's files are in its subfolder `data`.
        env: The environment.
        metadata: Metadata of the data set, besides the dataset id and the version of Minari.

    Raises:
        UserError: If the data set cannot hold elements of the spaces.
    """
    check_supported(env.observation_space, "observation space")
    check_supported(env.action_space, "action space")
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", env.observation_space, env.action_space, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **metadata})
    return storage


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, so that no file stays incomplete."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt
