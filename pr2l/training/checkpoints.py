"""Checkpoints on disk: a folder each, tensors as safetensors and the rest as JSON. Nothing is ever unpickled.

    <checkpoints>/000012288/tensors.safetensors
                            values.json

A checkpoint is written beside its place and renamed into it, so a folder with a step's name is always whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pr2l.core.errors import UserError
from pr2l.core.io import sync

KEEP = 2  # the last one, and one more should the last be damaged


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` environment steps."""

    step: int
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]

    def below(self, folder: str) -> dict[str, torch.Tensor]:
        """The tensors whose names begin with "<folder>/", without that."""
        start = f"{folder}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes it, then removes all but the newest KEEP. One of the same step is left as it is."""
    place = folder / f"{checkpoint.step:09d}"
    if not place.exists():
        partial = folder / f".partial-{place.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(checkpoint.tensors, partial / "tensors.safetensors")
        (partial / "values.json").write_text(json.dumps(checkpoint.values), encoding="utf-8")
        for path in (*partial.iterdir(), partial):  # on disk before it has its name, even if the power fails
            sync(path)
        partial.rename(place)
        sync(folder)
    for old in steps(folder)[:-KEEP]:
        shutil.rmtree(folder / f"{old:09d}")


def steps(folder: Path) -> list[int]:
    """The steps that there are checkpoints of, in order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.is_dir())


def read_latest(folder: Path) -> Checkpoint:
    """The newest checkpoint, or the one before if the newest cannot be read; UserError if there is none."""
    problem: Exception | None = None
    for step in reversed(steps(folder)):
        try:
            return _read(folder, step)
        except Exception as error:
            problem = problem or error
    why = f"; the newest cannot be read: {problem}" if problem else ""
    raise UserError(f"there is no checkpoint in {folder}{why}. Was the run stopped before its first one?")


def _read(folder: Path, step: int) -> Checkpoint:
    place = folder / f"{step:09d}"
    values = json.loads((place / "values.json").read_text(encoding="utf-8"))
    return Checkpoint(step, load_file(place / "tensors.safetensors"), values)
