"""Embeddings on disk: what an encoder made of N frames, in a folder that is checked whenever it is opened.

    values.npy    float16 [N, T, D], memory-mapped     mask.npy    uint8 [N, T], 1 = real token
    store.json    the key: what the embeddings were made from and with; the shape; how many rows are done

store.json is replaced last, after the rows that it counts have reached the disk. So whatever kills the process, the
rows that it counts are whole, and the work goes on behind them.
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
    """Made with `create`, `resume` (both to append to) or `open` (to read); its length is N.

    shape: (N, T, D). done: the rows there are; `flush` makes them last.
    """

    def __init__(self, path: Path, key: dict[str, Any], shape: Shape, done: int, mode: Mode) -> None:
        self.path, self.key, self.shape, self.done = path, key, shape, done
        self.clipped = 0  # entries that `append` has clipped to the range of float16
        self.values = _array(path / "values.npy", mode, np.float16, shape)
        self.mask = _array(path / "mask.npy", mode, np.uint8, shape[:2])

    @classmethod
    def create(cls, path: Path, key: dict[str, Any], shape: Shape) -> Self:
        """A new store without rows; UserError if there is one, or the disk has no room for it."""
        if exists(path):
            raise UserError(f"{path} is a store already; go on with Store.resume, or name another folder")
        path.mkdir(parents=True, exist_ok=True)
        rows, tokens, width = shape
        needed, free = rows * tokens * (2 * width + 1), shutil.disk_usage(path).free
        if needed > free:  # a map that outgrows its disk would end the process without a word
            raise UserError(
                f"{rows:,} frames of {tokens} x {width} numbers take {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB"
                f" are free at {path}; name a folder on another disk, or take fewer tokens (encoder_options)"
            )
        store = cls(path, _as_json(key), shape, 0, "w+")
        store.flush()
        return store

    @classmethod
    def resume(cls, path: Path, key: dict[str, Any]) -> Self:
        """A store to go on with. Raises UserError if it is damaged, or was made under another key."""
        return cls(path, *_read(path, key), mode="r+")

    @classmethod
    def open(cls, path: Path, key: dict[str, Any]) -> Self:
        """A finished store. Raises UserError as `resume` does, and for one that is not finished."""
        store = cls(path, *_read(path, key), mode="r")
        if store.done < len(store):
            raise UserError(
                f"{path} has {store.done:,} of {len(store):,} rows; go on with the same `pr2l embed` command"
            )
        return store

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | npt.NDArray[np.int_]) -> Tokens:
        """Tokens of so many rows, float16, in memory; IndexError for a row that is not there (yet)."""
        values, mask = (np.array(part[: self.done][rows]) for part in (self.values, self.mask))
        return Tokens(torch.from_numpy(values), torch.from_numpy(mask).bool())

    def append(self, tokens: Tokens) -> None:
        """Puts them behind the rows there are, rounded to float16 as policies see them."""
        rows = slice(self.done, self.done + len(tokens.mask))
        self.values[rows], self.mask[rows], clipped = in_half(tokens)
        self.clipped += clipped
        self.done = rows.stop

    def flush(self) -> None:
        """From here on the rows there are survive anything."""
        self.values.flush()
        self.mask.flush()
        write_json(self.path / INDEX, {"key": self.key, "shape": self.shape, "done": self.done})


def exists(path: Path) -> bool:
    """Whether the folder holds a store, finished or not."""
    return (path / INDEX).is_file()


def _array(path: Path, mode: Mode, dtype: type, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """The memory map of a file; UserError if it is not what store.json says."""
    if mode == "w+":
        return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # in mode r+ a file cut short would be filled up with zeros
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if array.dtype != dtype or array.shape != shape:
        wanted = f"{np.dtype(dtype)} {list(shape)}"
        raise _damaged(path, f"it holds {array.dtype} {list(array.shape)}, and {INDEX} says {wanted}")
    return array if mode == "r" else np.lib.format.open_memmap(path, mode=mode)


def _read(path: Path, key: dict[str, Any]) -> tuple[dict[str, Any], Shape, int]:
    """Key, shape and number of rows of a store that was made under `key`."""
    if not exists(path):
        raise UserError(f"{path} is no store: it has no {INDEX}; `pr2l embed DATASET --config CONFIG` makes one")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        stored, (rows, tokens, width), done = index["key"], index["shape"], index["done"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path / INDEX, f"{type(error).__name__}: {error}") from error
    if changed := _differences(stored, _as_json(key)):
        raise UserError(
            f"the embeddings in {path} are not those asked for: {'; '.join(changed)}. Make others in another folder"
            " with `pr2l embed --output FOLDER`, or ask under the config and for the data set that made these."
        )
    return stored, (rows, tokens, width), done


def _differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Each entry of two keys that is not the same, with both values."""
    there, here = _flat(stored), _flat(asked)
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _flat(key: dict[str, Any], start: str = "") -> dict[str, str]:
    """{"vlm": {"layers": [-1]}} -> {"vlm.layers": "[-1]"}"""
    flat: dict[str, str] = {}
    for name, value in key.items():
        inside = isinstance(value, dict) and value
        flat |= _flat(value, f"{start}{name}.") if inside else {f"{start}{name}": json.dumps(value)}
    return flat


def _as_json(key: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    values: dict[str, Any] = json.loads(json.dumps(key))
    return values


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}. Delete {path.parent} and run `pr2l embed` again.")
