"""Descriptions of how a process ended: its exit code, or the signal that killed it and the usual cause."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # only on Linux
GIGABYTE = 1e9


def describe_exit(code: int | None) -> str:
    """Describe the end of a process, e.g. "killed by SIGKILL, which usually means that memory ran out (...)".

    Args:
        code: The exit code as in `subprocess` and `multiprocessing`: -n = killed by signal n, None = it still runs.
    """
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"killed by signal {-code}"
    cause = _cause(name)
    return f"killed by {name}, which usually means {cause}" if cause else f"killed by {name}"


def _cause(name: str) -> str:
    """Return the usual cause of a signal, with the state of the machine; "" if there is no usual cause."""
    if name == "SIGKILL":
        return f"that memory ran out ({_memory()}; a container or a cluster job may have less)"
    if name == "SIGBUS":
        return f"that a disk or {SHARED_MEMORY} is full{_shared_memory()}"
    if name == "SIGSEGV":
        return "a crash in compiled code, e.g. of a library in a temporary folder that is mounted noexec (see TMPDIR)"
    return {
        "SIGABRT": "that compiled code gave up; its reason is in its last messages",
        "SIGILL": "a library that was built for another processor",
        "SIGTERM": "that a user, a scheduler or a shutdown of the machine ended it",
        "SIGXCPU": "that a limit of CPU time was reached (`ulimit -t`)",
    }.get(name, "")


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.available / GIGABYTE:.1f} of {memory.total / GIGABYTE:.1f} GB are available now"


def _shared_memory() -> str:
    if not SHARED_MEMORY.is_dir():
        return ""
    space = shutil.disk_usage(SHARED_MEMORY)
    return f" ({SHARED_MEMORY} has {space.free / GIGABYTE:.1f} of {space.total / GIGABYTE:.1f} GB free now)"
