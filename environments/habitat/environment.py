"""ObjectNav of habitat-lab: walk through a house to a thing of the named kind, and say "stop" beside it.

Nothing here imports habitat-lab, which needs NumPy 1.26 and gym 0.23: `pr2l sim install habitat-lite` makes an
interpreter for it, _habitat_far.py runs there, and isolated.py stands between the two. Task, episodes, sensors and
measures are habitat-lab's; the houses are generated here (`scenes: embedded`) or, with habitat-sim, HM3D's scans.

Actions: stop, 0.25 m forward, 30 degrees left, 30 degrees right. Observation: `frame` uint8 [H, W, 3] RGB, as of an eye
0.88 m above the floor that sees 79 degrees; `proprio` float32 [14]: metres ahead and to the right of the start, sine
and cosine of the turn since then, the previous action and the goal's category as one-hot vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from .. import base
from ..isolation.interpreters import interpreter
from ..isolation.isolated import Isolated
from .furniture import CATEGORIES, NAMES, WORDS
from .houses import FEWEST, MOST

__all__ = ["TASKS", "Defaults", "Task", "kinds", "make", "oracle"]

ACTIONS = 4
ENDING_ACTIONS = (0,)  # "stop": noise that is added to an expert leaves it out
NEAR = 1.5  # metres below which a thing of the labels is near; from twice as much on it is far
SPLITS = ("train", "evaluation")


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    scenes: Literal["embedded", "hm3d"] = "embedded"  # generated houses; hm3d needs habitat-sim and the scans
    frame_size: Literal["160x120", "224x224", "320x240", "640x480"] = "160x120"  # pixels; habitat's own is 640x480
    horizon: int = Field(default=500, ge=1)  # steps of an episode, habitat's ObjectNav
    rooms: int = Field(default=5, ge=FEWEST, le=MOST)  # of a generated house; 3 have no kitchen, hall or office
    houses: int = Field(default=40, ge=1, le=1000)  # generated for training; 10 others are for evaluation
    farthest: PositiveFloat | None = None  # metres of shortest way at most that an episode begins with; None = any
    # What the oracle does: walks the shortest way, or looks around until it has seen a goal, which clones can learn
    oracle: Literal["shortest", "searching"] = "shortest"
    data: str = "data"  # habitat's data folder, for hm3d
    python: str | None = None  # an interpreter with habitat-lab; None = that of `pr2l sim install`


@dataclass(frozen=True)
class Task:
    """A row of TASKS. horizon: steps, see Defaults; contexts: every context that an episode can have."""

    id: str
    reward: str
    horizon: int
    success: str
    contexts: tuple[dict[str, str], ...]
    prompt: str = "found_here"  # default variant


_ROWS = (
    Task(
        id="objectnav",
        reward="metres that the way to the goal got shorter, +2.5 for success, -0.001 a step",
        horizon=500,
        success="it stops less than 0.1 m from a place beside a thing of the named kind (a metre at most)",
        contexts=tuple({"target": WORDS[category]} for category in CATEGORIES),
    ),
)
TASKS: dict[str, Task] = {task.id: task for task in _ROWS}


def kinds(task: str) -> tuple[str, ...]:
    """The names that `info["labels"]` can hold: all furniture, goals or not."""
    return tuple(dict.fromkeys(NAMES.values()))


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> Isolated:
    """An environment for a row of TASKS; its interpreter starts at the first reset.

    options: None = Defaults(); labels: put the simulator's ground truth into `info`, as doom does, distances in metres,
    and `scene`: {"room": the type of the room that is looked into, "kept": {goal: whether people keep it in such}}.
    Evaluation is in houses that training never sees. Raises ValueError for an unknown task or split, or where
    habitat-lab is not installed.
    """
    base.row(TASKS, task, "habitat")
    if split not in SPLITS:
        raise ValueError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
    options = options or Defaults()
    return Isolated(
        "environments.habitat.remote",
        task,
        options.model_dump(mode="json", exclude={"python"}),
        split=split,
        labels=labels,
        name="habitat",
        python=interpreter("habitat" if options.scenes == "hm3d" else "habitat-lite", options.python),
        env={"MAGNUM_LOG": "quiet", "HABITAT_SIM_LOG": "quiet"},
        spaces=spaces(options),
    )


def spaces(options: Defaults) -> tuple[gym.spaces.Dict, gym.spaces.Discrete]:
    """What the far side will show and take, said without starting it."""
    width, height = (int(side) for side in options.frame_size.split("x"))
    frame = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
    proprio = gym.spaces.Box(-np.inf, np.inf, (4 + ACTIONS + len(CATEGORIES),), np.float32)
    return gym.spaces.Dict(frame=frame, proprio=proprio), gym.spaces.Discrete(ACTIONS)


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], int]:
    """Walks to a place beside a goal, as the environment's option `oracle` says."""

    def act(env: gym.Env[Any, Any]) -> int:
        isolated = env.unwrapped
        assert isinstance(isolated, Isolated)
        return int(isolated.call("oracle_action"))

    return act
