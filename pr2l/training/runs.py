"""Run folder, with everything needed to repeat a run, and its results.

config.yaml    the resolved config          metrics.csv, tensorboard/   one row per update
run.json       commit, packages, machine    curves.png                  return and success over steps
checkpoints/   see checkpoints.py           results.json, video.mp4     evaluation episodes
"""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pr2l.core.config import RunConfig, load_config, run_config_file
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.core.machine import machine
from pr2l.training import checkpoints
from pr2l.training.checkpoints import Checkpoint
from pr2l.training.metrics import Table

# Keys that may change when a run is resumed.
MAY_CHANGE = {"why", "steps", "checkpoint_every", "evaluation_episodes", "evaluation_greedy", "evaluations"}
MAY_CHANGE |= {"wandb", "workers", "step_groups", "isolated", "timeouts", "on_bad_value"}
RESULTS = {"steps": int, "evaluation": dict, "played": dict}  # keys of results.json that comparisons read
SOURCE_FOLDERS = (":/pr2l", ":/environments", ":/policies", ":/prompts", ":/configs")  # with all plug-ins, for git


class Run:
    """Run folder; use `create`, `load` or `reopen` to get one.

    Args:
        path: The folder.
        config: Config of the run.
    """

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config

    @classmethod
    def create(cls, config: RunConfig, root: Path) -> Run:
        """Create a run folder, named after the config and the time, with config.yaml and run.json.

        Args:
            config: Config of the run.
            root: Parent of the new folder.
        """
        started = datetime.now()
        prompt = config.prompt.rpartition("/")[2] if config.prompt else "no_prompt"
        method = f"{config.encoder}-{prompt}" if config.encoder == "prompted" else config.encoder
        if config.algorithm != "ppo":
            method = f"{config.algorithm}-{method}"
        name = f"{config.environment}-{config.task}-{method}-seed{config.seed}"
        path = _new_folder(root / f"{name}-{started:%Y%m%d-%H%M%S}")
        config.save(path / "config.yaml")
        facts = {"started": started.isoformat(timespec="seconds"), "seed": config.seed, **_origin()}
        write_json(path / "run.json", facts)
        return cls(path, config)

    @classmethod
    def load(cls, path: Path | str) -> Run:
        """Open an existing run.

        Args:
            path: The run folder; only its config.yaml is read.

        Raises:
            UserError: The folder is not a run folder, or its config is not valid.
        """
        return cls(Path(path), load_config(run_config_file(path)))

    @classmethod
    def reopen(cls, path: Path, config: RunConfig) -> Run:
        """Open an existing run to resume it.

        Args:
            path: Run folder.
            config: Config that replaces config.yaml; only the keys of MAY_CHANGE may differ from it.

        Raises:
            UserError: The folder is not a run folder, or other keys differ.
        """
        run = cls.load(path)
        facts, old, new = run.facts(), run.config.model_dump(mode="json"), config.model_dump(mode="json")
        changed_keys = [key for key in new if new[key] != old[key] and key not in MAY_CHANGE]
        if changed_keys:
            details = "; ".join(f"{key} was {old[key]!r} and is now {new[key]!r}" for key in changed_keys)
            raise UserError(
                f"{path} cannot be resumed with a different config: {details}. Resume it with its own config "
                f"(`pr2l train --resume {path}`), where only {', '.join(sorted(MAY_CHANGE))} may change, "
                "or start a new run."
            )
        config.save(path / "config.yaml")
        _note_code(path / "run.json", facts)
        return cls(path, config)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def facts(self) -> dict[str, Any]:
        """Read run.json: seed, command, commit, machine and packages.

        Raises:
            UserError: The file is missing or damaged.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise UserError(f"{self.path} has no run.json, which `pr2l train` writes; copy the whole run folder")
        return read_json(path)

    def results(self) -> dict[str, Any]:
        """Read results.json, see `evaluate.report`.

        Raises:
            UserError: The run has not been evaluated, or the file is damaged.
        """
        path = self.path / "results.json"
        if not path.exists():
            raise UserError(f"{self.path} has no evaluation; run `pr2l evaluate {self.path}`")
        next_step = f"`pr2l evaluate {self.path}` writes it again."
        results = read_json(path, next_step)
        if wrong := [key for key, kind in RESULTS.items() if not isinstance(results.get(key), kind)]:
            raise DamagedFile(path, f"it has no valid {', '.join(wrong)}", next_step)
        return results

    def metrics(self) -> list[dict[str, str]]:
        """Read the rows of metrics.csv, text by column.

        Raises:
            UserError: The file is damaged, or it ends before the step of results.json.
        """
        path = self.path / "metrics.csv"
        rows = Table(path).rows()
        if not (self.path / "results.json").exists():
            return rows
        last, steps = (rows[-1]["step"] if rows else "0"), self.results()["steps"]
        if not last.isdigit() or int(last) < steps:
            problem = f"it ends at step {last}, and results.json is of step {steps:,}"
            raise DamagedFile(path, problem, "Train the run again.")
        return rows

    def latest(self, *, remove_damaged: bool = False) -> Checkpoint:
        """Read the newest readable checkpoint; see `checkpoints.read_latest`.

        Args:
            remove_damaged: Remove newer checkpoints that are damaged.

        Raises:
            UserError: The run has no readable checkpoint.
        """
        return checkpoints.read_latest(self.checkpoints, remove_damaged=remove_damaged)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; see `checkpoints.write`.

        Args:
            checkpoint: State of the training; older checkpoints are removed, all but the newest KEEP.

        Raises:
            CheckpointNotWritten: It cannot be written, for example because the disk is full.
        """
        checkpoints.write(self.checkpoints, checkpoint)


def _new_folder(path: Path) -> Path:
    """Create a folder, with a number after its name if the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, 1000):
        candidate = path if attempt == 1 else path.with_name(f"{path.name}-{attempt}")
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            continue
    raise UserError(f"{path} and 998 numbered folders of that name exist already; remove some from {path.parent}")


def _origin() -> dict[str, Any]:
    """Return what is needed to repeat the run besides the config: command, code, Python, machine and packages."""
    return {
        "command": sys.argv,
        **code(),
        "python": platform.python_version(),
        "machine": machine(),
        "packages": _packages(),
    }


@cache
def _packages() -> dict[str, str]:
    """Return the versions of all installed packages by name; cached, because reading them takes half a second."""
    return dict(sorted((package.metadata["Name"], package.version) for package in distributions()))


def code() -> dict[str, Any]:
    """Return the git commit, and whether files differ from it or plug-ins are not in it."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    added = _git("status", "--porcelain", "--untracked-files=all", "--", *SOURCE_FOLDERS)
    return {"commit": _git("rev-parse", "HEAD"), "uncommitted": bool(changed or added)}


def _note_code(path: Path, facts: dict[str, Any]) -> None:
    """Note in run.json if the run is resumed with other code, because then no single commit can repeat it."""
    now = code()
    if any(facts.get(key) != value for key, value in now.items()):
        write_json(path, facts | {"uncommitted": True, "went_on_at": now["commit"]})


def _git(*words: str) -> str | None:
    """Return the output of git in this project's folder; None if that is not a checkout or git is missing."""
    try:
        output = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return output.stdout.strip()
