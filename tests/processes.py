"""What tests ask of other processes, which may end at any moment."""

import psutil

PATIENCE = 130  # seconds to wait for one, which may have to share its cores with much else


def command_of(process: psutil.Process) -> str:
    """The command that it was started with; empty where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
