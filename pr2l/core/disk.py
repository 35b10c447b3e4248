"""Space on a disk: reserved before a file is mapped into memory, and explained if there is too little.

A process that writes to a memory map on a full disk is killed by SIGBUS, without a message.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pr2l.core.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, the largest file that is allowed
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems that cannot reserve space
UNITS = ("bytes", "kB", "MB", "GB", "TB")


class DiskFull(UserError):
    """Error for a disk with too little space.

    Args:
        folder: An existing folder on the disk.
        what: What does not fit, in the plural, e.g. "the frames of 3 environments".
        needed: The size of it, in bytes.
        next_step: What the user can do.
        reason: The reason that the system gives, "" for none.
    """

    def __init__(self, folder: Path, what: str, needed: int, next_step: str, reason: str = "") -> None:
        free = in_units(shutil.disk_usage(folder).free)
        because = f" ({reason})" if reason else ""
        super().__init__(f"{what} take {in_units(needed)}, and {free} are free at {folder}{because}; {next_step}")


@contextmanager
def full_disk_explained(folder: Path, what: str, needed: int, next_step: str) -> Iterator[None]:
    """Explain the error of a full disk that a `with` block raises; the arguments are those of DiskFull.

    Args:
        folder: An existing folder on the disk.
        what: What the block writes, in the plural.
        needed: The size of it, in bytes.
        next_step: What the user can do.

    Raises:
        DiskFull: In place of the OSError of a full disk; other errors stay as they are.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(folder, what, needed, next_step, error.strerror or "") from error


def reserve(path: Path, size: int) -> None:
    """Reserve the first bytes of a file on its disk; the content stays, and missing bytes are 0.

    Systems and file systems without such a function, such as macOS, reserve nothing.

    Args:
        path: An existing file.
        size: Number of bytes.

    Raises:
        OSError: The disk has too little space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise


def in_units(size: float) -> str:
    """Return a number of bytes as a text such as "3.2 GB".

    Args:
        size: Number of bytes, 0 or more. A unit is 1000 times the smaller one.
    """
    for unit in UNITS[:-1]:
        if size < 1000:
            return f"{size:,.0f} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} {UNITS[-1]}"
