"""Paths and environment variables of the simulators' own Python interpreters."""

from __future__ import annotations

import os
from pathlib import Path

from ..base import UserError


def folder(name: str) -> Path:
    """Return the folder in which `pr2l sim install NAME` makes the interpreter.

    It is in $PR2L_SIMS, by default ~/.local/share/pr2l/sims.

    Args:
        name: Name of the simulator. The folder need not exist.
    """
    return Path(os.environ.get("PR2L_SIMS") or "~/.local/share/pr2l/sims").expanduser() / name


def interpreter(name: str, path: str | None = None) -> Path:
    """Return the Python interpreter of a simulator.

    Args:
        name: The simulator.
        path: The path of the user's own interpreter; None = the one of `pr2l sim install NAME`.

    Raises:
        UserError: If there is no such interpreter; the message says how to get one.
    """
    python = Path(path).expanduser() if path else folder(name) / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python
    if path:
        raise UserError(f"{path} is not a Python interpreter; use one such as /opt/conda/envs/{name}/bin/python")
    raise UserError(
        f"the simulator {name} is not installed (there is no {python}); run `pr2l sim install {name}`, or set "
        "environment_options.python to a Python interpreter that has it"
    )


def variables(more: dict[str, str]) -> dict[str, str]:
    """Return the environment variables for a simulator.

    These are the variables of this process, without PYTHONPATH and PYTHONHOME, which belong to another interpreter.

    Args:
        more: Further variables.
    """
    ours = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**ours, **more}
