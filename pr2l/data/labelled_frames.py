"""Frames with simulator labels, for training and evaluating VLMs and prompts.

A set is a folder with

    frames.npy      uint8 [N, H, W, 3]          labels.jsonl, scenes.jsonl   one line per frame
    episodes.npy    int [N]                     set.json                     the Source

Distances are in units of the environment's NEAR, so that frames of several simulators can be mixed. The folder's name
contains a digest of the Source, so an interrupted `pretrain` reuses the set.
"""

from __future__ import annotations

import hashlib
import json
import os
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

from pr2l.core import registry
from pr2l.core.types import Frames, Labels, Scene
from pr2l.data.questions import DISTANCES, distance

BLANK_SHARE = 0.3  # keep frames without labels less often by this factor: most of a random walk shows bare walls
KEEP_SHARE = 0.5  # probability of keeping a frame: consecutive frames are nearly the same
LONGEST_HOLD = 5  # a random action is repeated 1 to 5 times, so that the agent covers some distance

Info: TypeAlias = dict[str, Any]  # of an environment made with labels=True
Progress = Callable[[int], None]  # called with the number of frames so far


class Source(BaseModel):
    """The parameters of a set; equal sources give equal sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str  # a name of `pr2l list environments`
    tasks: tuple[str, ...]  # an equal share of the frames is of each task
    options: dict[str, Any] = Field(default_factory=dict)  # values for the environment's Defaults
    frames: PositiveInt  # over all tasks
    episode_frames: PositiveInt | None = None  # kept of one episode at most, which then ends; None = no limit
    split: str = "train"  # "train" or "evaluation", which have no rooms in common
    seed: int = 0


@dataclass(frozen=True)
class LabelledFrames:
    """Frames with the simulator's ground truth.

    Args:
        frames: uint8 [N, H, W, 3].
        labels: N lists of labels.
        names: Every name that a label can have, sorted.
        scenes: N scenes, or none.
        episodes: The number of each frame's episode, from 0 in each task; N, or none.
    """

    frames: Frames
    labels: list[Labels]
    names: tuple[str, ...]
    scenes: Sequence[Scene] = ()
    episodes: Sequence[int] = ()

    def scene(self, row: int) -> Scene:
        """The scene of a frame; {} where the simulator gives none."""
        return self.scenes[row] if self.scenes else {}

    def __len__(self) -> int:
        return len(self.labels)


def load_or_play(source: Source, folder: Path, progress: Progress = lambda count: None) -> LabelledFrames:
    """Load the set of `source` from a subfolder of `folder`; play and save it first if it is not there.

    Half of the episodes are played by the task's oracle, if it has one, and half at random.

    Args:
        source: What to play.
        folder: Of all sets.
        progress: Called after each frame that is kept.
    """
    key = hashlib.sha256(source.model_dump_json(exclude_none=True).encode()).hexdigest()[:8]
    path = folder / f"{'-'.join((source.environment, *source.tasks, source.split))}-{key}"
    if not _is_complete(path, source):
        _play(source, path, progress)
    return _read(path)


def _is_complete(path: Path, source: Source) -> bool:
    card = path / "set.json"
    files = (card, path / "scenes.jsonl", path / "episodes.npy")  # sets of earlier versions lack one or two
    if not all(file.exists() for file in files):
        return False
    return bool(json.loads(card.read_text())["source"] == source.model_dump(mode="json"))


def _read(path: Path) -> LabelledFrames:
    labels, scenes = (_read_lines(path / name) for name in ("labels.jsonl", "scenes.jsonl"))
    names = json.loads((path / "set.json").read_text())["names"]
    # Into memory, not a map: batches jump about, and on a slow disk each frame would cost a seek.
    frames, episodes = (np.load(path / name, allow_pickle=False) for name in ("frames.npy", "episodes.npy"))
    return LabelledFrames(frames, labels, tuple(names), scenes, episodes.tolist())


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _play(source: Source, path: Path, progress: Progress) -> None:
    """Play and save a set; set.json is written last and so marks a complete one."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "set.json").unlink(missing_ok=True)
    world = registry.load("environments", source.environment)
    episodes = []
    with (path / "labels.jsonl").open("w") as labels, (path / "scenes.jsonl").open("w") as scenes:
        frames = None
        for count, (frame, info) in enumerate(_frames(world, source)):
            if frames is None:
                shape = (source.frames, *frame.shape)
                frames = np.lib.format.open_memmap(path / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
            frames[count] = frame
            labels.write(json.dumps(measured(info["labels"], world)) + "\n")
            scenes.write(json.dumps(info.get("scene", {})) + "\n")
            episodes.append(info["episode"])
            progress(count + 1)
    np.save(path / "episodes.npy", episodes)
    names = sorted({name for task in source.tasks for name in world.kinds(task)})
    card = {"source": source.model_dump(mode="json"), "names": names}
    unfinished = path / "set.json.part"
    unfinished.write_text(json.dumps(card, indent=2))
    os.replace(unfinished, path / "set.json")


def _frames(world: ModuleType, source: Source) -> Iterator[tuple[Frames, Info]]:
    """The frames of a source with their infos, task by task."""
    rng = np.random.default_rng(source.seed)
    never = getattr(world, "ENDING_ACTIONS", ())
    for task, share in zip(source.tasks, _shares(source.frames, len(source.tasks)), strict=True):
        env = world.make(task, world.Defaults(**source.options), split=source.split, labels=True)
        with closing(env):
            yield from islice(play(env, _oracle(world, task), rng, never, source.episode_frames), share)


def _oracle(world: ModuleType, task: str) -> Callable[[gym.Env[Any, Any]], Any] | None:
    """The oracle of a task, or None if it has none."""
    try:
        oracle: Callable[[gym.Env[Any, Any]], Any] = world.oracle(task)
    except ValueError:
        return None
    return oracle


def measured(labels: Labels, world: ModuleType) -> Labels:
    """The labels with distances divided by NEAR of the environment's module (1 if it has none)."""
    near = getattr(world, "NEAR", 1.0)  # optional, as is ENDING_ACTIONS
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
) -> Iterator[tuple[Frames, Info]]:
    """Play oracle and random episodes in turn without end, and yield a random half of the frames with their infos.

    Args:
        env: Made with labels=True.
        oracle: Returns the next action; None = random episodes only.
        rng: Everything random is drawn from it.
        never: Actions that are not drawn at random, since they end the episode.
        most: Frames of one episode at most; None = no limit.

    Yields:
        A frame uint8 [H, W, 3] and its info, with the number of the episode, from 0, as info["episode"].
    """
    sample = _sampler(env.action_space, rng, never)
    for episode in range(1 << 30):
        observation, info = env.reset(seed=int(rng.integers(1 << 31)))
        scripted = oracle is not None and episode % 2 == 0
        over, kept, action, hold = False, 0, None, 0
        while not over and kept != most:
            if rng.random() < (KEEP_SHARE if info["labels"] else KEEP_SHARE * BLANK_SHARE):
                kept += 1
                yield observation["frame"], {**info, "episode": episode}
            if scripted and oracle is not None and rng.random() < 0.8:  # the rest: stray from the straight way
                action, hold = oracle(env), 0
            elif hold <= 0:
                action, hold = sample(), int(rng.integers(1, LONGEST_HOLD + 1))
            hold -= 1
            observation, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated


def _sampler(space: gym.Space[Any], rng: np.random.Generator, never: Sequence[int]) -> Callable[[], Any]:
    """Draws uniformly random actions of a space; of a Discrete one without those in `never`."""
    if isinstance(space, gym.spaces.Discrete):
        actions = [action for action in range(int(space.start), int(space.start + space.n)) if action not in never]
        return lambda: actions[rng.integers(len(actions))]
    space.seed(int(rng.integers(1 << 31)))
    return space.sample


def cells(labels: Sequence[Labels], names: Sequence[str], size: tuple[int, int], grid: int) -> np.ndarray:
    """What each cell of a grid over the frame shows: targets of a dense auxiliary loss.

    A cell shows an object if it contains the centre of the object's box, or the box covers at least 30 % of the cell.

    Args:
        labels: Of N frames.
        names: Of the objects.
        size: Height and width of the frames, in pixels.
        grid: Cells per side.

    Returns:
        bool [N, 2 * len(names) + 3, grid, grid], of which the channels are
            0 .. names          which names the cell shows
            names .. 2 * names  of which names it contains the centre of an object; their sum over the grid is a count
            the last three      whether the nearest object that it shows is near, middle or far
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
