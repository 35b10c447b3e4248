"""Rows of a benchmark: one JSON file per run, with its results and everything needed to reproduce it.

<folder>/<suite>/<environment>-<task>-<method>-seed<n>.json
                                                      .mp4     a video of its evaluation episodes, optional
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from pr2l.benchmark.compare import curve, random_score
from pr2l.benchmark.public import check_public
from pr2l.benchmark.suites import Name, Suite, load_suite, names, names_with, row_name
from pr2l.core import registry
from pr2l.core.config import Seed
from pr2l.core.errors import UserError, explain
from pr2l.core.io import read_json, write_json
from pr2l.training.runs import Run

COST = "cost.json"  # in the folder of a run that `pr2l bench run` made
POINTS = 60  # number of points of a training curve
RECENT = 20  # episodes that a training curve averages over; short runs play few
VIDEOS = (".mp4", ".gif")
MODULES = ("pr2l/__main__.py", "pr2l/cli/__main__.py", "pr2l/cli.py")  # the program of `python -m`; the last is older
PACKAGES = ("torch", "transformers", "stable_baselines3", "gymnasium", "vizdoom", "numpy")  # a row has their versions
UNREPRODUCIBLE = "A row needs the commit and the command of its run, so that others can reproduce it."


class Cost(BaseModel):
    """Resources that a run took; None = not measured, for example because the run was resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: PositiveInt | None = None  # of torch in each process
    seconds: PositiveFloat | None = None  # wall-clock, from loading the VLM to the end of the evaluation, see runner
    peak_memory: PositiveInt | None = None  # bytes of the training process
    gflop: NonNegativeFloat | None = None  # 1e9 floating-point operations of the encoder per frame


class Curve(BaseModel):
    """Training curve, averaged over the last RECENT episodes.

    Values are None until RECENT episodes have ended. If success ends an episode, the first episodes to end are the
    successful ones, and an average over fewer episodes would be too high.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[float, ...]
    success: tuple[float | None, ...]
    returned: tuple[float | None, ...]


class Row(BaseModel):
    """One run of a suite, as its JSON file stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    version: PositiveInt  # of the suite
    task: str  # "<environment>/<task>"
    method: Name
    seed: Seed
    command: Annotated[str, Field(min_length=1)]  # that makes the run
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]  # of this project
    uncommitted: bool  # whether tracked files differed from that commit
    started: str
    machine: str
    python: str
    packages: dict[str, str]
    # environment steps per second of training, including updates; of a player that does not learn, of its run
    frames_per_second: PositiveFloat
    cost: Cost
    config: dict[str, Any]  # resolved
    results: dict[str, Any]  # results.json of the run
    curve: Curve

    @property
    def name(self) -> str:
        """The name of the row's file, without suffix."""
        return row_name(self.task, self.method, self.seed)

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Names of the run's further evaluations; rows of earlier versions have none."""
        return tuple(self.config.get("evaluations", ()))

    def played(self, key: str, evaluation: str | None = None) -> list[float]:
        """Return the values of all evaluation episodes.

        Args:
            key: "success" or "return".
            evaluation: One of `evaluations`; None = the evaluation on held-out seeds.

        Returns:
            One value per episode, in the order of results.json.
        """
        values: list[float] = self.section(evaluation)["played"][key]
        return values

    def section(self, evaluation: str | None) -> dict[str, Any]:
        """Return the results of an evaluation: "evaluation", "random" and "played".

        Args:
            evaluation: One of `evaluations`; None = the evaluation on held-out seeds.
        """
        section: dict[str, Any] = self.results if evaluation is None else self.results["evaluations"][evaluation]
        return section

    @property
    def success(self) -> float:
        """The success rate over the evaluation episodes, from 0 to 1."""
        return float(np.mean(self.played("success")))


def row_of(run: Run, suite: Suite, method: str | None = None) -> Row:
    """Return the row of a finished run.

    Args:
        run: A run that has been evaluated.
        suite: The suite that the run belongs to.
        method: Name of the run's method; None = the suite's method with the same config.

    Raises:
        UserError: If the run does not belong to the suite, has not been evaluated, or has no commit.
    """
    config = run.config.model_dump(mode="json")
    task = f"{run.config.environment}/{run.config.task}"
    facts, results = run.facts(), run.results()
    method = method or _method(run, suite, config, results.get("player"))
    _check_config(suite, task, method, config, str(run.path))
    if not facts["commit"]:
        raise UserError(f"{run.path} was trained outside a git checkout, so it has no commit. {UNREPRODUCIBLE}")
    command = (
        suite.plan(task, method, run.config.seed).command
        if method in suite.methods
        else _command_line(facts["command"])
    )
    last, scores = run.metrics()[-1], results["evaluation"]
    steps = float(last["step"]) or scores["episodes"] * scores["length"]  # a player takes steps only in the evaluation
    values = {
        "suite": suite.name,
        "version": suite.definition.version,
        "task": task,
        "method": method,
        "seed": run.config.seed,
        "command": command,
        **{key: facts[key] for key in ("commit", "uncommitted", "started", "machine", "python")},
        "packages": {name: version for name, version in facts["packages"].items() if name.lower() in PACKAGES},
        "frames_per_second": steps / max(float(last["seconds"]), 1e-9),
        "cost": read_json(run.path / COST) if (run.path / COST).exists() else {},
        "config": config,
        "results": results,
        "curve": _curve(run),
    }
    return check(validated(values, str(run.path)), suite, str(run.path))


def check(row: Row, suite: Suite, where: str) -> Row:
    """Check that a row has the suite's current version and config, and is consistent.

    Args:
        row: The row.
        suite: The suite of the row.
        where: The file or folder that the row comes from, for error messages.

    Returns:
        The row, unchanged.

    Raises:
        UserError: If one of these checks fails.
    """
    if (row.suite, row.version) != (suite.name, suite.definition.version):
        current = f"{suite.name} is at version {suite.definition.version}"
        raise UserError(f"{where} is of version {row.version} of {row.suite}, and {current}; run it again")
    _check_config(suite, row.task, row.method, row.config, where)
    for evaluation in (None, *row.evaluations):
        _check_complete(row, where, evaluation)
    if {len(row.curve.steps), len(row.curve.success), len(row.curve.returned)} != {POINTS}:
        raise UserError(f"{where}: its curve must have {POINTS} points")
    episodes, evaluations = suite.definition.evaluation_episodes, (None, *row.evaluations)
    if any(len(row.played(key, name)) != episodes for key in ("success", "return") for name in evaluations):
        raise UserError(f"{where} does not have the {episodes} evaluation episodes of {suite.name}; evaluate it again")
    if row.seed != row.config["seed"]:
        raise UserError(f"{where} has seed {row.seed}, and its config has seed {row.config['seed']}")
    if (player := suite.player_of(row.method)) != row.results.get("player"):
        raise UserError(f"{where} was played by {row.results.get('player') or 'a trained policy'}, and not by {player}")
    if not player and row.results["steps"] < row.config["steps"]:
        raise UserError(f"{where} was evaluated after {row.results['steps']:,} of {row.config['steps']:,} steps")
    rates = {name: row.section(name)["evaluation"]["success"]["value"] for name in evaluations}
    if not all(abs(np.mean(row.played("success", name)) - rate) < 1e-9 for name, rate in rates.items()):
        raise UserError(f"{where}: its success rate is not the mean of its episodes; was it edited by hand?")
    return row


def _check_complete(row: Row, where: str, evaluation: str | None) -> None:
    """Check the parts of the results of an evaluation that the report and the leaderboard read."""
    try:
        played = np.array([row.played(key, evaluation) for key in ("success", "return")], dtype=np.float64)
        results = row.section(evaluation)
        numbers = [results[section]["success"]["value"] for section in ("random", "evaluation")]
        numbers += [results["evaluation"]["length"], row.results["steps"]]
        random = random_score(results)
        numbers += [*random.success, *random.returned]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: its results are incomplete: {error!r}") from error
    if not np.isfinite(played).all() or not np.isin(played[0], (0, 1)).all() or not np.isfinite(numbers).all():
        raise UserError(f"{where}: the success of an episode must be 0 or 1, and all other results finite numbers")


def _check_config(suite: Suite, task: str, method: str, config: dict[str, Any], where: str) -> None:
    if wrong := suite.differences(task, method, config):
        raise UserError(f"{where} is not a run of {suite.name}: {'; '.join(wrong)}")


def validated(values: Any, where: str) -> Row:
    """Return a row from the values of its JSON file.

    Args:
        values: Parsed JSON.
        where: The file or folder that the values come from, for error messages.

    Raises:
        UserError: If keys are unknown or missing, or values are invalid, NaN or infinite.
    """
    for key, number in _not_finite(values):
        raise UserError(
            f"{where}: {key} is {number}; all numbers of a result row must be finite. Correct the environment or the "
            "options of the run, and train it again"
        )
    try:
        return Row.model_validate(values)
    except ValidationError as error:
        missing = any(problem["loc"][:1] in (("commit",), ("command",)) for problem in error.errors())
        raise UserError(explain(error, where, Row) + (f"\n{UNREPRODUCIBLE}" if missing else "")) from error


def _not_finite(values: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield the keys of all NaN and infinite numbers in JSON values, with dots between the levels, and the numbers."""
    if isinstance(values, float) and not math.isfinite(values):
        yield key, values
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in inner:
        yield from _not_finite(value, f"{key}.{name}" if key else str(name))


def read_row(path: Path) -> Row:
    """Read a row from its file.

    Args:
        path: `<suite>/<row name>.json`.

    Raises:
        UserError: If the content is not a valid row, or the file is not named `<suite>/<row name>.json`.
    """
    hint = "`pr2l bench submit RUN` writes it again; if you edited it on purpose, remove its key 'digest'."
    row = validated(read_json(path, hint), str(path))
    if path.stem != row.name or path.parent.name != row.suite:
        raise UserError(f"{path} contains the result row {row.suite}/{row.name}; rename the file accordingly")
    return row


def read_rows(folder: Path, suite: Suite) -> list[Row]:
    """Read and check all rows of a suite.

    Args:
        folder: Folder with a sub-folder for each suite.
        suite: The suite.

    Returns:
        Rows ordered by task, method and seed. Methods that the suite does not define come last.

    Raises:
        UserError: If a row is not valid.
    """
    rows = [check(read_row(path), suite, str(path)) for path in sorted((folder / suite.name).glob("*.json"))]
    order = [*suite.methods, *sorted({row.method for row in rows} - set(suite.methods))]
    return sorted(rows, key=lambda row: (suite.tasks.index(row.task), order.index(row.method), row.seed))


def write_row(path: Path, row: Row) -> None:
    """Write a row as JSON, with one line per key for readable diffs.

    Args:
        path: The file, which is replaced atomically; its folder must exist.
        row: The row.
    """
    write_json(path, row.model_dump(mode="json"), lines=True)


def video_of(row: Path) -> Path | None:
    """Return the video of a row.

    Args:
        row: Path of the row's file; its suffix is replaced. Any other path works too, such as RUN/video.

    Returns:
        The existing video with the same path except for the suffix; None if there is none.
    """
    return next((row.with_suffix(suffix) for suffix in VIDEOS if row.with_suffix(suffix).exists()), None)


def submit(
    paths: Sequence[Path], out: Path, suite: str | None = None, method: str | None = None, *, video: bool = False
) -> list[Path]:
    """Write the rows of finished runs as files for a pull request.

    Args:
        paths: Folders of finished runs.
        out: Folder to write to; each suite gets a sub-folder.
        suite: The suite of all runs; None = for each run, the first suite that has its config.
        method: Name for a method that the suite does not define; requires `suite`.
        video: Whether to copy each run's video too.

    Returns:
        The files of the rows, in the order of `paths`.

    Raises:
        UserError: If a run does not belong to the suite, its row would hold a path of this machine, or the row of
            another run has the same name.
    """
    if method and not suite:
        raise UserError(f"--method {method} needs --suite, one of {', '.join(names())}")
    only_suite = load_suite(suite) if suite else None
    suites = cache(load_suite)  # loading a suite resolves all of its configs, so load it once for all runs
    return [_submit(Run.load(path), out, only_suite, suites, method, video) for path in paths]


def _submit(
    run: Run, out: Path, suite: Suite | None, suites: Callable[[str], Suite], method: str | None, video: bool
) -> Path:
    suite = suite or _suite_of(run, suites)
    row = row_of(run, suite, method)
    check_public(row.model_dump(mode="json"), str(run.path))
    path = out / suite.name / f"{row.name}.json"
    if path.exists() and read_row(path) != row:
        raise UserError(f"{path} exists and belongs to another run; delete it to replace it")
    source = video_of(run.path / "video")
    if video and not source:
        raise UserError(f"{run.path} has no video; record one with `pr2l evaluate {run.path}`")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_row(path, row)
    if video and source:
        shutil.copyfile(source, path.with_suffix(source.suffix))
    return path


def _suite_of(run: Run, suites: Callable[[str], Suite]) -> Suite:
    config = run.config.model_dump(mode="json")
    task = f"{run.config.environment}/{run.config.task}"
    player = run.results().get("player")
    suite = next((suite for suite in map(suites, names_with(task)) if suite.method_of(config, player)), None)
    if suite is None:
        raise UserError(
            f"{run.path} is not a run of {', '.join(names())}: it differs in task, steps, seed, evaluation episodes or "
            "config. For a method of your own, add --suite SUITE --method NAME"
        )
    return suite


def _method(run: Run, suite: Suite, config: dict[str, Any], player: Any) -> str:
    if (method := suite.method_of(config, player)) is None:
        raise UserError(
            f"{run.path} has the config of none of the methods of {suite.name} ({', '.join(suite.methods)}); "
            "name your own method with --method NAME"
        )
    return method


def _command_line(words: Sequence[str]) -> str:
    """Return the command line without this machine's folders; UserError if it works on this machine only."""
    program = Path(words[0])
    console = program.name == "pr2l" or any(map(program.match, MODULES))
    config = words[2].removeprefix("configs/").removesuffix(".yaml") if len(words) > 2 else None
    if console and (words[1] != "train" or config not in registry.names("configs")):
        raise UserError(
            f"the command of the run is `{shlex.join(['pr2l', *words[1:]])}`, which others cannot repeat; commit its "
            "config as configs/NAME.yaml, and train with `pr2l train NAME`"
        )
    return shlex.join(["pr2l", *words[1:]] if console else ["python", program.name, *words[1:]])


def _curve(run: Run) -> dict[str, list[float | None]]:
    metrics = run.metrics()
    steps = np.linspace(0, run.config.steps, POINTS + 1)[1:]
    full_windows = (float(row["step"]) for row in metrics if float(row.get("episodes") or 0) >= RECENT)
    early = steps < next(full_windows, np.inf)
    curves = {"steps": np.round(steps, 3).tolist()}
    for name, column in (("success", "success"), ("returned", "return")):
        values = np.where(early, np.nan, curve(metrics, column, steps, RECENT))
        curves[name] = [None if np.isnan(value) else round(float(value), 5) for value in values]
    return curves
