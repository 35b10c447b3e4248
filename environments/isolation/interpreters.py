"""Where the simulators' own Python interpreters are, and their environment variables."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """The folder of the interpreter that `pr2l sim install NAME` makes.

    It is in $PR2L_SIMS, by default ~/.local/share/pr2l/sims.
    """
    return Path(os.environ.get("PR2L_SIMS") or "~/.local/share/pr2l/sims").expanduser() / name


def interpreter(name: str, own: str | None = None) -> Path:
    """The Python interpreter that a simulator runs in.

    Args:
        name: The simulator.
        own: The user's own interpreter; None = the one of `pr2l sim install NAME`.

    Raises:
        ValueError: There is none; the text says how to get one.
    """
    python = Path(own).expanduser() if own else folder(name) / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python
    if own:
        raise ValueError(f"{own} is no Python interpreter; name one, such as /opt/conda/envs/{name}/bin/python")
    raise ValueError(
        f"the simulator {name} is not installed (there is no {python}): run `pr2l sim install {name}`, or name an "
        "interpreter that has it with environment_options.python=PATH"
    )


def variables(more: dict[str, str]) -> dict[str, str]:
    """Environment variables for a simulator: this process's, without those that name its packages, and `more`."""
    ours = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**ours, **more}
