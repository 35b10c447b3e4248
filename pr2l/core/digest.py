"""Digests, short names of contents: equal contents have equal ones, others (but for a chance of 1 in 2^64) do not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DIGITS = 16  # of 64 hexadecimal ones
BLOCK = 1 << 20  # bytes read at a time


def of_json(value: Any) -> str:
    """Of JSON values; the order of a dict's keys does not matter."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Of their names, types, shapes and entries."""
    from safetensors.torch import save  # imports torch, which takes seconds

    return sha256(save({name: tensor.contiguous() for name, tensor in tensors.items()})).hexdigest()[:DIGITS]


def of_files(folder: Path, files: Iterable[Path]) -> str:
    """Of what files hold and of their paths below `folder`, whatever the order; about a second per gigabyte."""
    return of_json({file.relative_to(folder).as_posix(): _of_file(file) for file in files})


def _of_file(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
