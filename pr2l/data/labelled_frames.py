"""Frames with the simulator's labels: what a VLM is taught and tested on.

A set is a folder: frames.npy (uint8 [N, H, W, 3]), episodes.npy (int [N]), labels.jsonl and scenes.jsonl (a frame's a
line), set.json (what it was made from). Distances are in units of what the environment calls NEAR, so that simulators
can be mixed. A set is written once and found again by that key, so an interrupted `pretrain` does not play twice.
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

BLANK_SHARE = 0.3  # share kept of the frames that show nothing: most frames of a random walk face a bare wall
KEEP_SHARE = 0.5  # share kept of the others: neighbouring frames are nearly the same
LONGEST_HOLD = 5  # a random action is held for 1 to this many decisions, so that play gets somewhere

Info: TypeAlias = dict[str, Any]  # of an environment that was made with labels
Progress = Callable[[int], None]  # called with the number of frames gathered so far


class Source(BaseModel):
    """What a set is made from; equal sources give equal sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str  # a file of environments/
    tasks: tuple[str, ...]  # played in turn
    options: dict[str, Any] = Field(default_factory=dict)  # the environment's Defaults, where they differ
    frames: PositiveInt  # over all tasks
    episode_frames: PositiveInt | None = None  # the most that are kept of one episode, which then ends; None = all
    split: str = "train"  # "train" or "evaluation": their rooms are disjoint
    seed: int = 0


@dataclass(frozen=True)
class LabelledFrames:
    """frames: uint8 [N, H, W, 3]; labels: N lists; names: every name a label can have, sorted; scenes: N, or none.

    episodes: of each frame, N or none; they are counted from 0 in each task.
    """

    frames: Frames
    labels: list[Labels]
    names: tuple[str, ...]
    scenes: Sequence[Scene] = ()
    episodes: Sequence[int] = ()

    def scene(self, row: int) -> Scene:
        """What the simulator said about a frame as a whole; {} where it said nothing."""
        return self.scenes[row] if self.scenes else {}

    def __len__(self) -> int:
        return len(self.labels)


def load_or_play(source: Source, folder: Path, progress: Progress = lambda count: None) -> LabelledFrames:
    """The set of `source` below `folder`, played first if it is not there.

    Half of the episodes are played by the task's oracle, where it has one, and half at random.
    """
    key = hashlib.sha256(source.model_dump_json(exclude_none=True).encode()).hexdigest()[:8]
    path = folder / f"{'-'.join((source.environment, *source.tasks, source.split))}-{key}"
    if not _is_complete(path, source):
        _play(source, path, progress)
    return _read(path)


def _is_complete(path: Path, source: Source) -> bool:
    card = path / "set.json"
    parts = (card, path / "scenes.jsonl", path / "episodes.npy")  # sets of earlier versions lack one or two
    whole = all(part.exists() for part in parts)
    return whole and json.loads(card.read_text())["source"] == source.model_dump(mode="json")


def _read(path: Path) -> LabelledFrames:
    labels, scenes = (_read_lines(path / name) for name in ("labels.jsonl", "scenes.jsonl"))
    names = json.loads((path / "set.json").read_text())["names"]
    # Into memory, not a map: batches jump about, and on a slow disk each frame would cost a seek.
    frames, episodes = (np.load(path / name, allow_pickle=False) for name in ("frames.npy", "episodes.npy"))
    return LabelledFrames(frames, labels, tuple(names), scenes, episodes.tolist())


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _play(source: Source, path: Path, progress: Progress) -> None:
    """Writes set.json last, so that a set cut short is never taken for a whole one."""
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
    """As many as the source has, with infos; the tasks in turn."""
    rng = np.random.default_rng(source.seed)
    never = getattr(world, "ENDING_ACTIONS", ())
    for task, share in zip(source.tasks, _shares(source.frames, len(source.tasks)), strict=True):
        env = world.make(task, world.Defaults(**source.options), split=source.split, labels=True)
        with closing(env):
            yield from islice(play(env, _oracle(world, task), rng, never, source.episode_frames), share)


def _oracle(world: ModuleType, task: str) -> Callable[[gym.Env[Any, Any]], Any] | None:
    """None where nobody has scripted the task."""
    try:
        oracle: Callable[[gym.Env[Any, Any]], Any] = world.oracle(task)
    except ValueError:
        return None
    return oracle


def measured(labels: Labels, world: ModuleType) -> Labels:
    """The labels with distances in units of what the environment's module calls NEAR (1 where it says nothing)."""
    near = getattr(world, "NEAR", 1.0)  # as ENDING_ACTIONS, one of the things that an environment may leave out
    return [{**label, "distance": label["distance"] / near} for label in labels]


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def play(
    env: gym.Env[Any, Any],
    oracle: Callable[[gym.Env[Any, Any]], Any] | None,
    rng: np.random.Generator,
    never: Sequence[int] = (),
    most: int | None = None,
) -> Iterator[tuple[Frames, Info]]:
    """Endless thinned-out (frame [H, W, 3], info) of alternating oracle and random episodes.

    info["episode"] is the episode's number, from 0.
    never: actions that chance does not take, as they would end the episode. most: frames of one episode; None = all.
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
    """bool [N, 2 * len(names) + 3, grid, grid]: what each cell of the frame shows, for dense supervision.

        0 .. names             which names it shows
        names .. 2 * names     of which names it holds a thing's centre: a count is their sum
        the last three         whether the nearest thing that it shows is near, middle or far

    size: (height, width) of the frames in pixels. A cell shows a thing if it holds the centre of the thing's box
    or if the box covers at least 30 % of the cell.
    """
    height, width = size
    index = {name: position for position, name in enumerate(names)}
    content = np.zeros((len(labels), 2 * len(names) + len(DISTANCES), grid, grid), bool)
    shown, centred, ranges = np.split(content, [len(names), 2 * len(names)], axis=1)  # views
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
            shown[row, name] |= covered
            centred[row, name][centre] = True
            ranges[row][:, covered] = np.array([[word == distance(label)] for word in DISTANCES])
    return content
