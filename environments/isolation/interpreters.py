"""Where the simulators' own Python interpreters are, and what they start with."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """Of the interpreter that `pr2l sim install NAME` makes: in $PR2L_SIMS, by default in ~/.local/share/pr2l/sims."""
    return Path(os.environ.get("PR2L_SIMS") or "~/.local/share/pr2l/sims").expanduser() / name


def interpreter(name: str, given: str | None = None) -> Path:
    """The Python that a simulator runs in. given: the user's own; None = the one of `pr2l sim install NAME`.

    Raises ValueError, with the next step, where there is none.
    """
    python = Path(given).expanduser() if given else folder(name) / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python
    if given:
        raise ValueError(f"{given} is no Python interpreter; name one, such as /opt/conda/envs/{name}/bin/python")
    raise ValueError(
        f"the simulator {name} is not installed (there is no {python}): run `pr2l sim install {name}`, or name an "
        "interpreter that has it with environment_options.python=PATH"
    )


def variables(more: dict[str, str]) -> dict[str, str]:
    """The environment variables for a simulator: ours without those that name our packages, and some more."""
    ours = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {**ours, **more}
