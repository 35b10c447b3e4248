"""ObjectNav of habitat-lab: walk through a house to an object of the named category and stop beside it.

This module does not import habitat-lab, which needs NumPy 1.26 and gym 0.23. `pr2l sim install habitat-lite` makes an
interpreter for it, in which `Isolated` runs remote.py. Task, episodes, sensors and measures are habitat-lab's. The
houses are generated (`scenes: embedded`) or, with habitat-sim, HM3D's scans.

Actions: stop, 0.25 m forward, 30 degrees left, 30 degrees right. Observation: `frame` uint8 [H, W, 3] RGB from a camera
0.88 m above the floor with a horizontal field of view of 79 degrees; `proprio` float32 [14]: position relative to the
start (metres ahead, metres to the right), sine and cosine of the turn since the start, the previous action and the
goal's category as one-hot vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from .. import base
from ..base import UserError
from ..isolation.interpreters import interpreter
from ..isolation.isolated import Isolated
from .furniture import CATEGORIES, NAMES
from .houses import FEWEST, MOST
from .replay import read_replays
from .tasks import TASKS, Task

__all__ = ["TASKS", "Defaults", "Task", "begin", "demonstrations", "kinds", "make", "oracle"]

ACTION_NAMES = ("stop", "move_forward", "turn_left", "turn_right")  # habitat-lab's names, by action
ACTIONS = len(ACTION_NAMES)
ENDING_ACTIONS = (0,)  # "stop": never drawn as noise when episodes of an expert are collected
NEAR = 1.5  # metres: a labelled object is near below this distance and far from twice this distance on
SPLITS = ("train", "evaluation")


class Defaults(BaseModel):
    """Options of the Habitat environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scenes: Literal["embedded", "hm3d"] = "embedded"  # embedded = generated houses; hm3d = scans, needs habitat-sim
    frame_size: Literal["160x120", "224x224", "320x240", "640x480"] = "160x120"  # width x height in pixels
    horizon: int = Field(default=500, ge=1)  # steps of an episode, as in habitat's ObjectNav
    rooms: int = Field(default=5, ge=FEWEST, le=MOST)  # rooms per house; with 3, no kitchen, hall or office
    houses: int = Field(default=40, ge=1, le=1000)  # generated houses for training; evaluation uses 10 others
    farthest: PositiveFloat | None = None  # maximum shortest path at the start, in metres; None = no limit
    # shortest = follow the shortest path; searching = look around until a goal is in view, which is easier to clone
    oracle: Literal["shortest", "searching"] = "shortest"
    data: str = "data"  # habitat's data folder, for scenes=hm3d
    python: str | None = None  # Python interpreter with habitat-lab; None = that of `pr2l sim install`


def kinds(task: str) -> tuple[str, ...]:
    """Return the object names that can occur in `info["labels"]`: all kinds of furniture, also those without goals.

    Args:
        task: Not used: all tasks have the same furniture.
    """
    return tuple(dict.fromkeys(NAMES.values()))


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> Isolated:
    """Make the environment of a task; its interpreter starts at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The split of the houses; "evaluation" and "train" have different houses.
        labels: Whether to add the simulator's ground truth to `info`: `labels` and `segmentation` as in Doom, with
            distances in metres, and `scene`: {"room": type of the room in view, "kept": {goal: whether such rooms
            usually have it}}.

    Raises:
        UserError: If the task or the split is unknown, or habitat-lab is not installed.
    """
    base.row(TASKS, task, "habitat")
    if split not in SPLITS:
        raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
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
    """Return the observation space and the action space without starting the interpreter.

    Args:
        options: The size of the frame is used.

    Returns:
        Dict of frame uint8 [H, W, 3] and proprio float32 [P], and Discrete.
    """
    width, height = (int(side) for side in options.frame_size.split("x"))
    frame = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
    proprio = gym.spaces.Box(-np.inf, np.inf, (4 + ACTIONS + len(CATEGORIES),), np.float32)
    return gym.spaces.Dict(frame=frame, proprio=proprio), gym.spaces.Discrete(ACTIONS)


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], int]:
    """Return the expert of the option `oracle`, as a function from an environment to the next action.

    Args:
        task: Not used: the expert is chosen by the option.
    """

    def act(env: gym.Env[Any, Any]) -> int:
        wrapper = env.unwrapped
        assert isinstance(wrapper, Isolated)
        return int(wrapper.call("oracle_action"))

    return act


def demonstrations(path: Path) -> Iterator[base.Demonstration]:
    """Read human demonstrations in the format of Habitat-Web and PIRLNav, see replay.py.

    Args:
        path: A .json.gz file.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not in that format.
    """
    for replay in read_replays(path):
        start = (replay.scene_id, replay.goal, list(replay.position), list(replay.rotation))
        missing = sorted(set(replay.actions) - set(ACTION_NAMES))
        if missing:
            yield base.Demonstration(start, (), f"it has the action {missing[0]}, which this environment lacks")
        else:
            yield base.Demonstration(start, tuple(ACTION_NAMES.index(action) for action in replay.actions))


def begin(env: gym.Env[Any, Any], start: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Move a running episode to the start of a demonstration.

    Args:
        env: The environment, after a reset.
        start: The `start` of the demonstration.

    Returns:
        The observation and the info at the start.

    Raises:
        UserError: If no episode of the environment's data set has the scene and the goal of the demonstration.
    """
    wrapper = env.unwrapped
    assert isinstance(wrapper, Isolated)
    observation, info = wrapper.call("begin", *start)
    return observation, info
