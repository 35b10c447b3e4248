"""Training in stages on the common loop, with learning rate schedules, checkpoints and metrics of each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pr2l.core.errors import UserError
from pr2l.policies.common.loop import Loop, Update
from pr2l.training import checkpoints
from pr2l.training.checkpoints import Checkpoint

CHECKPOINT_EVERY = 100  # steps between checkpoints
CHECKPOINTS = "checkpoints"  # name of the folder
OLD_CHECKPOINT = "checkpoint.safetensors"  # file of versions before the common loop
MAX_GRAD_NORM = 1.0  # maximum norm of the gradient


@dataclass(frozen=True)
class Stage:
    """Stage of a training, with a learning rate that rises linearly in the first tenth and then falls to 0 by a cosine.

    Args:
        name: Name for progress bars and metrics.
        steps: Number of gradient steps.
        rate: Highest learning rate.
    """

    name: str
    steps: int
    rate: float

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step of the stage, counted from 0.

        Args:
            step: 0 to steps - 1. The rate is highest at the end of the first tenth.
        """
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


OnStep = Callable[[Stage, int, Mapping[str, float]], None]  # (stage, steps done in it, metrics)
Loss = Callable[[int, int], tuple[Tensor, dict[str, float]]]  # (stage's number, step in it) -> loss, metrics


class Steps:
    """Source of the loop that yields the number of each step, which seeds the step's batch."""

    def __init__(self) -> None:
        self.count = 0

    def next_step(self) -> int:
        """Return the number of the next step, counted from 0."""
        self.count += 1
        return self.count - 1

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.count}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        self.count = values["taken"]


def run_stages(
    stages: Sequence[Stage],
    modules: Mapping[str, nn.Module | Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    folder: Path,
    on_step: OnStep,
) -> None:
    """Train through all stages, from the last checkpoint in the folder if there is one.

    `run_stages` writes a checkpoint every CHECKPOINT_EVERY steps, at the end of each stage, and when training stops
    between two steps. Ctrl-C takes effect after the current step. After an exception within a step, no checkpoint is
    written.

    Args:
        stages: Stages in order; they share the optimizer.
        modules: Modules, or named parameters of a module, to train; by the prefix of their tensors in the checkpoint.
        optimizer: Optimizer over parameters of these modules.
        loss: Function of the stage's number and the step in the stage that returns the loss and metrics. Its batch may
            depend on these two numbers only, so that a resumed training equals an uninterrupted one.
        folder: Folder of the training; the checkpoints are in its subfolder "checkpoints".
        on_step: Function that runs after each step.

    Raises:
        UserError: The folder holds a checkpoint of an earlier version.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def update(source: Steps) -> Update:
        value, metrics = loss(*_locate(stages, source.next_step()))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        return Update(1, metrics)

    def rate(step: int, total_steps: int) -> float:
        number, step_in_stage = _locate(stages, step)
        return stages[number].rate_at(step_in_stage)

    loop = Loop(modules, optimizer, update, rate)
    checkpoint_folder = folder / CHECKPOINTS
    _restore(loop, folder)
    hooks = _Hooks(loop, stages, checkpoint_folder, on_step)
    try:
        loop.run(Steps(), sum(stage.steps for stage in stages), hooks)
    except BaseException:
        if not loop.updating:
            hooks.save()
        raise


class _Hooks:
    """Hooks that report each step and write checkpoints."""

    def __init__(self, loop: Loop, stages: Sequence[Stage], folder: Path, on_step: OnStep) -> None:
        self.loop, self.stages, self.folder, self.on_step = loop, stages, folder, on_step

    def on_update_start(self, learner: Any) -> None:
        pass

    def on_update(self, metrics: Mapping[str, float]) -> None:
        number, last = _locate(self.stages, self.loop.num_timesteps - 1)
        stage, steps_done = self.stages[number], last + 1
        self.on_step(stage, steps_done, metrics)
        if steps_done % CHECKPOINT_EVERY == 0 or steps_done == stage.steps:
            self.save()

    def on_end(self, learner: Any) -> None:
        pass

    def save(self) -> None:
        if step := self.loop.num_timesteps:
            checkpoints.write(self.folder, Checkpoint(step, *self.loop.state_dict()))


def _restore(loop: Loop, folder: Path) -> None:
    if (folder / OLD_CHECKPOINT).exists():
        raise UserError(
            f"{folder / OLD_CHECKPOINT} was written by an earlier version of pr2l and cannot be resumed. Train in"
            " another folder (--output FOLDER), or delete that file to start again in this one."
        )
    if checkpoints.steps(folder / CHECKPOINTS):
        checkpoint = checkpoints.read_latest(folder / CHECKPOINTS)
        loop.load_state_dict(checkpoint.tensors, checkpoint.values)


def _locate(stages: Sequence[Stage], step: int) -> tuple[int, int]:
    """Convert a step of the whole training to the number of its stage and the step in that stage."""
    for number, stage in enumerate(stages):
        if step < stage.steps:
            return number, step
        step -= stage.steps
    raise IndexError(f"{step} steps after the last stage")
