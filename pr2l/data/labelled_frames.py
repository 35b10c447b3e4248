"""Frames with simulator labels, for training and evaluating VLMs and prompts.

A set of labelled frames is a folder with

    frames.npy      uint8 [N, H, W, 3]          labels.jsonl, scenes.jsonl   one line per frame
    episodes.npy    int [N]                     set.json                     the Source, digests of files

Distances are in units of the environment's NEAR, so that frames of several simulators can be mixed. The folder's name
contains a digest of the Source, so an interrupted `pretrain` uses the same set again. If the name ends with -lastK,
frames.npy is [N, K, H, W, 3]: each frame after the K - 1 frames before it (core/frame_history.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pr2l.core import digest, registry
from pr2l.core.config import Seed, parse_options
from pr2l.core.disk import full_disk_explained, reserve
from pr2l.core.errors import UserError
from pr2l.core.frame_history import FrameHistory
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.core.lock import locked
from pr2l.core.types import Frames, Labels, Scene
from pr2l.data.questions import DISTANCES, distance
from pr2l.environments.isolation.isolated import Timeouts
from pr2l.rollout.contract import ContractCheck
from pr2l.rollout.watchdog import Watchdog

FILES = ("frames.npy", "labels.jsonl", "scenes.jsonl", "episodes.npy")
BLANK_SHARE = 0.3  # keep frames without labels less often by this factor: most of a random walk shows bare walls
KEEP_SHARE = 0.5  # probability of keeping a frame: consecutive frames are nearly the same
LONGEST_HOLD = 5  # a random action is repeated 1 to 5 times, so that the agent covers some distance

Info: TypeAlias = dict[str, Any]  # the info of an environment made with labels=True
Progress = Callable[[int], None]  # called with the number of frames so far


class Source(BaseModel):
    """Parameters of a set of labelled frames; equal sources give equal sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str  # a name of `pr2l list environments`
    tasks: tuple[str, ...] = Field(min_length=1)  # each task has an equal number of frames
    options: dict[str, Any] = Field(default_factory=dict)  # values for the environment's Defaults
    frames: PositiveInt  # total over all tasks
    episode_frames: PositiveInt | None = None  # most frames of an episode, which then ends; None = no limit
    split: str = "train"  # "train" or "evaluation"; the two have no rooms in common
    seed: Seed = 0


@dataclass(frozen=True)
class LabelledFrames:
    """Frames with the simulator's ground truth.

    Args:
        frames: uint8 [N, H, W, 3]; [N, K, H, W, 3], the oldest frame first, with a history of K frames.
        labels: The labels of each frame, N lists; with a history, of the last frame.
        names: All object names that can occur in labels, sorted.
        scenes: The scene of each frame, N; empty if the scenes are not known.
        episodes: The episode number of each frame, N, from 0 in each task; empty if the episodes are not known.
    """

    frames: Frames
    labels: list[Labels]
    names: tuple[str, ...]
    scenes: Sequence[Scene] = ()
    episodes: Sequence[int] = ()

    def scene(self, row: int) -> Scene:
        """Return the scene of a frame, {} if the simulator gives none.

        Args:
            row: Index of the frame, from 0.
        """
        return self.scenes[row] if self.scenes else {}

    def __len__(self) -> int:
        return len(self.labels)


def load_or_play(
    source: Source, folder: Path, progress: Progress = lambda count: None, frame_history: int = 1
) -> LabelledFrames:
    """Load a set of labelled frames, and play episodes to make it if it does not exist.

    If the task has an oracle, the oracle and random actions play every other episode; otherwise all are random.

    Args:
        source: The parameters of the set.
        folder: The folder of all sets; each set is a subfolder.
        progress: Function that is called with the number of frames so far, after each stored frame.
        frame_history: K, the number of frames per row: a frame and the K - 1 frames before it in its episode. The set
            is otherwise the same for every K.

    Raises:
        UserError: If the environment, a task or an option is unknown.
        DamagedFile: If a file of the set differs from what was written.
        DiskFull: If the disk has too little space.
    """
    key = hashlib.sha256(source.model_dump_json(exclude_none=True).encode()).hexdigest()[:8]
    history = f"-last{frame_history}" if frame_history > 1 else ""
    path = folder / f"{'-'.join((source.environment, *source.tasks, source.split))}-{key}{history}"
    if not _is_complete(path, source):
        with locked(path, wait=True):
            if not _is_complete(path, source):  # another process has not played it in the meantime
                _play(source, path, progress, frame_history)
    return _read(path)


def _is_complete(path: Path, source: Source) -> bool:
    card = path / "set.json"
    files = (card, path / "scenes.jsonl", path / "episodes.npy")  # sets of earlier versions lack one or two
    if not all(file.exists() for file in files):
        return False
    return bool(_read_card(path)["source"] == source.model_dump(mode="json"))


def _read_card(path: Path) -> dict[str, Any]:
    return read_json(path / "set.json", _again(path))


def _again(path: Path) -> str:
    return f"Delete {path}; the same command plays its episodes again."


def _check_files(path: Path) -> None:
    """Raise DamagedFile if a file does not have its digest; sets of earlier versions have no digests."""
    for name, written in _read_card(path).get("files", {}).items():
        if not (path / name).is_file():
            raise DamagedFile(path / name, "it is missing", _again(path))
        if digest.of_file(path / name) != written:
            raise DamagedFile(path / name, "its content differs from what was written", _again(path))


def _read(path: Path) -> LabelledFrames:
    _check_files(path)
    labels, scenes = (_read_lines(path / name) for name in ("labels.jsonl", "scenes.jsonl"))
    names = _read_card(path)["names"]
    # Read into memory, not as a memory map: batches draw random frames, and each would need a seek on a slow disk.
    frames, episodes = (np.load(path / name, allow_pickle=False) for name in ("frames.npy", "episodes.npy"))
    return LabelledFrames(frames, labels, tuple(names), scenes, episodes.tolist())


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _play(source: Source, path: Path, progress: Progress, frame_history: int) -> None:
    """Play and save a set; set.json is written last, so its presence marks a complete set."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "set.json").unlink(missing_ok=True)
    world = registry.load("environments", source.environment)
    episodes = []
    with (path / "labels.jsonl").open("w") as labels, (path / "scenes.jsonl").open("w") as scenes:
        frames = None
        for count, (frame, info) in enumerate(_frames(world, source, frame_history)):
            if frames is None:
                frames = _new_frames(path / "frames.npy", (source.frames, *frame.shape))
            frames[count] = frame
            labels.write(json.dumps(measured(info["labels"], world)) + "\n")
            scenes.write(json.dumps(info.get("scene", {})) + "\n")
            episodes.append(info["episode"])
            progress(count + 1)
    np.save(path / "episodes.npy", episodes)
    if frames is not None:
        frames.flush()
    names = sorted({name for task in source.tasks for name in world.kinds(task)})
    files = {name: digest.of_file(path / name) for name in FILES}
    write_json(path / "set.json", {"source": source.model_dump(mode="json"), "names": names, "files": files})


def _new_frames(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make the memory map of the frames, with reserved space; DiskFull if the disk has too little."""
    next_step = "free some space, or take fewer frames"
    try:
        with full_disk_explained(path.parent, f"{shape[0]:,} labelled frames", math.prod(shape), next_step):
            frames = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            reserve(path, frames.offset + frames.nbytes)
    except UserError:
        path.unlink(missing_ok=True)
        raise
    return frames


def _frames(world: ModuleType, source: Source, frame_history: int) -> Iterator[tuple[Frames, Info]]:
    """Yield the frames of a source with their infos, task by task."""
    rng = np.random.default_rng(source.seed)
    never = getattr(world, "ENDING_ACTIONS", ())
    options = parse_options(world.Defaults, source.options, f"options of {source.environment!r}")
    for task, share in zip(source.tasks, _shares(source.frames, len(source.tasks)), strict=True):
        simulator = world.make(task, options, split=source.split, labels=True)
        env = ContractCheck(simulator, f"{source.environment}/{task}", labels=True)
        with closing(env), closing(Watchdog([env.calls], Timeouts())):
            frames = play(env, _oracle(world, task), rng, never, source.episode_frames, frame_history)
            yield from islice(frames, share)


def _oracle(world: ModuleType, task: str) -> Callable[[gym.Env[Any, Any]], Any] | None:
    """Return the oracle of a task, None if it has none."""
    try:
        oracle: Callable[[gym.Env[Any, Any]], Any] = world.oracle(task)
    except ValueError:
        return None
    return oracle


def measured(labels: Labels, world: ModuleType) -> Labels:
    """Return labels with their distances in units of the environment's NEAR.

    Args:
        labels: The labels of a frame, with the simulator's distances.
        world: The environment's module; NEAR = 1 if the module does not define it.
    """
    near = getattr(world, "NEAR", 1.0)  # optional, like ENDING_ACTIONS
    return [{**label, "distance": label["distance"] / near} for label in labels]


def _shares(total: int, count: int) -> list[int]:
    """Split a total into `count` nearly equal integers."""
    return [total // count + (index < total % count) for index in range(count)]


def play(
    env: gym.Env[Any, Any],
    oracle: Callable[[gym.Env[Any, Any]], Any] | None,
    rng: np.random.Generator,
    never: Sequence[int] = (),
    most: int | None = None,
    frame_history: int = 1,
) -> Iterator[tuple[Frames, Info]]:
    """Play oracle and random episodes in turn without end, and yield some of the frames with their infos.

    A frame with labels is kept with probability KEEP_SHARE, a frame without labels with KEEP_SHARE * BLANK_SHARE.

    Args:
        env: An environment made with labels=True.
        oracle: Function from the environment to the next action; None = random episodes only.
        rng: Generator for the seeds, the random actions and the choice of frames.
        never: Actions of a Discrete space that are not drawn at random, such as actions that end the episode.
        most: Maximum number of frames of an episode, which then ends; None = no limit.
        frame_history: K, number of frames to yield together; the choice of frames does not depend on it.

    Yields:
        A frame, uint8 [H, W, 3], or with K > 1 the last K frames, uint8 [K, H, W, 3]; and the frame's info, in which
        info["episode"] is the number of the episode, from 0.
    """
    sample, history = _sampler(env.action_space, rng, never), FrameHistory(frame_history)
    for episode in range(1 << 30):
        observation, info = env.reset(seed=int(rng.integers(1 << 31)))
        history.clear()
        frames = history.add(observation["frame"])
        scripted = oracle is not None and episode % 2 == 0
        over, count, action, hold = False, 0, None, 0
        while not over and count != most:
            if rng.random() < (KEEP_SHARE if info["labels"] else KEEP_SHARE * BLANK_SHARE):
                count += 1
                yield frames, {**info, "episode": episode}
            if scripted and oracle is not None and rng.random() < 0.8:  # otherwise leave the oracle's path
                action, hold = oracle(env), 0
            elif hold <= 0:
                action, hold = sample(), int(rng.integers(1, LONGEST_HOLD + 1))
            hold -= 1
            observation, _, terminated, truncated, info = env.step(action)
            frames = history.add(observation["frame"])
            over = terminated or truncated


def _sampler(space: gym.Space[Any], rng: np.random.Generator, never: Sequence[int]) -> Callable[[], Any]:
    """Return a function that draws random actions of a space; a Discrete space loses the actions in `never`."""
    if isinstance(space, gym.spaces.Discrete):
        actions = [action for action in range(int(space.start), int(space.start + space.n)) if action not in never]
        return lambda: actions[rng.integers(len(actions))]
    space.seed(int(rng.integers(1 << 31)))
    return space.sample


def cells(labels: Sequence[Labels], names: Sequence[str], size: tuple[int, int], grid: int) -> np.ndarray:
    """Return the objects in each cell of a grid over the frame, the targets of a dense auxiliary loss.

    A cell shows an object if it contains the centre of the object's bounding box, or if the bounding box covers at
    least 30 % of the cell.

    Args:
        labels: The labels of N frames.
        names: The K object names, in the order of the channels.
        size: Height and width of the frames, in pixels.
        grid: Number of cells per side.

    Returns:
        bool [N, 2 * K + 3, grid, grid] with the channels
            0 .. K - 1       the cell shows an object of this name
            K .. 2 * K - 1   the cell contains the centre of an object of this name
            the last three   the nearest object that the cell shows is near, middle or far
    """
    height, width = size
    index = {name: position for position, name in enumerate(names)}
    content = np.zeros((len(labels), 2 * len(names) + len(DISTANCES), grid, grid), bool)
    visible, centred, ranges = np.split(content, [len(names), 2 * len(names)], axis=1)  # views
    edges = np.arange(grid)
    cell_h, cell_w = height / grid, width / grid
    for row, frame_labels in enumerate(labels):
        for label in sorted(frame_labels, key=lambda label: -label["distance"]):
            x0, y0, x1, y1 = label["box"]
            across = np.minimum(x1, (edges + 1) * cell_w) - np.maximum(x0, edges * cell_w)
            down = np.minimum(y1, (edges + 1) * cell_h) - np.maximum(y0, edges * cell_h)
            covered = np.outer(down.clip(0), across.clip(0)) >= 0.3 * cell_h * cell_w
            centre = int(min((y0 + y1) / 2 / cell_h, grid - 1)), int(min((x0 + x1) / 2 / cell_w, grid - 1))
            covered[centre] = True
            name = index[label["name"]]
            visible[row, name] |= covered
            centred[row, name][centre] = True
            ranges[row][:, covered] = np.array([[word == distance(label)] for word in DISTANCES])
    return content
