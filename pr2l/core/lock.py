"""Lock of a folder, so that two processes do not write to it at the same time."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from pr2l.core.console import Console
from pr2l.core.errors import UserError

NAME = ".lock"


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder; the file .lock names the process and the host.

    The operating system releases the lock when the process ends, even by kill -9. Then the file remains, and the next
    process says that it takes over the folder. In one process, the lock of a folder cannot be held twice.

    Args:
        folder: The folder. It is created if it does not exist.
        wait: Wait while another process holds the lock.

    Raises:
        UserError: Another process holds the lock, and `wait` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            in_use = f"{folder} is in use by {_owner(file) or 'another process'}"
            if not wait:
                raise UserError(f"{in_use}; wait until it ends, or name another folder") from None
            Console().print(f"{in_use}; waiting until it ends", markup=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        if earlier := _owner(file):
            Console().print(f"{folder} was in use by {earlier}, which has ended; taking over", markup=False)
        _write_owner(file)
        try:
            yield
        finally:
            file.truncate(0)  # the file remains: another process may wait for its lock


def _owner(file: TextIO) -> str:
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


def _write_owner(file: TextIO) -> None:
    file.truncate(0)
    since = datetime.now().isoformat(sep=" ", timespec="seconds")
    json.dump({"process": os.getpid(), "host": platform.node(), "since": since}, file)
    file.flush()
