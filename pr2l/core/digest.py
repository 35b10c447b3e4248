"""Digests: 16 hexadecimal digits of SHA-256; two different contents have equal digests with probability 1 in 2^64."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

DIGITS = 16  # of the 64 hexadecimal digits of SHA-256
BLOCK = 1 << 20  # bytes read at a time


def of_json(value: Any) -> str:
    """Return the digest of JSON values; the order of a dict's keys does not matter.

    Args:
        value: Value that `json.dumps` accepts.
    """
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:DIGITS]


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """Return the digest of tensors: their names, dtypes, shapes and entries.

    Args:
        tensors: Tensors by name; the device does not matter.
    """
    from safetensors.torch import save  # imports torch, which takes seconds

    return sha256(save({name: tensor.contiguous() for name, tensor in tensors.items()})).hexdigest()[:DIGITS]


def of_files(folder: Path, files: Iterable[Path], names: Mapping[str, str] | None = None) -> str:
    """Return the digest of the contents of files and of their paths below `folder`.

    The function takes about a second per gigabyte.

    Args:
        folder: Folder that contains the files.
        files: The files.
        names: Path below the folder -> path in an earlier version, so that a renamed file keeps its digest. None = no
            renamed files.
    """
    paths = {file: file.relative_to(folder).as_posix() for file in files}
    return of_json({(names or {}).get(path, path): of_file(file) for file, path in paths.items()})


def crc32(arrays: Iterable[npt.NDArray[Any]]) -> int:
    """Return the CRC-32 of the bytes of arrays, one after the other; it detects damage, and is faster than SHA-256.

    Args:
        arrays: Arrays of any dtype; their shapes and dtypes do not count.
    """
    import numpy as np  # commands that only list names do without it

    value = 0
    for array in arrays:
        value = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
    return value


def of_file(path: Path) -> str:
    """Return the SHA-256 of the content of a file, 64 hexadecimal digits.

    Args:
        path: The file, which is read in blocks, so that it need not fit into memory.
    """
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def of_bytes(content: bytes) -> str:
    """Return the digest of bytes.

    Args:
        content: The bytes, such as the pixels of an image.
    """
    return sha256(content).hexdigest()[:DIGITS]
