"""Checkpoints on disk: one folder each, with tensors as safetensors and other values as JSON, never as pickle.

    <checkpoints>/000012288/tensors.safetensors
                            values.json             with the digests of both files

`write` fills a folder with a temporary name and renames it, so a folder with the name of a step is always complete. The
digests are verified whenever a checkpoint is read.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json, sync, write_json

KEEP = 2  # checkpoints on disk: the last one, and the one before it in case the last is damaged
TENSORS_DIGEST = "tensors_digest"  # key in values.json


class CheckpointNotWritten(UserError):
    """Error in writing a checkpoint, such as a full disk; earlier checkpoints are unchanged."""


class NotFinite(UserError):
    """Error for NaN or infinite numbers in a loss or in the state of a training; no checkpoint gets them.

    Args:
        step: Steps of training so far.
        problem: What is not finite.
    """

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(
            f"the training has diverged: at step {step:,} {problem}. The checkpoints are from before. Start a new run"
            " with a smaller learning rate (algorithm_options.learning_rate), or other rewards."
        )


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after `step` steps.

    Args:
        step: Steps so far, in the unit of the learner's `num_timesteps`.
        tensors: Tensors by name.
        values: JSON values by name.

    Raises:
        NotFinite: A tensor contains NaN or infinite numbers.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]

    def __post_init__(self) -> None:
        # The only check: a checkpoint that exists can be written, and a file of an earlier version counts as damaged.
        names = [name for name, t in self.tensors.items() if t.is_floating_point() and not t.isfinite().all()]
        if names:
            raise NotFinite(self.step, f"{names[0]} and {len(names) - 1} other tensors have NaN or infinite numbers")

    def below(self, folder: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose names begin with "<folder>/"; the keys are their names without it.

        Args:
            folder: First part of the names, such as "policy".
        """
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
            tensors = partial / "tensors.safetensors"
            save_file(checkpoint.tensors, tensors)
            values = {**checkpoint.values, TENSORS_DIGEST: digest.of_file(tensors)}
            write_json(partial / "values.json", values, lines=True)
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
    """Return the steps of all checkpoints in a folder, in increasing order.

    Args:
        folder: Folder of the checkpoints of one run; one that does not exist has none.
    """
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.is_dir())


def read_latest(folder: Path, *, remove_damaged: bool = False) -> Checkpoint:
    """Read the newest readable checkpoint, and warn of newer ones that are damaged.

    Args:
        folder: Folder of the checkpoints of one run.
        remove_damaged: Remove the damaged ones; a resumed run writes checkpoints of those steps again.

    Raises:
        UserError: The folder has no readable checkpoint.
        PermissionError, MemoryError: A checkpoint cannot be read here; it may be undamaged, so it stays.
    """
    damaged: list[tuple[int, Exception]] = []
    for step in reversed(steps(folder)):
        try:
            checkpoint = _read(folder / f"{step:09d}", step)
        except (PermissionError, MemoryError):
            raise
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
    raise UserError(
        f"there is no checkpoint in {folder}{why}. If the run stopped before its first checkpoint, train again"
    )


def _readable(path: Path) -> bool:
    try:
        _read(path, 0)
    except Exception:
        return False
    return True


def _read(path: Path, step: int) -> Checkpoint:
    values, tensors = read_json(path / "values.json"), path / "tensors.safetensors"
    digest_when_written = values.pop(TENSORS_DIGEST, None)  # absent in checkpoints of earlier versions
    if digest_when_written is not None and digest_when_written != digest.of_file(tensors):
        raise DamagedFile(tensors, "its content differs from what was written")
    return Checkpoint(step, load_file(tensors), values)


def _not_written(path: Path, checkpoint: Checkpoint, error: Exception) -> str:
    needed = sum(tensor.nbytes for tensor in checkpoint.tensors.values()) / 1e6
    folder = next(parent for parent in path.parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"the checkpoint of step {checkpoint.step:,} could not be written to {path}: {error}. "
        f"It takes about {needed:,.1f} MB; {free:,.1f} MB are free there. Free some space. {_earlier(path.parent)}"
    )


def _earlier(folder: Path) -> str:
    """Return a sentence about the newest checkpoint on disk, from which the run can be resumed."""
    if not (earlier := steps(folder)):
        return "The run has no earlier checkpoint, so start a new one."
    command = f"pr2l train --resume {folder.parent}"
    return f"The checkpoint of step {earlier[-1]:,} is complete; to resume from it:\n{command}"
