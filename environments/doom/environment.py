"""ViZDoom, the default environment: first-person 3-D on any CPU, with exact labels as ground truth.

There are two kinds of tasks. Scenarios are ViZDoom's own maps. Generated rooms (`fetch`, `hunt`) contain objects of
several kinds, and the context names the target kind; training and evaluation use different rooms. The seed and the
actions determine every pixel of an episode.

An action is the index of a row of `Task.actions`. Its buttons are held for `frame_skip` game tics of 1/35 s, which is
one decision. Observation: `frame` uint8 [H, W, 3] RGB; `proprio` float32 [P] in 0..1: health, ammunition, the fraction
of the horizon that has passed, then the previous action and the target as one-hot vectors (see Defaults).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .. import base
from ..base import UserError
from . import oracles
from .engine import SCENARIOS, Engine, Settings, temporary_folder
from .maps import MapObject, Room, map_name, random_room, wad_of
from .rewards import REACH, Step
from .tasks import TASKS, WORDS, Task

# In generated rooms a monster dies after one or two shots, does little damage, and never hits another monster.
RULES = """
clearskills
skill room { SpawnFilter = Normal  MonsterHealth = 0.02  DamageFactor = 0.25  NoInfighting }
"""

SPLITS = ("train", "evaluation")
NEAR = 160.0  # map units: a labelled object is near below this distance and far from twice this distance on


class Defaults(BaseModel):
    """Options of the Doom environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # width x height in pixels; all sizes show the same view
    frame_size: Literal["160x120", "200x150", "320x240", "400x300", "640x480"] = "160x120"
    frame_skip: int = Field(default=4, ge=1)  # game tics per decision; 4 as in published ViZDoom agents
    rooms: int = Field(default=1000, ge=1, le=9999)  # rooms per split; too many for a policy to memorise
    things: int = Field(default=4, ge=2, le=5)  # objects in a generated room, one of them the target
    repeats: bool = False  # a room can have several objects of one type; each object of the target's type counts
    target_in_proprio: bool = True  # add the target as one-hot, so that methods without a prompt get it too
    previous_action_in_proprio: bool = True  # one-hot; lets a policy without memory keep turning the same way
    approach_reward: float = 0.0  # fetch only: reward per 100 map units of approach to the target; 0 = none


def kinds(task: str) -> tuple[str, ...]:
    """Return the object names that can occur in `info["labels"]` of a task.

    Args:
        task: A key of TASKS.

    Raises:
        UserError: There is no such task.
    """
    return tuple(WORDS[actor] for actor in _task(task).actors)


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> DoomEnv:
    """Make the environment of a task; the engine starts at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The split of the generated rooms and the seeds.
        labels: Whether to add `labels` and `segmentation`, the simulator's ground truth, to `info`; this is slower.

    Raises:
        UserError: If the task or the split is unknown, or the task cannot use an option.
    """
    row, options = _task(task), options or Defaults()
    if options.approach_reward and task != "fetch":
        raise UserError(f"approach_reward is an option of the task 'fetch' only; use approach_reward=0 for {task!r}")
    return DoomEnv(row, options, split=split, labels=labels)


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], int]:
    """Return the scripted solution of a task.

    Args:
        task: A key of TASKS.

    Returns:
        A function from an environment made with labels=True to the next action.
    """
    row = _task(task)
    decide = oracles.ORACLES[task]

    def act(env: gym.Env[Any, Any]) -> int:
        doom = env.unwrapped
        if not isinstance(doom, DoomEnv):
            raise UserError(f"the oracle needs Doom in this process, not {doom}; use call('oracle_action')")
        return row.actions.index((decide(doom.scene()),))

    return act


def _task(name: str) -> Task:
    return base.row(TASKS, name, "doom")


Observation: TypeAlias = dict[str, Any]


class DoomEnv(gym.Env[Observation, np.int64]):
    """Gymnasium environment of one Doom task.

    `info` at reset and at every step:
        context: dict, the target.
        success: bool, whether the task's success rule holds.
        seed: int that determines the episode; `reset()` without a seed draws the next one from it.
        labels: Only with labels=True: list of {"name", "box": (x0, y0, x1, y1) around the visible pixels, ends
            exclusive, "distance": in map units}.
        segmentation: Only with labels=True: uint8 [H, W], per pixel 1 + the index of its object in `labels`, or 0.

    Args:
        task: The row of TASKS.
        options: The options of the environment.
        split: "train" or "evaluation".
        labels: Whether to add the simulator's ground truth to `info`.

    Raises:
        UserError: If the split is unknown.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}
    render_mode = "rgb_array"

    def __init__(self, task: Task, options: Defaults, *, split: str, labels: bool) -> None:
        if split not in SPLITS:
            raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
        self.task, self.options, self._split, self._labels = task, options, SPLITS.index(split), labels
        self._engine: Engine | None = None
        self._rooms: tuple[Room, ...] = ()
        self._buttons = tuple(dict.fromkeys(button for action in task.actions for button in action))
        self._pressed = [[button in action for button in self._buttons] for action in task.actions]
        targets = [context["target"] for context in task.contexts]
        self._proprio_targets = targets if options.target_in_proprio and len(targets) > 1 else []
        actions = len(task.actions) if options.previous_action_in_proprio else 0
        width, height = (int(side) for side in options.frame_size.split("x"))
        self.action_space = gym.spaces.Discrete(len(task.actions))
        self.observation_space = gym.spaces.Dict(
            frame=gym.spaces.Box(0, 255, (height, width, 3), np.uint8),
            proprio=gym.spaces.Box(0.0, 1.0, (3 + actions + len(self._proprio_targets),), np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: The seed of the episode, 0 or more; None = draw one from the generator of the previous seed.
            options: Not used.
        """
        self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=self._seed)
        self._engine = self._engine or self._start()
        rng = np.random.default_rng([self._split, self._seed])
        engine_seed = int(rng.integers(2**32))
        index = int(rng.integers(len(self._rooms))) if self._rooms else 0
        self._objects = self._rooms[index].objects if self._rooms else ()
        targets = [WORDS[map_object.name] for map_object in self._objects] or [self.task.contexts[0]["target"]]
        self._target = targets[rng.integers(len(targets))]
        self._engine.restart(engine_seed, map_name(index))
        self._decisions, self._action, self._points = 0, -1, 0.0
        self._corpses: dict[int, str] = {}  # object id -> kind of the defeated monsters, in order
        self._distance = self._distance_to(self._target)
        return self._observation(), self._info(success=False)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        engine = self._running()
        self._action = int(action)
        self._decisions += 1
        outcome = self._measure(engine.advance(self._pressed[self._action], self.options.frame_skip))
        reward = sum(term(outcome) for term in self.task.rewards)
        reward += self.options.approach_reward * outcome.nearer / 100
        terminated = engine.finished or self.task.ends(outcome)
        info = self._info(success=self.task.succeeded(outcome))
        return self._observation(), float(reward), terminated, outcome.last and not terminated, info

    def render(self) -> NDArray[np.uint8]:
        """Return the current frame, uint8 [H, W, 3]."""
        return self._running().frame

    def close(self) -> None:
        """End the engine process; a later reset starts a new one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def scene(self) -> oracles.Scene:
        """Return the whole map, visible or not, for oracles.

        Raises:
            UserError: If the environment was not made with labels=True.
        """
        if not self._labels:
            raise UserError("the scene needs labels; make the environment with labels=True")
        engine = self._running()
        actors = [
            oracles.Actor(WORDS[o.name], o.position_x, o.position_y, o.velocity_x, o.velocity_y)
            for o in engine.objects
            if o.name in self.task.actors
        ]
        lines = [line for sector in engine.sectors for line in sector.lines if line.is_blocking]
        walls = tuple((line.x1, line.y1, line.x2, line.y2) for line in lines)
        return oracles.Scene(engine.pose, self._target, actors, walls)

    def _start(self) -> Engine:
        folder = temporary_folder()
        wad = SCENARIOS / self.task.wad
        if not self.task.wad:
            options = self.options
            layout = self.task.actors, self.task.apart, options.things, options.repeats
            self._rooms, data = _rooms(self._split, options.rooms, *layout)
            wad = folder / "rooms.wad"
            wad.write_bytes(data)
        return Engine(
            Settings(
                wad,
                self._buttons,
                self.options.frame_size,
                skill=self.task.skill,
                first_tic=self.task.first_tic,
                weapon=self.task.weapon,
                labels=self._labels,
            ),
            folder,
        )

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("no episode is running; call reset() first")
        return self._engine

    def _measure(self, points: float) -> Step:
        """Return the outcome of the last decision, for which the map's script has awarded `points`."""
        engine = self._running()
        distance, corpses = self._distance_to(self._target), self._new_corpses()
        outcome = Step(
            target=self._target,
            tics=self.options.frame_skip,
            points=points,
            total_points=self._points + points,
            died=engine.dead,
            exited=engine.finished and not engine.dead,
            last=self._decisions >= self.task.horizon,
            reached=self._reached(),
            defeated=tuple(corpses.values()),
            all_defeated=(*self._corpses.values(), *corpses.values()),
            nearer=self._distance - distance,
        )
        self._distance, self._points = distance, outcome.total_points
        self._corpses |= corpses
        return outcome

    def _new_corpses(self) -> dict[int, str]:
        """Return {object id: kind} of the monsters that died in this decision."""
        dead = {f"Dead{actor}": WORDS[actor] for actor in self.task.actors}
        corpses = {o.id: dead[o.name] for o in self._running().objects if o.name in dead}
        return {id_: kind for id_, kind in corpses.items() if id_ not in self._corpses}

    def _distance_to(self, kind: str) -> float:
        """Return the map units to the nearest object of a kind in a generated room; 0 if there is none."""
        gaps = (self._gap(map_object) for map_object in self._objects if WORDS[map_object.name] == kind)
        return min(gaps, default=0.0)

    def _reached(self) -> str:
        # Objects of a room are 2 * REACH apart, so at most one is within reach.
        return next((WORDS[map_object.name] for map_object in self._objects if self._gap(map_object) <= REACH), "")

    def _gap(self, map_object: MapObject) -> float:
        pose = self._running().pose
        return math.dist((pose.x, pose.y), (map_object.x, map_object.y))

    def _observation(self) -> Observation:
        engine = self._running()
        proprio = [
            min(max(engine.health, 0.0) / 100, 1.0),
            min(max(engine.ammunition, 0.0) / 50, 1.0),
            self._decisions / self.task.horizon,
        ]
        if self.options.previous_action_in_proprio:
            # All zero at the reset, when self._action is -1.
            proprio += [float(action == self._action) for action in range(len(self._pressed))]
        proprio += [float(target == self._target) for target in self._proprio_targets]
        return {"frame": engine.frame, "proprio": np.array(proprio, np.float32)}

    def _info(self, success: bool) -> dict[str, Any]:
        info: dict[str, Any] = {"context": {"target": self._target}, "success": success, "seed": self._seed}
        return info | self._ground_truth() if self._labels else info

    def _ground_truth(self) -> dict[str, Any]:
        engine = self._running()
        pose, buffer = engine.pose, engine.labels_buffer
        labels, index_of = [], np.zeros(256, np.uint8)
        for label in engine.labels:
            box = _visible_box(buffer, label)
            if box and label.object_name in self.task.actors:
                position = (label.object_position_x, label.object_position_y)
                distance = math.dist((pose.x, pose.y), position)
                labels.append({"name": WORDS[label.object_name], "box": box, "distance": distance})
                index_of[label.value] = len(labels)
        return {"labels": labels, "segmentation": index_of[buffer]}


def _visible_box(buffer: NDArray[np.uint8], label: Any) -> tuple[int, int, int, int] | None:
    """Return the box around the visible pixels of a label, or None; ViZDoom's own box ignores occlusion."""
    x, y = label.x, label.y
    visible = buffer[y : y + label.height, x : x + label.width] == label.value
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    if not rows.size:
        return None
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


@lru_cache(maxsize=4)  # shared by the environments of a run: a thousand rooms take half a second
def _rooms(
    split: int, count: int, actors: tuple[str, ...], apart: float, objects: int, repeats: bool
) -> tuple[tuple[Room, ...], bytes]:
    """Return the rooms of a split, each determined by the split and its index, and their WAD file."""
    rooms = tuple(
        _room(np.random.default_rng([split, index]), actors, apart, objects, repeats) for index in range(count)
    )
    return rooms, wad_of(rooms, RULES)


def _room(rng: np.random.Generator, actors: tuple[str, ...], apart: float, objects: int, repeats: bool) -> Room:
    room = random_room(rng, actors, objects)
    while not _apart(room, apart):
        room = random_room(rng, actors, objects)
    if repeats:
        return room
    names = rng.permutation(actors)[: len(room.objects)]
    pairs = zip(room.objects, names, strict=True)
    return replace(room, objects=tuple(replace(map_object, name=str(name)) for map_object, name in pairs))


def _apart(room: Room, degrees: float) -> bool:
    x, y, _ = room.start
    bearings = sorted(math.degrees(math.atan2(map_object.y - y, map_object.x - x)) for map_object in room.objects)
    return all((after - before) % 360 >= degrees for before, after in pairwise([*bearings, bearings[0]]))
