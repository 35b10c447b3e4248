"""Android phones: AndroidWorld's tasks and lists of instructions, on emulators through android_env.

This module does not import android_env, whose protobuf conflicts with other packages. `pr2l sim install android` (lists
of instructions), `android-world` (AndroidWorld's tasks) or `mobilegym` makes an interpreter in which `Isolated` runs
remote.py. The phone starts at the first reset and is replaced if it hangs or ends.

Observation: `frame` uint8 [H, W, 3] RGB, the whole screen scaled to `frame_size`. `info["context"]` has the instruction
as "goal". Android goes on while the policy thinks, and apps change with their updates, so episodes do not repeat
exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from .. import base
from ..base import UserError
from ..common.screen_action_space import Actions, ActionText, ScreenActionSpace, TextActions, text_of
from ..isolation.interpreters import interpreter
from ..isolation.isolated import Isolated
from .actions import ScreenActions
from .tasks import INSTRUCTIONS, MOBILEGYM, TASKS, Task

__all__ = ["TASKS", "Defaults", "Task", "kinds", "make"]

SPLITS = ("train", "evaluation")
INTERPRETERS = {INSTRUCTIONS: "android", MOBILEGYM: "mobilegym"}  # AndroidWorld's tasks have another one


class Defaults(BaseModel):
    """Options of the Android environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    frame_size: tuple[PositiveInt, PositiveInt] = (560, 252)  # height and width in pixels; 20:9 as a Pixel 6
    actions: Literal["heads", "text"] = "heads"  # heads = six numbers (ScreenActionSpace); text = what a VLM writes
    rows: PositiveInt = 20  # of the grid of cells of heads
    columns: PositiveInt = 9  # of the grid of cells of heads
    words: PositiveInt = 48  # words of the instruction at which a text of heads can start
    horizon: PositiveInt | None = None  # steps of an episode; None = the task's
    instructions: str = ""  # for the task `instructions`: text file with one instruction per line
    # file for the split `evaluation`; None = hold out a fifth of the file `instructions`
    evaluation_instructions: str | None = None
    overlap: bool = False  # whether both files may share instructions, as DigiRL's do
    avd: str = "Pixel_6_API_33"  # virtual device to start, as `emulator -list-avds` shows it
    snapshot: str = ""  # emulator's snapshot to start from; lists of instructions restore it before each episode
    running: tuple[PositiveInt, ...] = ()  # console ports of emulators that run already, one per environment
    devices: tuple[str, ...] = ()  # phones on a cable, as `adb devices` shows them, one per environment
    sdk: str | None = None  # folder of the Android SDK; None = $ANDROID_HOME or ~/Android/Sdk
    window: bool = False  # whether emulators show their screens in windows
    emulator_arguments: tuple[str, ...] = ()  # further arguments of `emulator`, such as -gpu host
    boot: PositiveFloat = 300.0  # seconds until Android must have booted
    settle: float = Field(default=3.0, ge=0)  # longest wait for a still screen after an action, in seconds
    # how AndroidWorld reads the elements of the screen, which some tasks need; the app is a service that it downloads
    elements: Literal["a11y_forwarder_app", "uiautomator", "none"] = "a11y_forwarder_app"
    mobilegym: str = ""  # for the task `mobilegym`: folder of a copy of github.com/Purewhiter/mobilegym
    server: str = "http://localhost:3000"  # address of MobileGym's pages, which the user serves
    task_id: str = ""  # id of MobileGym's task, such as wechat.ReadMyWxid
    python: str | None = None  # Python interpreter with android_env; None = that of `pr2l sim install`


def kinds(task: str) -> tuple[str, ...]:
    """Return no names: those of `info["labels"]` are the texts on the screen.

    Args:
        task: Not used.
    """
    return ()


def action_text(action: Any, context: Mapping[str, str], options: Defaults) -> str:
    """Return the text form of a recorded action; "" = it was malformed and did nothing.

    Args:
        action: An element of the action space.
        context: The context of the observation.
        options: The options of the recorded environment.
    """
    return text_of(action, actions_of(options), context["goal"])


def actions_of(options: Defaults) -> Actions:
    """Return the space of the actions."""
    if options.actions == "text":
        return TextActions()
    return ScreenActionSpace(options.rows, options.columns, options.words)


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> ScreenActions:
    """Make the environment of a task; its interpreter and its phone start at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The split of the seeds of AndroidWorld's parameters, or of the instructions.
        labels: Whether `info["labels"]` has the elements of Android's accessibility tree; for AndroidWorld's tasks.

    Raises:
        UserError: If the task or the split is unknown, an option is missing or does not apply, or the interpreter is
            not installed.
    """
    base.row(TASKS, task, "android")
    options = options or Defaults()
    _check(task, options, split, labels)
    env = Isolated(
        "environments.android.remote",
        task,
        options.model_dump(mode="json", exclude={"python", "actions", "rows", "columns", "words"}),
        split=split,
        labels=labels,
        name="Android",
        python=interpreter(INTERPRETERS.get(task, "android-world"), options.python),
        spaces=spaces(options),
    )
    return ScreenActions(env, actions_of(options))


def spaces(options: Defaults) -> tuple[gym.spaces.Dict, gym.spaces.Text]:
    """Return the spaces of the isolated environment, whose actions are texts.

    Args:
        options: The size of the frame is used.

    Returns:
        Dict of frame uint8 [H, W, 3], and the texts.
    """
    frame = gym.spaces.Box(0, 255, (*options.frame_size, 3), np.uint8)
    return gym.spaces.Dict(frame=frame), ActionText()


def _check(task: str, options: Defaults, split: str, labels: bool) -> None:
    if split not in SPLITS:
        raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
    if (task == INSTRUCTIONS) != bool(options.instructions):
        raise UserError(
            f"task={task!r} with instructions={options.instructions!r}: the task `instructions` needs "
            "environment_options.instructions, a text file with one instruction per line; all other tasks have none"
        )
    if (task == MOBILEGYM) != bool(options.mobilegym and options.task_id):
        raise UserError(
            f"task={task!r} with mobilegym={options.mobilegym!r} and task_id={options.task_id!r}: the task `mobilegym` "
            "needs both, the folder of MobileGym and the id of one of its tasks; all other tasks have neither"
        )
    if options.devices and (task != INSTRUCTIONS or options.running or options.snapshot):
        raise UserError(
            "devices: a phone on a cable takes only lists of instructions, and has no snapshots and no console port; "
            "AndroidWorld changes the data of apps as root, so it needs emulators"
        )
    if labels and task in INTERPRETERS:
        raise UserError("labels come from AndroidWorld's accessibility service; use a task of AndroidWorld")
