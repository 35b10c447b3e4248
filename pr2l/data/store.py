"""Stores of embeddings: the tokens of N frames in a folder, memory-mapped, and checked whenever a store is opened.

    values.npy    float16 [N, T, D]
    mask.npy      uint8 [N, T], 1 = real token
    store.json    the key (data set, encoder and VLM of the embeddings), the shape, and the number of finished rows

`flush` writes the rows to the disk before store.json, which counts them. If the process is killed, the counted rows are
complete, and the next process continues after them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.types import Tokens
from pr2l.rollout.vec_embed import in_half

Shape = tuple[int, int, int]
Mode = Literal["w+", "r+", "r"]
INDEX = "store.json"


class Store:
    """Tokens of N frames on the disk; the length of a store is N.

    Use `create` or `resume` to append rows, and `open` to read.

    Attributes:
        path: The folder.
        key: JSON values that identify the embeddings.
        shape: (N, T, D).
        done: Number of finished rows; `flush` writes them to the disk.
    """

    def __init__(self, path: Path, key: dict[str, Any], shape: Shape, done: int, mode: Mode) -> None:
        self.path, self.key, self.shape, self.done = path, key, shape, done
        self.clipped = 0  # entries that `append` clipped to the range of float16
        self.values = _array(path / "values.npy", mode, np.float16, shape)
        self.mask = _array(path / "mask.npy", mode, np.uint8, shape[:2])

    @classmethod
    def create(cls, path: Path, key: dict[str, Any], shape: Shape) -> Self:
        """Create a store without rows.

        Args:
            path: The folder to make.
            key: JSON values that identify the embeddings; `resume` and `open` require equal values.
            shape: (N, T, D).

        Raises:
            UserError: If the folder has a store, or the disk has too little space for all rows.
        """
        if exists(path):
            raise UserError(f"{path} is a store already; go on with Store.resume, or name another folder")
        path.mkdir(parents=True, exist_ok=True)
        rows, tokens, width = shape
        needed, free = rows * tokens * (2 * width + 1), shutil.disk_usage(path).free
        if needed > free:  # writing to a memory map on a full disk kills the process without a message
            raise UserError(
                f"{rows:,} frames of {tokens} x {width} numbers take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB"
                f" are free at {path}; name a folder on another disk, or take fewer tokens (encoder_options)"
            )
        store = cls(path, _as_json(key), shape, 0, "w+")
        store.flush()
        return store

    @classmethod
    def resume(cls, path: Path, key: dict[str, Any]) -> Self:
        """Open a store to append rows.

        Args:
            path: The folder.
            key: The expected key.

        Raises:
            UserError: If there is no store, the store is damaged, or its key differs.
        """
        return cls(path, *_read(path, key), mode="r+")

    @classmethod
    def open(cls, path: Path, key: dict[str, Any]) -> Self:
        """Open a finished store to read.

        Args:
            path: The folder.
            key: The expected key.

        Raises:
            UserError: If there is no store, the store is damaged, its key differs, or rows are missing.
        """
        store = cls(path, *_read(path, key), mode="r")
        if store.done < len(store):
            raise UserError(
                f"{path} has {store.done:,} of {len(store):,} rows; go on with the same `pr2l embed` command"
            )
        return store

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[np.int_]) -> Tokens:
        """Read rows into memory.

        Returns:
            Tokens with values float16 [B, T, D] and mask bool [B, T], in the order of `rows`.

        Raises:
            IndexError: If a row is not finished.
        """
        values, mask = (np.array(array[: self.done][rows]) for array in (self.values, self.mask))
        return Tokens(torch.from_numpy(values), torch.from_numpy(mask).bool())

    def append(self, tokens: Tokens) -> None:
        """Append rows, rounded to float16, the precision of policy observations.

        Args:
            tokens: The tokens of the next B frames, [B, T, D].
        """
        rows = slice(self.done, self.done + len(tokens.mask))
        self.values[rows], self.mask[rows], clipped = in_half(tokens)
        self.clipped += clipped
        self.done = rows.stop

    def flush(self) -> None:
        """Write the finished rows to the disk."""
        self.values.flush()
        self.mask.flush()
        write_json(self.path / INDEX, {"key": self.key, "shape": self.shape, "done": self.done})


def exists(path: Path) -> bool:
    """Return whether a folder holds a store, finished or not."""
    return (path / INDEX).is_file()


def _array(path: Path, mode: Mode, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Open a memory map; UserError if its dtype or shape differs from store.json."""
    if mode == "w+":
        return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # mode r+ would fill a truncated file up with zeros
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {list(shape)}"
        raise _damaged(path, f"it holds {array.dtype} {list(array.shape)}, but {INDEX} says {expected}")
    return array if mode == "r" else np.lib.format.open_memmap(path, mode=mode)


def _read(path: Path, key: dict[str, Any]) -> tuple[dict[str, Any], Shape, int]:
    """Return the key, the shape and the number of finished rows; UserError if the stored key is not `key`."""
    if not exists(path):
        raise UserError(f"{path} is no store: it has no {INDEX}; `pr2l embed DATASET --config CONFIG` makes one")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        stored, (rows, tokens, width), done = index["key"], index["shape"], index["done"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path / INDEX, f"{type(error).__name__}: {error}") from error
    if changed := _differences(stored, _as_json(key)):
        raise UserError(
            f"the embeddings in {path} are of another data set or config: {'; '.join(changed)}. Write the others to"
            " another folder with `pr2l embed --output FOLDER`, or use the config and the data set of these."
        )
    return stored, (rows, tokens, width), done


def _differences(stored: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the entries that differ between two keys, with both values."""
    stored_entries, expected_entries = _flat(stored), _flat(expected)
    return [
        f"{name} is {stored_entries.get(name, 'absent')} there and {expected_entries.get(name, 'absent')} here"
        for name in {**stored_entries, **expected_entries}
        if stored_entries.get(name) != expected_entries.get(name)
    ]


def _flat(key: dict[str, Any], start: str = "") -> dict[str, str]:
    """{"vlm": {"layers": [-1]}} -> {"vlm.layers": "[-1]"}"""
    flat: dict[str, str] = {}
    for name, value in key.items():
        inside = isinstance(value, dict) and value
        flat |= _flat(value, f"{start}{name}.") if inside else {f"{start}{name}": json.dumps(value)}
    return flat


def _as_json(key: dict[str, Any]) -> dict[str, Any]:
    """Convert a key to the values that are read from a file: lists in place of tuples."""
    values: dict[str, Any] = json.loads(json.dumps(key))
    return values


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}. Delete {path.parent} and run `pr2l embed` again.")
