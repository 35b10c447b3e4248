"""Minecraft: PR2L's six tasks and all tasks of MineDojo, with MineDojo in its own Python environment.

This module does not import MineDojo. `pr2l sim install minedojo` makes an interpreter in which `Isolated` runs
remote.py. Minecraft starts at the first reset and is replaced if it hangs or dies.

Observation: `frame` uint8 [H, W, 3] RGB; `proprio` float32 [P], MineCLIP's features and the previous action, see
spaces.py. The seed determines the positions of a task's mobs but not their behaviour, so that no episode repeats
exactly. `info["labels"]` comes from the lidar, which covers only some directions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ..base import UserError
from ..isolation.interpreters import interpreter
from ..isolation.isolated import Isolated, gymnasium_spaces
from . import spaces as plain
from .labels import KINDS
from .tasks import HORIZON, OTHER, TASKS, Task

__all__ = ["TASKS", "Defaults", "Task", "kinds", "make", "oracle"]

REMOTE = "environments.minecraft.remote"
NEAR = 5.0  # blocks, just out of reach: a labelled object is near below this and far from twice this distance on


class Defaults(BaseModel):
    """Options of the Minecraft environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_size: tuple[PositiveInt, PositiveInt] = (160, 256)  # height and width in pixels, as in MineCLIP
    actions: Literal["discrete", "full"] = "discrete"  # discrete = 89 actions; full = MineDojo's 8 numbers
    horizon: PositiveInt = HORIZON  # maximum steps of an episode, as in MineCLIP
    world_seed: int = 123  # seed of the map, as in MineCLIP; the episode's seed determines the positions of mobs
    success_reward: float | None = None  # reward for success; None = the task's value; 10 in MineCLIP's demonstrations
    attack_reward: float | None = None  # reward per hit; None = the task's value; 1 in MineCLIP's demonstrations
    # reward per block of approach to the nearest visible mob; None = the task's value; 0.1 in MineCLIP's demonstrations
    approach_reward: float | None = Field(default=None, ge=0)
    step_penalty: float = Field(default=0.0, ge=0)  # subtracted in every step; 0 in MineCLIP's demonstrations
    task_id: str = ""  # for the task `other` only: any task id of MineDojo, such as harvest_milk or creative:255
    python: str | None = None  # Python interpreter with minedojo; None = that of `pr2l sim install minedojo`
    existing_ports: tuple[PositiveInt, ...] = ()  # ports of running Malmo servers, one per environment; () = start them


def kinds(task: str) -> tuple[str, ...]:
    """Return the object names in `info["labels"]` that are targets of tasks; the lidar may report other names too.

    Args:
        task: Not used: the names are the same for all tasks.
    """
    return KINDS


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> Isolated:
    """Make the environment of a task; its interpreter and Minecraft start at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The split of the seeds.
        labels: Whether to add the lidar's ground truth to `info`, see labels.py.

    Raises:
        UserError: If `task_id` is set for a task other than `other` or missing for `other`, or if MineDojo is not
            installed.
    """
    options = options or Defaults()
    if (task == OTHER) != bool(options.task_id):
        raise UserError(
            f"task={task!r} with task_id={options.task_id!r}: the task `other` needs environment_options.task_id, the "
            "id of a task of MineDojo; all other tasks have no task_id"
        )
    return Isolated(
        REMOTE,
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
    """Raise UserError, because Minecraft has no scripted solutions.

    Args:
        task: Name of the task, for the error message.
    """
    raise UserError(f"Minecraft has no oracle for {task!r}; use --policy random, or a run folder")
