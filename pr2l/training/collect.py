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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import minari
from minari.data_collector import EpisodeBuffer
from rich.markup import escape
from rich.progress import Progress

from pr2l.core import digest, lock, registry
from pr2l.core.config import MAX_SEED, parse_options
from pr2l.core.console import Console
from pr2l.core.disk import DiskFull
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.signals import STOP_SIGNALS, stops_once
from pr2l.core.types import Labels
from pr2l.data.labelled_frames import measured
from pr2l.data.manifest import NAME, Manifest
from pr2l.data.merge import merge, unmerge
from pr2l.data.parts import FOLDER, EpisodeWriter, count_episodes, part_files
from pr2l.data.space_arrays import check_supported
from pr2l.environments.isolation.isolated import Timeouts
from pr2l.rollout.contract import ContractCheck
from pr2l.rollout.watchdog import Watchdog
from pr2l.training.demonstrations import check_demonstrations, play_demonstrations
from pr2l.training.players import newest_checkpoint, play_episodes, run_of
from pr2l.training.recorder import Recorder

RESERVED = ("choice", "context")  # entries of `infos` that `collect` itself writes


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
        raise UserError(f"--info {clash[0]!r} is reserved: pr2l stores this entry itself; leave out the option")
    module = registry.load("environments", environment)
    if task not in module.TASKS:
        raise UnknownName(f"tasks of {environment}", task, module.TASKS)
    if demonstrations is not None:
        check_demonstrations(module, environment, demonstrations, policy, noise)
        policy = f"demonstrations of {demonstrations.name}"
    run = None if demonstrations else run_of(policy, environment, task)
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
        "checkpoint": newest_checkpoint(run),
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
                stored = [measured(frame, module) for frame in frame_labels] if labels else None
                writer.append(episode, episode_metadata, stored)
                progress.advance(bar)

            recorder = Recorder(env, write, noise, getattr(module, "ENDING_ACTIONS", ()), infos)
            present = set(writer.seeds)
            if demonstrations is not None:
                omissions.update(play_demonstrations(recorder, module, demonstrations, episodes, seed, present))
            else:
                seeds = [number for number in range(seed, seed + (episodes or 0)) if number not in present]
                play_episodes(recorder, module, task, run, policy, seeds)

    watchdog = Watchdog([env.calls], Timeouts())
    with stops_once(*STOP_SIGNALS), closing(env), closing(watchdog), lock.locked(folder):
        recorded = _complete(folder, manifest, env, metadata, record)
    missing = 0 if demonstrations is not None or episodes is None else episodes - recorded
    _print_omissions(omissions, missing)
    command = embed_command(folder, environment, task, values)
    Console().print(f"{recorded:,} episodes are in {folder}; next: {command}", markup=False)
    return minari.MinariDataset(folder / "data")


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


def _existing(folder: Path, manifest: Manifest) -> Manifest | None:
    """Read the manifest of a data set, None if there is none; UserError if `manifest` cannot continue the data set."""
    existing = Manifest.read(folder)
    if existing is None:
        return None
    existing.check_settings(manifest.settings, folder)
    recorded = existing.recorded if existing.is_complete else count_episodes(folder)
    if manifest.wanted is not None and recorded > manifest.wanted:
        raise UserError(
            f"{folder} has {recorded:,} episodes already, more than {manifest.wanted:,}; name another folder with "
            f"--output, or ask for {recorded:,} episodes or more"
        )
    if not existing.is_complete and not recorded and (folder / "data").exists():
        raise UserError(
            f"{folder} is incomplete and has no episodes in {FOLDER}, so an earlier version has recorded those in "
            "data; delete the folder and collect it again, or name another folder with --output"
        )
    return existing


def _complete(
    folder: Path,
    manifest: Manifest,
    env: gym.Env[Any, Any],
    metadata: dict[str, Any],
    record: Callable[[EpisodeWriter], None],
) -> int:
    """Record the missing episodes of a data set, and make its files; returns the number of episodes."""
    for space, name in ((env.observation_space, "observation space"), (env.action_space, "action space")):
        check_supported(space, name)
    existing, command = _existing(folder, manifest), manifest.command(folder)
    if existing is not None and existing.is_complete:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # if a process was killed after the merge
        if existing.wanted == manifest.wanted:
            return existing.recorded
        existing.check_files(folder, {})
        unmerge(folder, existing.recorded, command)
    try:
        manifest.write(folder)  # incomplete from now on
        writer = EpisodeWriter(folder, command)
        with _kept(writer, command):
            record(writer)
            writer.commit()
            merge(folder, env, metadata, command)
        manifest.completed(folder, len(writer.seeds)).write(folder)
    except BaseException:
        if not (folder / "data").exists() and not part_files(folder):
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    return len(writer.seeds)


@contextmanager
def _kept(writer: EpisodeWriter, command: str) -> Iterator[None]:
    """Keep the finished episodes if an error or a signal ends the block, and print the command that continues."""
    try:
        yield
    except BaseException as error:
        writer.commit()
        if writer.seeds and not isinstance(error, DiskFull):  # which says it itself
            Console().print(f"{len(writer.seeds):,} episodes are kept; to continue:\n{command}", markup=False)
        raise


def _print_omissions(omissions: Counter[str], missing: int) -> None:
    """Print which demonstrations, and how many episodes, are left out."""
    console = Console()
    if omissions:
        console.print(f"{omissions.total():,} demonstrations are left out; the most frequent reasons:")
    for reason, number in omissions.most_common(5):
        console.print(f"  {number:,}: {reason}", markup=False)
    if missing:
        console.print(f"{missing:,} episodes are left out, because the simulator failed in them twice")


def default_folder(environment: str, task: str) -> Path:
    """Return the default folder of `collect`: data/<environment>-<task>.

    Args:
        environment: Name of the environment.
        task: Name of the task.
    """
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


def _check_seeds(seed: int, episodes: int) -> None:
    if not 0 <= seed <= MAX_SEED - episodes + 1:
        raise UserError(
            f"seed={seed} with {episodes} episodes needs the seeds {seed} to {seed + episodes - 1}, and seeds are 0 to "
            f"{MAX_SEED}; give a seed of at most {MAX_SEED - episodes + 1}"
        )
