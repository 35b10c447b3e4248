"""Installation and checks of simulators in their own Python environments, for `pr2l sim`.

A recipe, configs/sims/NAME.yaml, is installed into the folder $PR2L_SIMS/NAME, with a log in NAME.log beside it. A
stamp with the recipe's digest is written last, so an interrupted installation is started again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
from pydantic import BaseModel, ConfigDict, Field
from rich.markup import escape
from rich.table import Table

from pr2l.core import digest, registry
from pr2l.core.config import read_config
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.io import write_text
from pr2l.core.lock import locked
from pr2l.environments import base
from pr2l.environments.isolation.exit_codes import describe_exit
from pr2l.environments.isolation.interpreters import folder, interpreter, variables
from pr2l.environments.isolation.isolated import WORKER, Isolated

STAMP = "pr2l-recipe.json"
CONDA = ("conda", "mamba", "micromamba")  # any of them will do
CHECKS = 600  # seconds for all checks of a simulator
LAST_LINES = 20  # of a log, in an error


class Recipe(BaseModel):
    """Recipe for installing a simulator and checking the installation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    module: str  # the remote module, see Isolated
    task: str | None = None  # the task of the example frame; null = none
    options: dict[str, Any] = Field(default_factory=dict)  # options of the module for the checks and that frame
    python: tuple[str, ...]  # versions that work, e.g. "3.9"; the preferred one first
    conda: tuple[str, ...] = ()  # arguments of `conda create`; empty = use a venv
    steps: tuple[tuple[str, ...], ...]  # arguments of `pip install`, one tuple per call
    environment: dict[str, str] = Field(default_factory=dict)  # environment variables for installation and checks
    needs: tuple[str, ...] = ()  # other requirements of the machine

    @property
    def digest(self) -> str:
        """The digest of the fields that determine the installation."""
        return digest.of_json([self.python, self.conda, self.steps])


@dataclass(frozen=True)
class Link:
    """Result of the check of one part of an installation.

    Args:
        name: The part, such as "Java 8".
        works: Whether it works.
        found: The version, the file or the error that the check found.
        step: The next step for the user if the part does not work.
    """

    name: str
    works: bool
    found: str
    step: str = ""


def names() -> list[str]:
    """Return the names of all simulators that have a recipe."""
    return [name.removeprefix("sims/") for name in registry.names("configs") if name.startswith("sims/")]


def load(name: str) -> Recipe:
    """Read the recipe of a simulator.

    Args:
        name: A name of `names`, which is that of the file in configs/sims/.

    Raises:
        UnknownName: If there is none.
    """
    if name not in (recipes := names()):
        raise UnknownName("simulators", name, recipes, hint="`pr2l sim list` shows all of them.")
    return read_config(Recipe, f"sims/{name}")


def show() -> None:
    """Print all simulators and whether each is installed."""
    table = Table("simulator", "installed", "", box=None, pad_edge=False)
    for name in names():
        recipe = load(name)
        needs = f" Needs {', '.join(recipe.needs)}." if recipe.needs else ""
        table.add_row(name, _state(name, recipe), escape(recipe.why + needs))
    Console().print(table)


def install(name: str, python: Path | None = None) -> Path:
    """Install a simulator, unless it is installed already.

    Args:
        name: The simulator.
        python: The interpreter that creates the virtual environment, not used with conda; None = the first of the
            recipe's versions that is on the PATH.

    Returns:
        The simulator's Python interpreter.

    Raises:
        UserError: If a step fails; the message has the last lines of its output.
    """
    recipe, place = load(name), folder(name)
    with locked(place.with_name(f".lock-{name}"), wait=True):  # not in the folder itself, which venv clears
        return _install(name, recipe, place, python)


def _install(name: str, recipe: Recipe, place: Path, python: Path | None) -> Path:
    console = Console()
    if _state(name, recipe) == "yes":
        console.print(f"{name} is installed in {place}; delete that folder to install it again", markup=False)
        return interpreter(name)
    _check_place(place)
    commands = [_creation(name, recipe, place, python)]
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    commands += [[*pip, *step] for step in recipe.steps]
    log = place.with_name(f"{name}.log")
    log.write_bytes(b"")
    for number, command in enumerate(commands, start=1):
        title = f"{number} of {len(commands)}: {_short(command)}"
        with console.status(escape(title)):
            seconds = _run(command, log, recipe.environment, f"`pr2l sim install {name}`")
        console.print(escape(f"{title} ({seconds:.0f} s)"))
    stamp = {"digest": recipe.digest, "recipe": recipe.model_dump(mode="json")}
    write_text(place / STAMP, json.dumps(stamp, indent=1))
    console.print(f"{name} is installed in {place}; next: `pr2l sim check {name}`", markup=False)
    return interpreter(name)


def check(name: str, python: Path | None = None, frame: Path | None = None) -> bool:
    """Check each part of an installation and print the results, with the next step if a part does not work.

    Args:
        name: The simulator.
        python: The interpreter to check; None = the installed one.
        frame: The PNG file for an example frame; None = runs/NAME.png.

    Returns:
        Whether all parts work.
    """
    console, table = Console(), Table("part", "found", "works", title=name)
    links = list(_links(name, load(name), python, frame or Path("runs") / f"{name}.png"))
    for link in links:
        table.add_row(escape(link.name), escape(link.found), "[green]yes[/]" if link.works else "[bold red]no[/]")
    console.print(table)
    missing = [link for link in links if not link.works]
    if missing:
        console.print(f"next step: {escape(missing[0].step)}", soft_wrap=True, highlight=False)
    return not missing


def _links(name: str, recipe: Recipe, python: Path | None, frame: Path) -> Iterator[Link]:
    try:
        far = interpreter(name, str(python) if python else None)
    except base.UserError as error:
        yield Link("interpreter", False, "none", str(error))
        return
    yield Link("interpreter", True, str(far))
    links = list(_far_links(recipe, far))
    yield from links
    if recipe.task is not None and all(link.works for link in links):
        yield _frame(name, recipe, far, frame)


def _far_links(recipe: Recipe, far: Path) -> Iterator[Link]:
    """Yield the results of the remote module's checks() in the interpreter `far`."""
    command = [str(far), "-s", str(WORKER), "--check", recipe.module, json.dumps(recipe.options)]
    try:
        done = subprocess.run(
            command, env=variables(recipe.environment), stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECKS
        )
    except subprocess.TimeoutExpired:
        step = f"run this to see where it hangs: {shlex.join(command)}"
        yield Link("checks", False, f"not finished after {CHECKS} s", step)
        return
    yield from (Link(*json.loads(line)) for line in done.stdout.splitlines())
    if done.returncode:
        problem = f"ended with {describe_exit(done.returncode)}\n{_last_lines(done.stderr)}"
        yield Link("checks", False, problem, f"fix this error; to see it again, run {shlex.join(command)}")


def _frame(name: str, recipe: Recipe, far: Path, picture: Path) -> Link:
    """Write a frame of an episode to a file."""
    try:
        env = Isolated(
            recipe.module,
            recipe.task or "",
            recipe.options,
            split="train",
            labels=False,
            python=far,
            env=recipe.environment,
            name=name,
        )
        with closing(env):
            observation, _ = env.reset(seed=0)
    except (base.UserError, RuntimeError) as error:
        return Link("frame", False, str(error), f"fix the error in its log, then run `pr2l sim check {name}` again")
    picture.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(picture, observation["frame"])
    return Link("frame", True, str(picture))


def _state(name: str, recipe: Recipe) -> str:
    stamp = folder(name) / STAMP
    if not stamp.is_file():
        return "no"
    try:
        return "yes" if json.loads(stamp.read_text())["digest"] == recipe.digest else "outdated"
    except (ValueError, LookupError, TypeError):  # damaged: it is installed again
        return "outdated"


def _check_place(place: Path) -> None:
    ours = (place / "pyvenv.cfg", place / "conda-meta")
    if place.exists() and any(place.iterdir()) and not any(file.exists() for file in ours):
        raise UserError(
            f"{place} exists and is not a Python environment; move it away, or set PR2L_SIMS to another folder"
        )


def _creation(name: str, recipe: Recipe, place: Path, python: Path | None) -> list[str]:
    """Return the command that creates the Python environment, without packages."""
    if not recipe.conda:
        return [str(_base(name, recipe, python)), "-m", "venv", "--clear", str(place)]
    conda = next((path for program in CONDA if (path := shutil.which(program))), None)
    if conda is None:
        raise UserError(
            f"{name} needs conda, which is not on the PATH: install Miniforge (https://conda-forge.org/download), "
            "open a new shell, and try again"
        )
    return [conda, "create", "--yes", "--prefix", str(place), f"python={recipe.python[0]}", *recipe.conda]


def _base(name: str, recipe: Recipe, python: Path | None) -> Path:
    """Return a Python interpreter of a version that the recipe allows."""
    versions = " or ".join(recipe.python)
    if python is not None:
        if _version(python) not in recipe.python:
            version = _version(python) or "not a Python interpreter"
            raise UserError(f"{name} needs Python {versions}; {python} is {version}")
        return python
    for version in recipe.python:
        for candidate in (sys.executable, shutil.which(f"python{version}")):
            if candidate and _version(Path(candidate)) == version:
                return Path(candidate)
    raise UserError(f"{name} needs Python {versions}, which is not on the PATH; install it, or use --python PATH")


def _version(python: Path) -> str | None:
    """Return the version of an interpreter, e.g. "3.11"; None if it does not run."""
    try:
        command = [str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _run(command: Sequence[str], log: Path, environment: dict[str, str], again: str) -> float:
    """Run a step of an installation and return its duration in seconds."""
    begun = time.monotonic()
    with log.open("ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        done = subprocess.run(
            command, env=variables(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        raise UserError(
            f"`{' '.join(command)}` failed with exit code {done.returncode}; its last lines:\n"
            f"{_last_lines(log.read_bytes())}\n"
            f"The whole log is {log}. Fix the problem, then run {again} again."
        )
    return time.monotonic() - begun


def _short(command: Sequence[str]) -> str:
    """Return a command without its paths, for display."""
    if "pip" in command:
        return "pip install " + " ".join(command[command.index("--no-input") + 1 :])
    return os.path.basename(command[0]) + " " + " ".join(command[1:])


def _last_lines(text: bytes) -> str:
    return "\n".join(text.decode(errors="replace").splitlines()[-LAST_LINES:])
