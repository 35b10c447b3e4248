"""Checkpoints on disk: one folder each, with tensors as safetensors and other values as JSON, never as pickle.

    <checkpoints>/000012288/tensors.safetensors
                            values.json

`write` fills a folder with a temporary name and renames it, so a folder with the name of a step is always complete.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pr2l.core.errors import UserError
from pr2l.core.io import sync

KEEP = 2  # checkpoints on disk: the last one, and the one before it in case the last is damaged


class CheckpointNotWritten(UserError):
    """Error in writing a checkpoint, such as a full disk; earlier checkpoints are unchanged."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after `step` steps.

    Args:
        step: Steps so far, in the unit of the learner's `num_timesteps`.
        tensors: Tensors by name.
        values: JSON values by name.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]

    def below(self, folder: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose names begin with "<folder>/"; the keys are their names without it."""
        start = f"{folder}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then remove all but the newest KEEP.

    If the folder already holds a readable checkpoint of the same step, that one stays and this one is not written.

    Args:
        folder: Folder of the checkpoints of one run.
        checkpoint: Checkpoint to write.

    Raises:
        CheckpointNotWritten: The checkpoint cannot be written, for example because the disk is full.
    """
    destination = folder / f"{checkpoint.step:09d}"
    if not _readable(destination):
        partial = folder / f".partial-{destination.name}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_file(checkpoint.tensors, partial / "tensors.safetensors")
            (partial / "values.json").write_text(json.dumps(checkpoint.values), encoding="utf-8")
            for path in (*partial.iterdir(), partial):  # on disk before the rename, even if the power fails
                sync(path)
            shutil.rmtree(destination, ignore_errors=True)  # a damaged one
            partial.rename(destination)
            sync(folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointNotWritten(_not_written(destination, checkpoint, error)) from error
    for old in steps(folder)[:-KEEP]:
        shutil.rmtree(folder / f"{old:09d}")


def steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints in a folder, in increasing order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.is_dir())


def read_latest(folder: Path, *, remove_damaged: bool = False) -> Checkpoint:
    """Read the newest readable checkpoint, and warn of newer ones that are damaged.

    Args:
        folder: Folder of the checkpoints of one run.
        remove_damaged: Remove the damaged ones; a resumed run writes checkpoints of those steps again.

    Raises:
        UserError: The folder has no readable checkpoint.
    """
    damaged: list[tuple[int, Exception]] = []
    for step in reversed(steps(folder)):
        try:
            checkpoint = _read(folder / f"{step:09d}", step)
        except Exception as error:
            damaged.append((step, error))
            continue
        for newer, problem in damaged:
            warnings.warn(
                f"the checkpoint of step {newer:,} in {folder} is damaged ({problem}); step {step:,} is taken instead",
                stacklevel=2,
            )
            if remove_damaged:
                shutil.rmtree(folder / f"{newer:09d}")
        return checkpoint
    why = f"; the newest cannot be read: {damaged[0][1]}" if damaged else ""
    raise UserError(f"there is no checkpoint in {folder}{why}. Was the run stopped before its first one?")


def _readable(path: Path) -> bool:
    try:
        _read(path, 0)
    except Exception:
        return False
    return True


def _read(path: Path, step: int) -> Checkpoint:
    values = json.loads((path / "values.json").read_text(encoding="utf-8"))
    return Checkpoint(step, load_file(path / "tensors.safetensors"), values)


def _not_written(path: Path, checkpoint: Checkpoint, error: Exception) -> str:
    needed = sum(tensor.nbytes for tensor in checkpoint.tensors.values()) / 1e6
    folder = next(parent for parent in path.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    complete = steps(path.parent)
    consequence = (
        f"The checkpoint of step {complete[-1]:,} is whole: free some space, then go on with\n"
        f"pr2l train --resume {path.parents[1]}"
        if complete
        else "The run has no earlier one: free some space and start it again."
    )
    return (
        f"the checkpoint of step {checkpoint.step:,} could not be written to {path}: {error}. "
        f"It takes about {needed:,.1f} MB; {free:,.1f} MB are free there. {consequence}"
    )
