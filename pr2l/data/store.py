"""Stores of embeddings: the tokens of N frames in a folder, memory-mapped, and checked whenever a store is opened.

    values.npy      float16 [N, T, D]
    mask.npy        uint8 [N, T], 1 = real token
    checksums.npy   uint32 [N], CRC-32 of the row of values.npy and the row of mask.npy
    store.json      the key (data set, encoder and VLM of the embeddings), the shape, and the number of finished rows

The checksum of a row is verified when the row is read for the first time. A store of an earlier version has no
checksums.

`flush` writes the rows to the disk before store.json, which counts them. If the process is killed, the counted rows are
complete, and the next process continues after them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import Self

from pr2l.core import digest
from pr2l.core.disk import DiskFull, full_disk_explained, reserve
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.core.types import Tokens
from pr2l.rollout.vec_embed import in_half

Shape = tuple[int, int, int]
Mode = Literal["w+", "r+", "r"]
INDEX = "store.json"
CHECKSUMS = "checksums.npy"
NEXT_STEP = "free some space, name a folder on another disk with --output, or take fewer tokens (encoder_options)"


class Store:
    """Tokens of N frames on the disk; the length of a store is N.

    Use `create` or `resume` to append rows, and `open` to read.

    Attributes:
        path: The folder.
        key: JSON values that identify the embeddings.
        shape: (N, T, D).
        done: Number of finished rows; `flush` writes them to the disk.
    """

    def __init__(
        self, path: Path, key: dict[str, Any], shape: Shape, done: int, mode: Mode, *, checksums: bool = True
    ) -> None:
        self.path, self.key, self.shape, self.done = path, key, shape, done
        self.clipped = 0  # entries that `append` clipped to the range of float16
        with _full_disk_explained(path, shape) if mode != "r" else nullcontext():
            self.values = _array(path / "values.npy", mode, np.float16, shape)
            self.mask = _array(path / "mask.npy", mode, np.uint8, shape[:2])
            self._checksums = _array(path / CHECKSUMS, mode, np.uint32, shape[:1]) if checksums else None
        self._verified = np.full(shape[0], not checksums)

    @classmethod
    def create(cls, path: Path, key: dict[str, Any], shape: Shape) -> Self:
        """Create a store without rows.

        Args:
            path: The folder to make.
            key: JSON values that identify the embeddings; `resume` and `open` require equal values.
            shape: (N, T, D).

        Raises:
            UserError: If the folder has a store.
            DiskFull: If the disk has too little space for all rows.
        """
        if exists(path):
            raise UserError(f"{path} is a store already; continue it with Store.resume, or choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        if _needed(shape) > shutil.disk_usage(path).free:  # say so before the rest of the disk is reserved
            raise DiskFull(path, _described(shape), _needed(shape), NEXT_STEP)
        try:
            store = cls(path, _as_json(key), shape, 0, "w+")
            store.flush()
        except UserError:
            for name in ("values.npy", "mask.npy", CHECKSUMS):
                (path / name).unlink(missing_ok=True)
            raise
        return store

    @classmethod
    def resume(cls, path: Path, key: dict[str, Any]) -> Self:
        """Open a store to append rows.

        Args:
            path: The folder.
            key: The expected key.

        Raises:
            UserError: If there is no store, the store is damaged, its key differs, or the disk has too little space
                for the missing rows.
        """
        stored, shape, done, checksums = _read(path, key)
        return cls(path, stored, shape, done, "r+", checksums=checksums)

    @classmethod
    def open(cls, path: Path, key: dict[str, Any]) -> Self:
        """Open a finished store to read.

        Args:
            path: The folder.
            key: The expected key.

        Raises:
            UserError: If there is no store, the store is damaged, its key differs, or rows are missing.
        """
        stored, shape, done, checksums = _read(path, key)
        store = cls(path, stored, shape, done, "r", checksums=checksums)
        if store.done < len(store):
            raise UserError(
                f"{path} has {store.done:,} of {len(store):,} rows; complete it with the same `pr2l embed` command"
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
            DamagedFile: If a row differs from what was written.
        """
        values, mask = (np.array(array[: self.done][rows]) for array in (self.values, self.mask))
        self._verify(rows, values, mask)
        return Tokens(torch.from_numpy(values), torch.from_numpy(mask).bool())

    def append(self, tokens: Tokens) -> None:
        """Append rows, rounded to float16, the precision of policy observations.

        Args:
            tokens: The tokens of the next B frames, [B, T, D].
        """
        rows = slice(self.done, self.done + len(tokens.mask))
        values, mask, clipped = in_half(tokens)
        self.values[rows], self.mask[rows] = values, mask
        if self._checksums is not None:
            self._checksums[rows] = _checksums(values, mask)
        self.clipped += clipped
        self.done = rows.stop

    def flush(self) -> None:
        """Write the finished rows to the disk.

        Raises:
            DiskFull: If the disk has too little space.
        """
        checksums = [] if self._checksums is None else [self._checksums]
        index = {"key": self.key, "shape": self.shape, "done": self.done, "checksums": bool(checksums)}
        with _full_disk_explained(self.path, self.shape):
            for array in (self.values, self.mask, *checksums):
                array.flush()
            write_json(self.path / INDEX, index)

    def _verify(self, rows: slice | Sequence[int] | npt.NDArray[np.int_], values: Any, mask: Any) -> None:
        """Compare the values and the mask of these rows with the checksums of those that were not verified before."""
        if self._checksums is None:
            return
        new = np.flatnonzero(~self._verified[: self.done][rows])
        expected = self._checksums[: self.done][rows][new]
        if len(wrong := new[_checksums(values[new], mask[new]) != expected]):
            row = np.arange(self.done)[rows][wrong[0]]
            problem = f"row {row:,} of the embeddings differs from what was written"
            raise DamagedFile(self.path, problem, _again(self.path))
        self._verified[: self.done][rows] = True


def exists(path: Path) -> bool:
    """Return whether a folder holds a store, finished or not.

    Args:
        path: Folder of the store; it need not exist.
    """
    return (path / INDEX).is_file()


def is_complete(path: Path) -> bool:
    """Return whether a folder holds a store without missing rows.

    Args:
        path: Folder of the store; it need not exist.

    Raises:
        DamagedFile: If store.json is damaged.
    """
    if not exists(path):
        return False
    _, shape, done, _ = _index(path)
    return done == shape[0]


def _needed(shape: Shape) -> int:
    """Return the size of a store in bytes."""
    rows, tokens, width = shape
    return rows * (tokens * (2 * width + 1) + 4)


def _described(shape: Shape) -> str:
    rows, tokens, width = shape
    return f"{rows:,} frames of {tokens} x {width} numbers"


def _full_disk_explained(path: Path, shape: Shape) -> AbstractContextManager[None]:
    return full_disk_explained(path, _described(shape), _needed(shape), NEXT_STEP)


def _checksums(values: npt.NDArray[np.float16], mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each row of values [B, T, D] and mask [B, T], uint32 [B]."""
    return np.array([digest.crc32(row) for row in zip(values, mask, strict=True)], np.uint32)


def _array(path: Path, mode: Mode, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Open a memory map and, to write, reserve its space; UserError if its dtype or shape differs from store.json."""
    if mode == "w+":
        array = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        reserve(path, array.offset + array.nbytes)
        return array
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # mode r+ would fill a truncated file up with zeros
    except Exception as error:  # NumPy reads the header as Python source, so damage raises errors of all kinds
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if array.dtype != dtype or array.shape != shape:
        expected = f"{np.dtype(dtype)} {list(shape)}"
        raise _damaged(path, f"it is {array.dtype} {list(array.shape)}, but {INDEX} says {expected}")
    if mode == "r":
        return array
    reserve(path, array.offset + array.nbytes)  # an earlier version has not
    return np.lib.format.open_memmap(path, mode=mode)


def _index(path: Path) -> tuple[dict[str, Any], Shape, int, bool]:
    """Read the key, the shape, the number of finished rows and whether there are checksums."""
    index = read_json(path / INDEX, _again(path))
    try:
        stored, (rows, tokens, width), done = index["key"], index["shape"], index["done"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path / INDEX, f"{type(error).__name__}: {error}") from error
    return stored, (rows, tokens, width), done, index.get("checksums", False)


def _read(path: Path, key: dict[str, Any]) -> tuple[dict[str, Any], Shape, int, bool]:
    """Read store.json as `_index` does; UserError if the stored key is not `key`."""
    if not exists(path):
        raise UserError(
            f"{path} is not a store: it has no {INDEX}; write one with `pr2l embed DATASET --config CONFIG`"
        )
    stored, shape, done, checksums = _index(path)
    if changed := _differences(stored, _as_json(key)):
        raise UserError(
            f"the embeddings in {path} are of another data set or config: {'; '.join(changed)}. Use that data set and"
            " config, or another folder with `pr2l embed --output FOLDER`."
        )
    return stored, shape, done, checksums


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


def _damaged(path: Path, problem: str) -> DamagedFile:
    return DamagedFile(path, problem, _again(path.parent))


def _again(path: Path) -> str:
    return f"Delete {path} and run `pr2l embed` again."
