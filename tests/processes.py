"""Helpers for tests that start other processes."""

import psutil

TIMEOUT = 130  # seconds to wait for another process, on a machine with other load


def command_line(process: psutil.Process) -> str:
    """Return the command line of a process, or an empty string if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
