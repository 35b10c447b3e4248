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
import h5py
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer
from rich.markup import escape
from rich.progress import Progress
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core import digest, lock, registry
from pr2l.core.config import MAX_SEED, parse_options
from pr2l.core.console import Console
from pr2l.core.disk import DiskFull
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.types import Labels
from pr2l.data.episode_writer import EpisodeWriter, new_storage
from pr2l.data.labelled_frames import measured
from pr2l.data.manifest import NAME, Manifest
from pr2l.data.recording import FILE
from pr2l.data.space_arrays import stack
from pr2l.rollout.contract import ContractCheck
from pr2l.rollout.elements import as_element
from pr2l.rollout.episodes import NOISE, POLICY, SeededEpisodes
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training import checkpoints
from pr2l.training.evaluate import Actor, learner_actor, play, trained
from pr2l.training.runs import Run

Observation: TypeAlias = dict[str, np.ndarray]
Write: TypeAlias = Callable[[EpisodeBuffer, dict[str, Any], list[Labels]], None]

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
    """Record episodes of a task with the seeds seed, seed + 1, ..., or the remaining episodes if the folder has some.

    Frames are lossless. Ctrl-C keeps the complete episodes, and a killed process those until a second before; the same
    call records the others. The actions of a policy in an episode depend on the seed of the episode only, so a data set
    does not depend on interruptions. A larger number of episodes extends a complete data set. The metadata of an
    episode are `context` (at its start), `success`, `return` and `seed`. The metadata of the data set are
    `environment`, `task`, `environment_options`, `policy`, `split` and `noise`. An episode whose context changes, or
    whose context is long, also has `infos["context"]`: n + 1 JSON texts.

    Args:
        environment: A name from `pr2l list environments`.
        task: A key of the environment's TASKS.
        folder: The folder to make or to continue. None = data/<environment>-<task>.
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
        UserError: If the folder exists and is no data set of the same settings, another process writes to it, a name or
            an option is wrong, or an observation or action is not in its space.
        DiskFull: If the disk has too little space.
    """
    folder = (folder or default_folder(environment, task)).resolve()  # minari joins relative paths twice
    _check_folder(folder)
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
    settings = {
        "environment": environment,
        "task": task,
        "environment_options": defaults.model_dump(mode="json"),  # all, as the defaults may change
        "given_options": values,
        "policy": policy,
        "checkpoint": _checkpoint(run),
        "demonstrations": None if demonstrations is None else str(demonstrations.resolve()),
        "demonstrations_sha256": None if demonstrations is None else digest.of_file(demonstrations),
        "split": split,
        "seed": seed,
        "noise": noise,
        "labels": labels,
        "infos": list(infos),
    }
    settings = json.loads(json.dumps(settings))  # as they are read from the manifest: lists in place of tuples
    title = f"{policy} {'play' if demonstrations else 'plays'} {name}"
    metadata = {
        "description": f"{title}, {split} episodes from seed {seed}",
        **{key: settings[key] for key in ("environment", "task", "environment_options", "policy", "split", "noise")},
    }
    env = ContractCheck(module.make(task, defaults, split=split, labels=with_labels), name, labels=labels)
    manifest, omissions = Manifest(settings, episodes), Counter[str]()

    def record(writer: EpisodeWriter) -> None:
        with Progress() as progress:
            bar = progress.add_task(escape(title), total=episodes, completed=len(writer.seeds))

            def write(episode: EpisodeBuffer, episode_metadata: dict[str, Any], frame_labels: list[Labels]) -> None:
                with not_interrupted():
                    stored = [measured(frame, module) for frame in frame_labels] if labels else None
                    writer.append(episode, episode_metadata, stored)
                progress.advance(bar)

            recorder = Recorder(env, write, noise, getattr(module, "ENDING_ACTIONS", ()), infos)
            if demonstrations is not None:
                present = set(writer.seeds)
                omissions.update(_play_demonstrations(recorder, module, demonstrations, episodes, seed, present))
            else:
                _play(recorder, module, task, run, policy, _missing(manifest, writer), seed)

    with closing(env), lock.locked(folder):
        existing = _existing(folder, settings)
        try:
            writer = _open(folder, env, metadata, manifest, existing)
            if existing is None or not existing.is_complete or existing.wanted != episodes:
                _complete(folder, manifest, writer, record)
        except BaseException:
            if _is_empty(folder):
                shutil.rmtree(folder)
            raise
    console = Console()
    if omissions:
        console.print(f"{omissions.total():,} demonstrations are left out; the most frequent reasons:")
    for reason, number in omissions.most_common(5):
        console.print(f"  {number:,}: {reason}", markup=False)
    if missing := demonstrations is None and _missing(manifest, writer):
        console.print(f"{len(missing):,} episodes are left out, because the simulator failed in them twice")
    command = embed_command(folder, environment, task, values)
    console.print(f"{len(writer.seeds):,} episodes are in {folder}; next: {command}", markup=False)
    return minari.MinariDataset(writer.storage)


def _check_folder(folder: Path) -> None:
    """Raise UserError if a folder has files, but is no data set that `collect` can continue."""
    if not folder.exists() or (folder / NAME).is_file():
        return
    of_a_killed_process = (lock.NAME, f".partial-{NAME}")
    if not folder.is_dir() or any(path.name not in of_a_killed_process for path in folder.iterdir()):
        raise UserError(
            f"{folder} exists already, without the file {NAME} of a data set that can be continued; name another "
            "folder with --output"
        )


def _existing(folder: Path, settings: Mapping[str, Any]) -> Manifest | None:
    """Read the manifest of a data set, None if there is none; UserError if its settings differ."""
    existing = Manifest.read(folder)
    if existing is not None:
        existing.check_settings(settings, folder)
    return existing


def _open(
    folder: Path, env: gym.Env[Any, Any], metadata: dict[str, Any], manifest: Manifest, existing: Manifest | None
) -> EpisodeWriter:
    """Open a data set to append episodes, and make its files if it has none; UserError if it has too many episodes."""
    if existing is None:
        manifest.write(folder)
    elif existing.wanted != manifest.wanted:
        existing.check_files(folder, {})  # before a longer data set gets new digests
    new_storage(folder, env, metadata)
    writer = EpisodeWriter(folder, manifest.command(folder))
    recorded = len(writer.seeds)
    if manifest.wanted is not None and recorded > manifest.wanted:
        raise UserError(
            f"{folder} has {recorded:,} episodes already, more than {manifest.wanted:,}; name another folder with "
            f"--output, or ask for {recorded:,} episodes or more"
        )
    return writer


def _complete(folder: Path, manifest: Manifest, writer: EpisodeWriter, record: Callable[[EpisodeWriter], None]) -> None:
    """Record the missing episodes, and write the manifest of the complete data set."""
    manifest.write(folder)  # incomplete from now on
    try:
        record(writer)
    except BaseException as error:
        with not_interrupted():
            writer.commit()
        if writer.seeds and not isinstance(error, DiskFull):  # which says it itself
            kept = f"{len(writer.seeds):,} episodes are kept; to continue:"
            Console().print(f"{kept}\n{manifest.command(folder)}", markup=False)
        raise
    writer.commit()
    manifest.completed(folder, len(writer.seeds)).write(folder)


def _missing(manifest: Manifest, writer: EpisodeWriter) -> list[int]:
    """Return the numbers of the wanted episodes that are not recorded."""
    present, seed = set(writer.seeds), manifest.settings["seed"]
    return [number for number in range(manifest.wanted or 0) if seed + number not in present]


def _is_empty(folder: Path) -> bool:
    """Return whether a data set has no episode on the disk."""
    path = folder / "data" / FILE
    if not path.is_file():
        return True
    try:
        with h5py.File(path) as file:
            return len(file) == 0
    except OSError:  # it is damaged
        return False


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


def _checkpoint(run: Run | None) -> int | None:
    """Return the step of a run's newest checkpoint."""
    return None if run is None else max(checkpoints.steps(run.checkpoints), default=None)


def _play(
    env: Recorder, module: Any, task: str, run: Run | None, policy: str, numbers: Sequence[int], seed: int
) -> None:
    """Play the episodes of these numbers, with a run, the oracle or random actions."""
    if not numbers:
        return
    seeds = [seed + number for number in (*numbers, numbers[0])]  # the last one begins, but is not played
    venv = DummyVecEnv([lambda: SeededEpisodes(env, lambda episode: seeds[min(episode, len(numbers))])])
    if run is not None:
        encoder, learner, _ = trained(run)
        act = learner_actor(learner, greedy=run.config.evaluation_greedy)
        play(VecEmbed(venv, encoder), _seeded(env, act, torch.manual_seed), len(numbers))
    elif policy == "oracle":
        decide = module.oracle(task)
        act = _single_actor(lambda: as_element(env.action_space, decide(env), "action of the oracle"))
        play(venv, act, len(numbers))
    else:
        play(venv, _seeded(env, _single_actor(env.action_space.sample), env.action_space.seed), len(numbers))


def _seeded(env: Recorder, act: Actor, set_seed: Callable[[int], Any]) -> Actor:
    """Return an actor whose random actions in an episode depend on nothing but the seed of the episode."""

    def seeded(observation: Any, starts: np.ndarray) -> np.ndarray:
        if starts[0]:
            # Not the seed itself, which the environment has: its random numbers would be those of the actions.
            sequence = np.random.SeedSequence(env.episode_seed, spawn_key=(POLICY,))
            set_seed(int(sequence.generate_state(1)[0]))
        return act(observation, starts)

    return seeded


def _check_demonstrations(module: Any, environment: str, path: Path, policy: str, noise: float) -> None:
    if not hasattr(module, "demonstrations"):
        raise UserError(f"{environment} cannot read demonstrations: it has no function `demonstrations`")
    if noise or policy != "random":
        raise UserError("demonstrations are played as they are: leave out --noise and --policy")
    if not path.is_file():
        raise UserError(f"there is no file {path}")


def _play_demonstrations(
    env: Recorder, module: Any, path: Path, episodes: int | None, seed: int, present: Collection[int]
) -> Counter[str]:
    """Play demonstrations until `episodes` are recorded, and count the omitted demonstrations by reason.

    Demonstrations whose seeds are in `present` are recorded already.
    """
    omissions: Counter[str] = Counter()
    episode_count = 0
    for number, demonstration in enumerate(_read_demonstrations(module, path)):
        if episode_count == episodes:
            break
        problem = ""
        if seed + number not in present:
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
