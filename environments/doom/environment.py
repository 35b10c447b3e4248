"""ViZDoom, the embedded default world: first-person 3-D on any CPU, with exact labels as ground truth.

Two families of tasks. Shipped scenarios are ViZDoom's own maps. Generated rooms (`fetch`, `hunt`) hold
several kinds of thing, and the context names the one that counts, so a prompt has something to say;
training and evaluation draw from different rooms. A seed and the actions determine an episode, down to the
pixel, whatever ran before it.

Actions are the rows of `Task.actions`, each held for `frame_skip` game tics of 1/35 s: one decision.
Observation: `frame` uint8 [H, W, 3] RGB; `proprio` float32 [P] in 0..1: health, ammunition, the elapsed
share of the horizon, then the previous action and the target as one-hot vectors (see Defaults).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from .. import base
from . import oracles
from .engine import SCENARIOS, Engine, Settings, temporary_folder
from .maps import ITEMS, MONSTERS, Room, Thing, map_name, random_room, wad_of
from .rewards import REACH, Reward, Rule, Step, death, defeating, each_decision, each_tic, points, reaching

# ViZDoom actor name -> what a person would call what is seen; the sprites are Freedoom's, not Doom's.
WORDS: dict[str, str] = {
    "Medikit": "medikit",
    "GreenArmor": "green armor",
    "BlueArmor": "red armor",
    "Soulsphere": "gold mask",
    "BlueTorch": "blue torch",
    "RedTorch": "red torch",
    "TallGreenColumn": "green column",
    "Candelabra": "candelabra",
    "Zombieman": "zombie",
    "DoomImp": "imp",
    "Demon": "demon",
    "Cacodemon": "cacodemon",
    "HellKnight": "hell knight",
    "MarineChainsawVzd": "marine",
    "DoomImpBall": "fireball",
}

# In generated rooms a monster falls after one or two shots, hurts little, and never hits another monster.
RULES = """
clearskills
skill room { SpawnFilter = Normal  MonsterHealth = 0.02  DamageFactor = 0.25  NoInfighting }
"""

SPLITS = ("train", "evaluation")
NEAR = 160.0  # map units below which a thing of the labels is near; from twice as much on it is far


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    frame_size: Literal["160x120", "200x150", "320x240", "400x300", "640x480"] = "160x120"  # pixels; shows all
    frame_skip: int = Field(default=4, ge=1)  # game tics a decision; 4 is what published ViZDoom agents use
    rooms: int = Field(default=1000, ge=1, le=9999)  # generated a split; too many to be learned by heart
    things: int = Field(default=4, ge=2, le=5)  # in a generated room, one of them the target
    repeats: bool = False  # whether a room may hold a kind more than once; any thing of the target kind counts
    target_in_proprio: bool = True  # every method is told the target: comparing prompts with none stays fair
    previous_action_in_proprio: bool = True  # lets a policy without memory keep turning the same way
    approach_reward: float = 0.0  # fetch only, shaping: per 100 map units gained on the target; 0 = sparse


@dataclass(frozen=True)
class Task:
    """A row of TASKS. horizon: decisions; contexts: every context that an episode can have."""

    id: str
    rewards: tuple[Reward, ...]
    reward: str
    horizon: int
    succeeded: Rule
    success: str
    contexts: tuple[dict[str, str], ...]
    actors: tuple[str, ...]  # the label vocabulary, as ViZDoom names
    actions: tuple[tuple[str, ...], ...]  # the buttons that each action holds
    wad: str = ""  # of a shipped scenario; "" = generated rooms
    prompt: str = "where"  # default variant
    ends: Rule = lambda step: False  # besides death and leaving the map
    skill: int = 3  # ViZDoom's difficulty, 1 to 5
    first_tic: int = 1  # game tics skipped until things have settled
    weapon: bool = True  # drawn
    apart: int = 0  # generated rooms: degrees between any two things as seen from the start


def _targets(*actors: str) -> tuple[dict[str, str], ...]:
    return tuple({"target": WORDS[actor]} for actor in actors)


TURN_AND_SHOOT = (("TURN_LEFT",), ("TURN_RIGHT",), ("ATTACK",))
TURN_AND_WALK = (("TURN_LEFT",), ("TURN_RIGHT",), ("MOVE_FORWARD",))

_ROWS = (
    Task(
        id="fetch",
        rewards=(reaching(target=1.0, other=-0.5), each_decision(-0.01)),
        reward="+1 for reaching the named thing, -0.5 for reaching another, -0.01 a decision",
        horizon=60,
        succeeded=lambda step: step.reached == step.target,
        success="the first thing reached is of the named kind",
        ends=lambda step: bool(step.reached),
        contexts=_targets(*ITEMS),
        actors=tuple(ITEMS),
        actions=TURN_AND_WALK,
        skill=1,
        weapon=False,
    ),
    Task(
        id="hunt",
        rewards=(defeating(target=1.0, other=-0.5), each_decision(-0.01)),
        reward="+1 for defeating the named monster, -0.5 for defeating another, -0.01 a decision",
        horizon=60,
        succeeded=lambda step: step.all_defeated == (step.target,),
        success="the named monster is defeated, and no other before it",
        ends=lambda step: step.target in step.all_defeated,
        contexts=_targets(*MONSTERS),
        actors=tuple(MONSTERS),
        actions=TURN_AND_SHOOT,
        skill=1,
        first_tic=10,
        apart=30,
    ),
    Task(
        id="basic",
        wad="basic.wad",
        rewards=(points(0.01), each_tic(-0.01)),
        reward="+1.06 for defeating the cacodemon, -0.05 a shot, -0.01 a tic (the scenario's own over 100)",
        horizon=75,
        succeeded=lambda step: step.left,
        success="the cacodemon is defeated",
        contexts=_targets("Cacodemon"),
        actors=("Cacodemon",),
        actions=(("MOVE_LEFT",), ("MOVE_RIGHT",), ("ATTACK",)),
        skill=5,
        first_tic=14,
    ),
    Task(
        id="defend_the_center",
        wad="defend_the_center.wad",
        rewards=(points(), death(-1.0)),
        reward="+1 for each monster defeated, -1 for dying",
        horizon=525,
        succeeded=lambda step: step.total_points >= 10,
        success="10 monsters are defeated",
        contexts=_targets("Demon"),
        actors=("Demon", "MarineChainsawVzd"),
        actions=TURN_AND_SHOOT,
        first_tic=10,
    ),
    Task(
        id="health_gathering",
        wad="health_gathering.wad",
        rewards=(each_tic(0.01), death(-1.0)),
        reward="+0.01 a tic alive on the acid floor, -1 for dying (the scenario's own over 100)",
        horizon=525,
        succeeded=lambda step: step.last and not step.died,
        success="alive at the horizon",
        contexts=_targets("Medikit"),
        actors=("Medikit",),
        actions=TURN_AND_WALK,
    ),
    Task(
        id="my_way_home",
        wad="my_way_home.wad",
        rewards=(points(), each_tic(-0.0001)),
        reward="+1 for reaching the green armor, -0.0001 a tic",
        horizon=525,
        succeeded=lambda step: step.left,
        success="the green armor is reached",
        contexts=_targets("GreenArmor"),
        actors=("GreenArmor",),
        actions=TURN_AND_WALK,
        skill=5,
        first_tic=10,
    ),
    Task(
        id="take_cover",
        wad="take_cover.wad",
        rewards=(each_tic(0.01),),
        reward="+0.01 a tic alive under fire (the scenario's own over 100)",
        horizon=200,
        succeeded=lambda step: step.last and not step.died,
        success="alive at the horizon",
        contexts=_targets("DoomImpBall"),
        actors=("DoomImp", "DoomImpBall"),
        actions=(("MOVE_LEFT",), ("MOVE_RIGHT",)),
        skill=4,
    ),
)
TASKS: dict[str, Task] = {task.id: task for task in _ROWS}


def kinds(task: str) -> tuple[str, ...]:
    """The names that `info["labels"]` can hold."""
    return tuple(WORDS[actor] for actor in _task(task).actors)


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> DoomEnv:
    """An environment for a row of TASKS; the engine starts at the first reset.

    options: None = Defaults(); labels: put the simulator's ground truth into `info`, at some cost in speed.
    Raises ValueError for an unknown task or split, or for an option that the task cannot use.
    """
    return DoomEnv(_task(task), options or Defaults(), split=split, labels=labels)


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], int]:
    """A scripted solution: the action to take now in an environment that was made with labels=True."""
    row = _task(task)
    decide = oracles.ORACLES[task]

    def act(env: gym.Env[Any, Any]) -> int:
        doom = env.unwrapped
        if not isinstance(doom, DoomEnv):
            raise ValueError(f"the oracle needs Doom in this process; {doom} is asked by call('oracle_action')")
        return row.actions.index((decide(doom.scene()),))

    return act


def _task(name: str) -> Task:
    return base.row(TASKS, name, "doom")


Observation: TypeAlias = dict[str, Any]


class DoomEnv(gym.Env[Observation, np.int64]):
    """One player on one map at a time.

    info, at reset and at every step: `context` dict; `success` bool; `seed`, which determines the episode
    (`reset` without a seed draws the next one from the current); and, if made with labels=True, `labels`, a
    list of {"name", "box": (x0, y0, x1, y1) around the visible pixels, ends exclusive, "distance" in map
    units}, and `segmentation` uint8 [H, W]: 0, or 1 + the index in `labels` of what the pixel shows.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}
    render_mode = "rgb_array"

    def __init__(self, task: Task, options: Defaults, *, split: str, labels: bool) -> None:
        if split not in SPLITS:
            raise ValueError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
        if options.approach_reward and task.id != "fetch":
            raise ValueError(f"approach_reward shapes the task 'fetch' only: leave it 0 for {task.id!r}")
        self.task, self.options, self._split, self._labels = task, options, SPLITS.index(split), labels
        self._engine: Engine | None = None
        self._rooms: tuple[Room, ...] = ()
        self._buttons = tuple(dict.fromkeys(button for action in task.actions for button in action))
        self._pressed = [[button in action for button in self._buttons] for action in task.actions]
        targets = [context["target"] for context in task.contexts]
        self._told = targets if options.target_in_proprio and len(targets) > 1 else []
        actions = len(task.actions) if options.previous_action_in_proprio else 0
        width, height = (int(side) for side in options.frame_size.split("x"))
        self.action_space = gym.spaces.Discrete(len(task.actions))
        self.observation_space = gym.spaces.Dict(
            frame=gym.spaces.Box(0, 255, (height, width, 3), np.uint8),
            proprio=gym.spaces.Box(0.0, 1.0, (3 + actions + len(self._told),), np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the episode that `seed` (0 or more) determines; None = a seed drawn from the last one's."""
        self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=self._seed)
        self._engine = self._engine or self._start()
        rng = np.random.default_rng([self._split, self._seed])
        engine_seed = int(rng.integers(2**32))
        index = int(rng.integers(len(self._rooms))) if self._rooms else 0
        self._things = self._rooms[index].things if self._rooms else ()
        targets = [WORDS[thing.name] for thing in self._things] or [self.task.contexts[0]["target"]]
        self._target = targets[rng.integers(len(targets))]
        self._engine.restart(engine_seed, map_name(index))
        self._decisions, self._action, self._points = 0, -1, 0.0
        self._fallen: dict[int, str] = {}  # object id -> kind of the monsters that fell, in order
        self._distance = self._distance_to(self._target)
        return self._observation(), self._info(success=False)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        engine = self._running()
        self._action = int(action)
        self._decisions += 1
        done = self._measure(engine.advance(self._pressed[self._action], self.options.frame_skip))
        reward = sum(part(done) for part in self.task.rewards)
        reward += self.options.approach_reward * done.nearer / 100
        terminated = engine.finished or self.task.ends(done)
        info = self._info(success=self.task.succeeded(done))
        return self._observation(), float(reward), terminated, done.last and not terminated, info

    def render(self) -> NDArray[np.uint8]:
        """The current frame, uint8 [H, W, 3]."""
        return self._running().frame

    def close(self) -> None:
        """End the engine process; may be called again. A later reset starts a new one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def scene(self) -> oracles.Scene:
        """Everything on the map, seen or not: for oracles, never for a policy. Needs labels=True."""
        if not self._labels:
            raise ValueError("the scene is ground truth: make the environment with labels=True")
        engine = self._running()
        things = [
            oracles.Seen(WORDS[o.name], o.position_x, o.position_y, o.velocity_x, o.velocity_y)
            for o in engine.objects
            if o.name in self.task.actors
        ]
        lines = [line for sector in engine.sectors for line in sector.lines if line.is_blocking]
        walls = tuple((line.x1, line.y1, line.x2, line.y2) for line in lines)
        return oracles.Scene(engine.pose, self._target, things, walls)

    def _start(self) -> Engine:
        folder = temporary_folder()
        wad = SCENARIOS / self.task.wad
        if not self.task.wad:
            options = self.options
            about = self.task.actors, self.task.apart, options.things, options.repeats
            self._rooms, data = _rooms(self._split, options.rooms, *about)
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
            raise RuntimeError("no episode is under way: call reset() first")
        return self._engine

    def _measure(self, points: float) -> Step:
        """What the decision just carried out did, for which the map's script gave `points`."""
        engine = self._running()
        distance, fallen = self._distance_to(self._target), self._new_corpses()
        done = Step(
            target=self._target,
            tics=self.options.frame_skip,
            points=points,
            total_points=self._points + points,
            died=engine.dead,
            left=engine.finished and not engine.dead,
            last=self._decisions >= self.task.horizon,
            reached=self._reached(),
            defeated=tuple(fallen.values()),
            all_defeated=(*self._fallen.values(), *fallen.values()),
            nearer=self._distance - distance,
        )
        self._distance, self._points = distance, done.total_points
        self._fallen |= fallen
        return done

    def _new_corpses(self) -> dict[int, str]:
        """Object id -> kind of the monsters that lie dead now and did not before."""
        dead = {f"Dead{actor}": WORDS[actor] for actor in self.task.actors}
        corpses = {o.id: dead[o.name] for o in self._running().objects if o.name in dead}
        return {id_: kind for id_, kind in corpses.items() if id_ not in self._fallen}

    def _distance_to(self, kind: str) -> float:
        """Map units to the nearest thing of a kind in a generated room; 0 where there is none."""
        return min((self._gap(thing) for thing in self._things if WORDS[thing.name] == kind), default=0.0)

    def _reached(self) -> str:
        # Rooms keep their things 2 * REACH apart, so at most one is within reach.
        return next((WORDS[thing.name] for thing in self._things if self._gap(thing) <= REACH), "")

    def _gap(self, thing: Thing) -> float:
        pose = self._running().pose
        return math.dist((pose.x, pose.y), (thing.x, thing.y))

    def _observation(self) -> Observation:
        engine = self._running()
        proprio = [
            min(max(engine.health, 0.0) / 100, 1.0),
            min(max(engine.ammunition, 0.0) / 50, 1.0),
            self._decisions / self.task.horizon,
        ]
        if self.options.previous_action_in_proprio:
            # All zero at the reset.
            proprio += [float(action == self._action) for action in range(len(self._pressed))]
        proprio += [float(target == self._target) for target in self._told]
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
                place = (label.object_position_x, label.object_position_y)
                distance = math.dist((pose.x, pose.y), place)
                labels.append({"name": WORDS[label.object_name], "box": box, "distance": distance})
                index_of[label.value] = len(labels)
        return {"labels": labels, "segmentation": index_of[buffer]}


def _visible_box(buffer: NDArray[np.uint8], label: Any) -> tuple[int, int, int, int] | None:
    """Around the pixels that show the label's actor; None if others hide it, for ViZDoom's box ignores those."""
    x, y = label.x, label.y
    drawn = buffer[y : y + label.height, x : x + label.width] == label.value
    columns, rows = np.flatnonzero(drawn.any(axis=0)), np.flatnonzero(drawn.any(axis=1))
    if not rows.size:
        return None
    return x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1


@lru_cache(maxsize=4)  # a run's environments share them; a thousand rooms take half a second
def _rooms(
    split: int, count: int, actors: tuple[str, ...], apart: float, things: int, repeats: bool
) -> tuple[tuple[Room, ...], bytes]:
    """The rooms of a split, each determined by the split and its index, and the WAD file that holds them."""
    rooms = tuple(
        _room(np.random.default_rng([split, index]), actors, apart, things, repeats) for index in range(count)
    )
    return rooms, wad_of(rooms, RULES)


def _room(rng: np.random.Generator, actors: tuple[str, ...], apart: float, things: int, repeats: bool) -> Room:
    room = random_room(rng, actors, things)
    while not _apart(room, apart):
        room = random_room(rng, actors, things)
    if repeats:
        return room
    names = rng.permutation(actors)[: len(room.things)]
    named = zip(room.things, names, strict=True)
    return replace(room, things=tuple(replace(thing, name=str(name)) for thing, name in named))


def _apart(room: Room, degrees: float) -> bool:
    x, y, _ = room.start
    bearings = sorted(math.degrees(math.atan2(thing.y - y, thing.x - x)) for thing in room.things)
    return all((after - before) % 360 >= degrees for before, after in pairwise([*bearings, bearings[0]]))
