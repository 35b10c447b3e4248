"""Lock of a folder, so that two processes do not write to it at the same time."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pr2l.core.console import Console
from pr2l.core.disk import full_disk_explained
from pr2l.core.errors import UserError

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
BLOCK = 4096  # bytes that a small file takes on most disks
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # such as Lustre without the mount option flock


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder; the file .lock names the process and the host.

    The operating system releases the lock when the process ends, even by kill -9. Then the file remains, and the next
    process says that it takes over the folder. In one process, the lock of a folder cannot be held twice. If
    the system or the file system has no locks, the function prints so and goes on.

    Args:
        folder: The folder. It is created if it does not exist.
        wait: Wait while another process holds the lock.

    Raises:
        UserError: Another process holds the lock, and `wait` is False.
        DiskFull: The disk has no space for the folder and the file.
    """
    with _full_disk_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("a+b", buffering=0)
    with file:
        if problem := _lock(file, folder, wait):
            text = f"{folder} has no lock ({problem}); nothing prevents a second process from writing to it"
            Console().print(text, style="yellow", markup=False)
            yield
            return
        if earlier := _owner(file):
            Console().print(f"{folder} was in use by {earlier}, which has ended; taking over", markup=False)
        with _full_disk_explained(folder):
            _write_owner(file)
        try:
            yield
        finally:
            file.truncate(0)  # the file remains: another process may wait for its lock


def _lock(file: BinaryIO, folder: Path, wait: bool) -> str:
    """Lock a file, and return why the system cannot lock it; "" = it is locked."""
    if sys.platform == "win32":
        return "pr2l locks no files on Windows"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        in_use = f"{folder} is in use by {_owner(file) or 'another process'}"
        if not wait:
            raise UserError(f"{in_use}; wait until it ends, or name another folder") from None
        Console().print(f"{in_use}; waiting until it ends", markup=False)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return f"{error.strerror}"
    return ""


def _full_disk_explained(folder: Path) -> AbstractContextManager[None]:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    next_step = "free some space, or name a folder on another disk"
    return full_disk_explained(existing, f"the first files of {folder}", BLOCK, next_step)


def _owner(file: BinaryIO) -> str:
    """Describe the process that a lock file names; "" if it names none."""
    file.seek(0)
    text = file.read()
    if not text:
        return ""
    try:
        owner = json.loads(text)
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):  # a process was killed while it wrote its name
        return "another process"


def _write_owner(file: BinaryIO) -> None:
    file.truncate(0)
    since = datetime.now().isoformat(sep=" ", timespec="seconds")
    file.write(json.dumps({"process": os.getpid(), "host": platform.node(), "since": since}).encode())
