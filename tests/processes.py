"""Helpers for tests that start other processes."""

import os
import traceback
from collections.abc import Callable

import psutil

TIMEOUT = 130  # seconds to wait for another process, on a machine with other load


def command_line(process: psutil.Process) -> str:
    """Return the command line of a process, or an empty string if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def run_in_fork(function: Callable[[], None]) -> int:
    """Run a function in a fork of this process, which needs no imports, and return its exit code.

    Not for functions that train: on a machine with a GPU, torch's autograd does not work after a fork.

    Returns:
        0 if the function has returned, 1 if it has raised, -N if signal N has ended the process.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
