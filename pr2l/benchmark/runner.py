"""`pr2l bench run`: makes the runs of a suite that are missing, several side by side, and a row of each.

    <out>/<suite>/<row>.json     the row, see rows.py; a run that has one is done
                  <row>/         its run folder, whence it goes on after a stop, and log.txt
                  <row>/v2/      its run folder from version 2 of the suite on, and so for each
                  probes/        speeds measured for --plan
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback

from pr2l.benchmark.jobs import Job, alone, side_by_side
from pr2l.benchmark.rows import COST, Row, check, read_row, row_of, write_row
from pr2l.benchmark.suites import MEASURES, Cell, Suite, load_suite
from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.data.recorded import recorded_episodes
from pr2l.profiling.timing import flops, highest_memory
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training import checkpoints
from pr2l.training.evaluate import trained
from pr2l.training.metrics import Table as Metrics
from pr2l.training.runs import MAY_CHANGE, Run
from pr2l.training.train import fit, train

UNKNOWN = 2_000_000_000  # bytes that a process is taken to need until one of its method has run: torch, tiny, a rollout


@dataclass(frozen=True)
class Estimate:
    """Of one run: seconds, and bytes of memory. source: how it is known."""

    seconds: float
    memory: int
    source: str


def run(name: str, out: Path, at_once: int | None = None) -> None:
    """Makes every run of the suite that has no row yet. at_once: processes; None = one for each core, on a GPU one.

    Ctrl-C saves all runs and raises KeyboardInterrupt; called again, it goes on. Raises UserError where another process
    makes the suite's runs in `out`, and, after all others have been made, if some runs failed.
    """
    suite = load_suite(name)
    home = out / suite.name
    with alone(home, patient=False):
        failed = _run(name, suite, home, *_share(at_once))
    if failed:
        raise UserError("\n".join(map(_failure, failed)))
    Console().print(f"all runs of {suite.name} are made; [bold]pr2l bench report {escape(name)}[/] sums them up")


def _run(name: str, suite: Suite, home: Path, at_once: int, threads: int) -> list[Job]:
    """Makes what is missing; those that failed."""
    cells, console = missing(suite, home), Console()
    console.print(f"{suite.name}: {len(cells)} of {len(suite.cells())} runs to do, {at_once} at a time; {home}")
    memory = {row.method: row.cost.peak_memory or UNKNOWN for row in _rows(suite, home)}
    make = partial(_make, suite, home=home, threads=threads)
    jobs = [_job(cell.name, partial(make, cell), home, memory.get(cell.method)) for cell in cells]
    failed = []
    with _Display(console, suite, home, cells) as display:
        try:
            with closing(side_by_side(jobs, at_once, threads, display.show)) as ended:
                for job, code in ended:
                    display.done(job, code)
                    failed += [job] if code else []
        except KeyboardInterrupt:
            console.print(f"stopped and saved; go on with [bold]pr2l bench run {escape(name)}")
            raise
    return failed


def plan(name: str, out: Path, at_once: int | None = None) -> None:
    """Prints what is missing of a suite and what it will cost, from the runs made so far or a probe of each method.

    A probe is the first rollout and update of a run; its speed is kept. Raises UserError if one failed.
    """
    suite, console = load_suite(name), Console()
    home = out / suite.name
    cells, rows = missing(suite, home), _rows(suite, home)
    at_once, threads = _share(at_once)
    known = {row.method for row in rows} | set(_probes(suite, home, threads))
    _probe_first([cell for cell in cells if cell.method not in known], home, at_once, threads, console)
    probes = _probes(suite, home, threads)
    estimates = [(cell, _estimate(cell, rows, probes)) for cell in cells]
    console.print(_table(suite, estimates, at_once, threads))


def missing(suite: Suite, home: Path) -> list[Cell]:
    """The runs that have no row in `home`, or one that no longer fits the suite."""
    made = {row.name for row in _rows(suite, home)}
    return [cell for cell in suite.cells() if cell.name not in made]


def _rows(suite: Suite, home: Path) -> list[Row]:
    rows = []
    for path in sorted(home.glob("*.json")):
        try:
            rows.append(check(read_row(path), suite, str(path)))
        except UserError:  # of an earlier version of the suite: it will be made anew
            continue
    return rows


def _share(at_once: int | None) -> tuple[int, int]:
    """Processes side by side, and threads for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = at_once or (1 if torch.cuda.is_available() else cores)
    return at_once, max(1, cores // at_once)


def _job(name: str, work: Callable[[], None], place: Path, memory: int | None = None) -> Job:
    return Job(name, work, place / name / "log.txt", memory or UNKNOWN)


def _failure(job: Job) -> str:
    """The last that a job said."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines() if job.log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{job.name} failed: {last} (all of it: {job.log})"


# In a process of its own.


def _make(suite: Suite, cell: Cell, home: Path, threads: int) -> None:
    """A run from its start, or from where it stopped, to its row."""
    place, runs = home / cell.name, _runs(suite, home, cell.name)
    with alone(place):  # one that outlived its parent may still be saving
        began, begun = time.monotonic(), _begun(cell, runs)
        if begun is None or not _evaluated(begun):
            run = Run.load(train(cell.config, begun.path if begun else None, runs))
            if not (run.path / COST).exists():  # or it was finished, and then evaluated otherwise
                seconds = None if begun else time.monotonic() - began
                cost = {"threads": threads, "seconds": seconds, "peak_memory": highest_memory(), "gflop": _gflop(run)}
                write_json(run.path / COST, cost)
        else:
            run = begun
        write_row(home / f"{cell.name}.json", row_of(run, suite, cell.method))


def _runs(suite: Suite, home: Path, name: str) -> Path:
    """The folder of a cell's runs: a config does not show what else a new version of the suite stands for."""
    version = suite.definition.version
    return home / name if version == 1 else home / name / f"v{version}"


def _begun(cell: Cell, runs: Path) -> Run | None:
    """The newest run of this very cell that got as far as a checkpoint."""
    free = MAY_CHANGE - MEASURES
    for path in sorted((config.parent for config in runs.glob("*/config.yaml")), reverse=True):
        try:
            run = Run.load(path)
        except UserError:  # cut off while it was written, or of an earlier commit with other options
            continue
        alike = run.config.model_dump(exclude=free) == cell.config.model_dump(exclude=free)
        if alike and checkpoints.steps(run.checkpoints):
            return run
    return None


def _evaluated(run: Run) -> bool:
    """Whether all steps and all episodes are behind it; `pr2l evaluate` can be called before, and with fewer."""
    path = run.path / "results.json"
    if not path.exists():
        return False
    results = json.loads(path.read_text(encoding="utf-8"))
    asked = run.config.steps, run.config.evaluation_episodes
    return bool(results["steps"] >= asked[0] and results["evaluation"]["episodes"] == asked[1])


def _gflop(run: Run) -> float:
    """1e9 floating-point operations of the run's encoder for one frame."""
    encoder, _, _ = trained(run)
    with closing(build.environments(run.config, "train", labels=encoder.needs_labels, count=1)) as frames:
        return flops(VecEmbed(frames, encoder).reset) / 1e9


# What it will cost.


def _probe_first(cells: Sequence[Cell], home: Path, at_once: int, threads: int, console: Console) -> None:
    """Measures the first cell of each method."""
    first = {cell.method: cell for cell in reversed(cells)}
    jobs = [
        _job(method, partial(_probe, cell.config, threads, _probe_file(method, home)), home / "probes")
        for method, cell in sorted(first.items())
    ]
    with console.status("probing"), closing(side_by_side(jobs, at_once, threads, lambda running: None)) as ended:
        for job, code in ended:
            console.print(f"probed {job.name}")
            if code:
                raise UserError(_failure(job))


def _probe_file(method: str, home: Path) -> Path:
    return home / "probes" / f"{method}.json"


def _probes(suite: Suite, home: Path, threads: int) -> dict[str, dict[str, Any]]:
    """What was measured, by method, with as many threads and a config that the method still has on some task."""
    found = {}
    for method in suite.methods:
        path = _probe_file(method, home)
        if path.exists():
            probe = json.loads(path.read_text(encoding="utf-8"))
            configs = [_timed(cell.config) for cell in suite.cells() if cell.method == method]
            if probe.get("threads") == threads and probe.get("config") in configs:
                found[method] = probe
    return found


def _timed(config: RunConfig) -> dict[str, Any]:
    """What a speed depends on."""
    return config.model_dump(mode="json", exclude={"why", "seed", "steps"})


def _probe(config: RunConfig, threads: int, path: Path) -> None:
    """Writes the seconds that a run takes to start, its steps a second, its memory, and what these are of."""
    began, encoder = time.monotonic(), build.encoder(config)
    clock = _FirstUpdate()
    with closing(build.environments(config, "train", labels=encoder.needs_labels)) as frames:
        data = recorded_episodes(config, encoder, frames)
        if data is None:
            fit(encoder, frames, config.seed)
        algorithm, model = registry.load("algorithms", config.algorithm), build.model(config, VecEmbed(frames, encoder))
        start = time.monotonic() - began
        try:
            given = () if data is None else (data,)
            algorithm.learn(model, config.options("algorithm"), config.steps, clock, *given)
        except _Enough:
            pass
    measured = {"start": start, "speed": clock.num_timesteps / clock.seconds, "memory": highest_memory()}
    write_json(path, {**measured, "threads": threads, "config": _timed(config)})


class _Enough(Exception):
    pass


class _FirstUpdate(BaseCallback):
    """Ends the training after the first update, if it does not end there; `seconds` is what it took until then."""

    def _on_training_start(self) -> None:
        self.began, self.seconds = time.monotonic(), 0.0

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps:
            self._on_training_end()
            raise _Enough

    def _on_training_end(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        self.seconds = time.monotonic() - self.began

    def _on_step(self) -> bool:
        return True


def _estimate(cell: Cell, rows: Sequence[Row], probes: dict[str, dict[str, Any]]) -> Estimate:
    """From runs of the method on the task, or else of the method, or else from its probe, on whatever task that was."""
    same = [row for row in rows if row.method == cell.method]
    same = [row for row in same if row.task == cell.task] or same
    if same:
        steps = cell.config.steps
        seconds = [(row.cost.seconds or _without_start(row)) * steps / row.config["steps"] for row in same]
        return Estimate(float(np.mean(seconds)), max(row.cost.peak_memory or UNKNOWN for row in same), "measured")
    probe = probes[cell.method]
    horizon = registry.load("environments", cell.config.environment).TASKS[cell.config.task].horizon
    decisions = cell.config.steps + cell.config.evaluation_episodes * horizon  # at most
    return Estimate(probe["start"] + decisions / probe["speed"], probe["memory"], "probed")


def _without_start(row: Row) -> float:
    length = row.results["evaluation"]["length"]
    return float(row.config["steps"] + row.config["evaluation_episodes"] * length) / row.frames_per_second


def _table(suite: Suite, estimates: Sequence[tuple[Cell, Estimate]], at_once: int, threads: int) -> Table:
    title = f"{suite.name}: what is missing"
    table = Table("method", "runs", "steps", "minutes a run", "core-hours", "memory", "", title=title)
    for method in suite.methods:
        found = [(cell, estimate) for cell, estimate in estimates if cell.method == method]
        if not found:
            continue
        seconds = sum(estimate.seconds for _, estimate in found)
        steps = sum(cell.config.steps for cell, _ in found)
        memory = max(estimate.memory for _, estimate in found) / 1e9
        numbers = (f"{seconds / len(found) / 60:.1f}", f"{seconds * threads / 3600:.2f}", f"{memory:.1f} GB")
        table.add_row(method, str(len(found)), f"{steps:,}", *numbers, found[0][1].source)
    seconds = sum(estimate.seconds for _, estimate in estimates)
    memory = max((estimate.memory for _, estimate in estimates), default=0)
    if memory:  # what is free may be enough for fewer
        at_once = min(at_once, max(1, int(psutil.virtual_memory().available // memory)))
    table.caption = (
        f"runs: {len(estimates)}; core-hours: {seconds * threads / 3600:.2f}; "
        f"hours, {at_once} at a time with {threads} threads each: {seconds / at_once / 3600:.2f}"
    )
    return table


class _Display:
    """A bar for all runs and one for each that is being made; a line for each that is done."""

    def __init__(self, console: Console, suite: Suite, home: Path, cells: Sequence[Cell]) -> None:
        self._console, self._suite, self._home = console, suite, home
        self._steps = {cell.name: cell.config.steps for cell in cells}
        bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*bars, console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task("runs", total=len(self._steps))
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, running: list[Job]) -> None:
        for job in running:
            if job.name not in self._bars:
                self._bars[job.name] = self._progress.add_task(job.name, total=self._steps[job.name])
            runs = _runs(self._suite, self._home, job.name)
            self._progress.update(self._bars[job.name], completed=_steps_done(runs))

    def done(self, job: Job, code: int) -> None:
        if job.name in self._bars:
            self._progress.remove_task(self._bars.pop(job.name))
        self._progress.advance(self._all)
        row = self._home / f"{job.name}.json"
        failed = f"[bold red]failed[/], see {escape(str(job.log))}"
        found = failed if code else f"success {read_row(row).success:.2f}"
        self._console.print(f"{job.name}: {found}", highlight=False)


def _steps_done(runs: Path) -> int:
    tables = sorted(runs.glob("*/metrics.csv"))
    rows = Metrics(tables[-1]).rows() if tables else []
    return int(rows[-1]["step"]) if rows else 0
