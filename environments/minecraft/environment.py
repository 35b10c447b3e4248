"""Minecraft: PR2L's six tasks, and any of MineDojo's, through MineDojo in an interpreter of its own.

Nothing here imports MineDojo: `pr2l sim install minedojo` makes its interpreter, _minecraft_far.py runs in it, and
isolated.py stands between the two; a Minecraft that hangs or dies is replaced. Minecraft starts at the first reset.

Observation: `frame` uint8 [H, W, 3] RGB; `proprio` float32 [P], MineCLIP's features, and the actions: see
_minecraft_spaces.py. A seed determines where the mobs of a task appear, and not what they do: no episode repeats.
The lidar of `info["labels"]` sees only some directions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ..isolation.interpreters import interpreter
from ..isolation.isolated import Isolated, gymnasium_spaces
from . import spaces as plain
from . import tasks as minecraft_tasks
from .labels import KINDS
from .tasks import HORIZON, Task

__all__ = ["TASKS", "Defaults", "Task", "kinds", "make", "oracle"]

FAR = "environments.minecraft.remote"
NEAR = 5.0  # blocks below which a thing of the labels is near, a little more than an arm reaches; far is from ten on
OTHER = Task(
    id="other",
    meta="",
    goal="",
    seen="",
    inventory={},
    mobs=(),
    biome="",
    night=False,
    success_reward=1.0,
    attack_reward=0.0,
    approach_reward=0.0,
    reward="MineDojo's own for environment_options.task_id: 1 for the goal",
    success="MineDojo's own for environment_options.task_id",
    contexts=({},),
    prompt="describe",
)
TASKS = {**minecraft_tasks.TASKS, OTHER.id: OTHER}


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: tuple[PositiveInt, PositiveInt] = (160, 256)  # height and width in pixels; MineCLIP's
    actions: Literal["discrete", "full"] = "discrete"  # 89 of them, or MineDojo's MultiDiscrete of 8 numbers
    horizon: PositiveInt = HORIZON  # steps of an episode, MineCLIP's
    world_seed: int = 123  # of the map, MineCLIP's; the mobs' places come from the episode's seed
    success_reward: float | None = None  # None = the task's, here and below: MineCLIP's demonstrations have 10
    attack_reward: float | None = None  # per hit; MineCLIP's demonstrations have 1
    approach_reward: float | None = Field(default=None, ge=0)  # per block; MineCLIP's demonstrations have 0.1
    step_penalty: float = Field(default=0.0, ge=0)  # taken off in every step; MineCLIP's demonstrations have none
    task_id: str = ""  # for the task `other` only: any task id of MineDojo, such as harvest_milk or creative:255
    python: str | None = None  # an interpreter with minedojo; None = that of `pr2l sim install minedojo`
    existing_ports: tuple[PositiveInt, ...] = ()  # of Malmo servers that run already, one per environment; () = start


def kinds(task: str) -> tuple[str, ...]:
    """The names that `info["labels"]` can hold and that the tasks are about; the lidar may see more."""
    return KINDS


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> Isolated:
    """An environment for a row of TASKS; its interpreter starts at the first reset, and Minecraft with it.

    options: None = Defaults(); labels: put the lidar's ground truth into `info`, see _minecraft_labels.py.
    Raises ValueError for a task that does not go with task_id, or where MineDojo is not installed.
    """
    options = options or Defaults()
    if (task == OTHER.id) != bool(options.task_id):
        raise ValueError(
            f"task {task!r} with task_id {options.task_id!r}: the task `other` plays the task of MineDojo that "
            "environment_options.task_id names, and no other task does"
        )
    return Isolated(
        FAR,
        options.task_id or task,
        options.model_dump(mode="json", exclude={"python", "task_id"}),
        split=split,
        labels=labels,
        name="Minecraft",
        python=interpreter("minedojo", options.python),
        env={} if os.environ.get("DISPLAY") else {"MINEDOJO_HEADLESS": "1"},
        spaces=gymnasium_spaces(
            {
                "observation": plain.observation_space(*options.image_size, options.actions),
                "action": plain.action_space(options.actions),
            }
        ),
    )


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], int]:
    """Raises ValueError: nobody has scripted these tasks."""
    raise ValueError(f"Minecraft has no scripted solution of {task!r}: take policy=random, or the folder of a run")
