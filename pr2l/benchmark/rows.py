"""Rows of a benchmark: a JSON file for each run, with all that it takes to believe it and to make it again.

    <folder>/<suite>/<environment>-<task>-<method>-seed<n>.json
                                                          .mp4     a film of it, where one was submitted
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from pr2l.benchmark.compare import curve
from pr2l.benchmark.suites import Name, Suite, load_suite, names, names_with, row_name
from pr2l.core import registry
from pr2l.core.errors import UserError, explain
from pr2l.core.io import write_json
from pr2l.training.metrics import Table as MetricsTable
from pr2l.training.runs import Run

COST = "cost.json"  # in the folder of a run that `pr2l bench run` made
POINTS = 60  # of a row's curve
RECENT = 20  # episodes that it averages over; short runs play few
FILMS = (".mp4", ".gif")
TOLD = ("torch", "transformers", "stable_baselines3", "gymnasium", "vizdoom", "numpy")  # packages named in a row
LESSON = "A row that lacks the commit or the command is refused: nobody could make it again."


class Cost(BaseModel):
    """What making a run took. None = not measured, as of a run that was stopped in between."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: PositiveInt | None = None  # of torch in each process
    seconds: PositiveFloat | None = None  # from the first look for a checkpoint to the end of the evaluation
    peak_memory: PositiveInt | None = None  # bytes of the process that trains, at its highest
    gflop: NonNegativeFloat | None = None  # 1e9 floating-point operations of the encoder for a frame


class Curve(BaseModel):
    """Of training, over the last RECENT episodes; None = fewer have ended: those that end first are the successes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[float, ...]
    success: tuple[float | None, ...]
    returned: tuple[float | None, ...]


class Row(BaseModel):
    """One run of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    version: PositiveInt  # of the suite
    task: str  # "<environment>/<task>"
    method: Name
    seed: NonNegativeInt
    command: Annotated[str, Field(min_length=1)]  # makes the run
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # of this project
    uncommitted: bool  # whether files differed from that commit
    started: str
    machine: str
    python: str
    packages: dict[str, str]
    frames_per_second: PositiveFloat  # environment steps a second of training, updates included
    cost: Cost
    config: dict[str, Any]  # resolved
    results: dict[str, Any]  # results.json of the run
    curve: Curve

    @property
    def name(self) -> str:
        return row_name(self.task, self.method, self.seed)

    def played(self, key: str) -> list[float]:
        """key: "success" or "return" of each evaluation episode."""
        values: list[float] = self.results["played"][key]
        return values

    @property
    def success(self) -> float:
        """The success rate."""
        return float(np.mean(self.played("success")))


def row_of(run: Run, suite: Suite, method: str | None = None) -> Row:
    """The row that a finished run is in a suite.

    method: None = whichever of the suite's has its config. Raises UserError for a run that is none of the suite's, is
    not evaluated, or does not know its commit.
    """
    config = run.config.model_dump(mode="json")
    task = f"{run.config.environment}/{run.config.task}"
    method = method or _method(run, suite, config)
    _check_config(suite, task, method, config, str(run.path))
    facts, results = _read(run.path / "run.json"), _read(run.path / "results.json")
    if not facts["commit"]:
        raise UserError(f"{run.path} was not made in a checkout of this project, so it has no commit. {LESSON}")
    asked = suite.cell(task, method, run.config.seed).command if method in suite.methods else _typed(facts["command"])
    last = MetricsTable(run.path / "metrics.csv").rows()[-1]
    values = {
        "suite": suite.name,
        "version": suite.definition.version,
        "task": task,
        "method": method,
        "seed": run.config.seed,
        "command": asked,
        **{key: facts[key] for key in ("commit", "uncommitted", "started", "machine", "python")},
        "packages": {name: version for name, version in facts["packages"].items() if name.lower() in TOLD},
        "frames_per_second": float(last["step"]) / max(float(last["seconds"]), 1e-9),
        "cost": _read(run.path / COST) if (run.path / COST).exists() else {},
        "config": config,
        "results": results,
        "curve": _curve(run),
    }
    return check(validated(values, str(run.path)), suite, str(run.path))


def check(row: Row, suite: Suite, where: str) -> Row:
    """The row itself. Raises UserError, with `where`, if it is not what the suite asks for or contradicts itself."""
    if (row.suite, row.version) != (suite.name, suite.definition.version):
        now = f"{suite.name} is at version {suite.definition.version}"
        raise UserError(f"{where} is of version {row.version} of {row.suite}, and {now}; run it again")
    _check_config(suite, row.task, row.method, row.config, where)
    _check_whole(row, where)
    episodes = suite.definition.evaluation_episodes
    if [len(row.played(key)) for key in ("success", "return")] != [episodes] * 2:
        raise UserError(f"{where} has not the {episodes} evaluation episodes of {suite.name}; see `pr2l evaluate`")
    if row.seed != row.config["seed"]:
        raise UserError(f"{where} is called seed {row.seed}, and its config has seed {row.config['seed']}")
    if row.results["steps"] < row.config["steps"]:
        raise UserError(f"{where} was evaluated after {row.results['steps']:,} of {row.config['steps']:,} steps")
    if not abs(row.success - row.results["evaluation"]["success"]["value"]) < 1e-9:
        raise UserError(f"{where}: its success rate is not the mean of its episodes; was it edited by hand?")
    return row


def _check_whole(row: Row, where: str) -> None:
    """Whether everything is there that reports and pages read of a row's results and curve."""
    try:
        played = np.array([row.played(key) for key in ("success", "return")], dtype=np.float64)
        numbers = [row.results[part]["success"]["value"] for part in ("random", "evaluation")]
        numbers += [row.results["evaluation"]["length"], row.results["steps"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its results are not whole: {error!r}") from error
    if not np.isfinite(played).all() or not np.isin(played[0], (0, 1)).all() or not np.isfinite(numbers).all():
        raise UserError(f"{where}: success is 0 or 1 of each episode, and all else a number")
    if {len(row.curve.steps), len(row.curve.success), len(row.curve.returned)} != {POINTS}:
        raise UserError(f"{where}: its curve has not {POINTS} points")


def _check_config(suite: Suite, task: str, method: str, config: dict[str, Any], where: str) -> None:
    if wrong := suite.differences(task, method, config):
        raise UserError(f"{where} is no run of {suite.name}: {'; '.join(wrong)}")


def validated(values: Any, where: str) -> Row:
    """Raises UserError for keys or values that a row does not have."""
    try:
        return Row.model_validate(values)
    except ValidationError as error:
        missing = any(problem["loc"][:1] in (("commit",), ("command",)) for problem in error.errors())
        raise UserError(explain(error, where, Row) + (f"\n{LESSON}" if missing else "")) from error


def read_row(path: Path) -> Row:
    """Raises UserError for what is no row, or is called otherwise than the row that it holds."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    row = validated(values, str(path))
    if path.stem != row.name or path.parent.name != row.suite:
        raise UserError(f"{path} holds the row {row.suite}/{row.name}; give it that name")
    return row


def read_rows(folder: Path, suite: Suite) -> list[Row]:
    """All rows of a suite below a folder, in the suite's order, then other methods'; each is checked."""
    rows = [check(read_row(path), suite, str(path)) for path in sorted((folder / suite.name).glob("*.json"))]
    order = [*suite.methods, *sorted({row.method for row in rows} - set(suite.methods))]
    return sorted(rows, key=lambda row: (suite.tasks.index(row.task), order.index(row.method), row.seed))


def write_row(path: Path, row: Row) -> None:
    """One line for each key, so that a change can be read."""
    write_json(path, row.model_dump(mode="json"), lines=True)


def film_of(row: Path) -> Path | None:
    """The film beside the file of a row, or beside the results of a run; None where there is none."""
    return next((row.with_suffix(kind) for kind in FILMS if row.with_suffix(kind).exists()), None)


def submit(path: Path, out: Path, suite: str | None = None, method: str | None = None, *, film: bool = False) -> Path:
    """Writes the row of a run folder to `out`, as a file for a pull request, and returns it.

    suite: None = the first one that the run is of. method: a name for what the suite does not have; it needs `suite`.
    film: also copy the run's. Raises UserError where the run does not fit, or there is another's row in its place.
    """
    run = Run.load(path)
    if method and not suite:
        raise UserError(f"which suite is {method!r} to stand in? Give --suite, one of {', '.join(names())}")
    chosen = load_suite(suite) if suite else _suite_of(run)
    row = row_of(run, chosen, method)
    place = out / chosen.name / f"{row.name}.json"
    if place.exists() and read_row(place) != row:
        raise UserError(f"{place} exists, and is of another run; delete it to replace it")
    filmed = film_of(run.path / "video")
    if film and not filmed:
        raise UserError(f"{run.path} has no film; `pr2l evaluate {run.path}` makes one")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_row(place, row)
    if film and filmed:
        shutil.copyfile(filmed, place.with_suffix(filmed.suffix))
    return place


def _suite_of(run: Run) -> Suite:
    config = run.config.model_dump(mode="json")
    task = f"{run.config.environment}/{run.config.task}"
    found = [suite for suite in map(load_suite, names_with(task)) if suite.place(config)]
    if not found:
        raise UserError(
            f"{run.path} is no run of {', '.join(names())}: tasks, steps, seeds and episodes are the suite's, see "
            "`pr2l list configs`. For a method of your own give --suite SUITE and --method NAME"
        )
    return found[0]


def _method(run: Run, suite: Suite, config: dict[str, Any]) -> str:
    if (place := suite.place(config)) is None:
        raise UserError(
            f"{run.path} has the config of none of the methods of {suite.name} ({', '.join(suite.methods)}); "
            "give it a name of its own with --method NAME"
        )
    return place[1]


def _typed(words: Sequence[str]) -> str:
    """What was typed, without the folders that the program lies in; UserError if only its author can type it."""
    program = Path(words[0])
    console = program.name == "pr2l" or program.match("pr2l/cli.py")
    config = words[2].removeprefix("configs/").removesuffix(".yaml") if len(words) > 2 else None
    if console and (words[1] != "train" or config not in registry.names("configs")):
        raise UserError(
            f"the run was made by `{shlex.join(['pr2l', *words[1:]])}`, which does not make this one run for anybody "
            "else; commit its config as configs/NAME.yaml, and train with `pr2l train NAME`"
        )
    return shlex.join(["pr2l", *words[1:]] if console else ["python", program.name, *words[1:]])


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}; `pr2l evaluate {path.parent}` ends an unfinished run")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _curve(run: Run) -> dict[str, list[float | None]]:
    metrics = MetricsTable(run.path / "metrics.csv").rows()
    steps = np.linspace(0, run.config.steps, POINTS + 1)[1:]
    full = (float(row["step"]) for row in metrics if float(row.get("episodes") or 0) >= RECENT)
    early = steps < next(full, np.inf)
    curves = {"steps": np.round(steps, 3).tolist()}
    for name, column in (("success", "success"), ("returned", "return")):
        values = np.where(early, np.nan, curve(metrics, column, steps, RECENT))
        curves[name] = [None if np.isnan(value) else round(float(value), 5) for value in values]
    return curves
