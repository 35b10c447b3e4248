"""Folder of a user for a simulator's temporary files and locks; Python >= 3.9."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from ..base import UserError


def folder(simulator: str) -> Path:
    """Return the user's own temporary folder for a simulator, and make it if it is missing.

    Args:
        simulator: The name of the simulator, such as "minecraft".

    Raises:
        UserError: If the folder belongs to another user, or is a link. That user could redirect what is written.
    """
    path = Path(tempfile.gettempdir()) / f"pr2l-{simulator}-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(
            f"{path} is not a folder of this user with mode 0700; remove it, or set TMPDIR to another folder"
        )
    return path


def open_lock(simulator: str, name: str) -> int:
    """Open a lock file in the folder of a simulator, and follow no link.

    Args:
        simulator: The name of the simulator.
        name: The name of the lock, such as the port of a server.

    Returns:
        The file descriptor.
    """
    return os.open(folder(simulator) / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
