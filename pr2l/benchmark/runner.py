"""`pr2l bench run`: train the missing runs of a suite, several in parallel, and write a row for each.

<out>/<suite>/<row>.json     the row (see rows.py); a run that has a row is not repeated
              <row>/         run folders, from which a stopped run is resumed, and log.txt
              <row>/v2/      run folders for version 2 of the suite, and so on
              probes/        speeds measured for --plan
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pr2l.benchmark.jobs import Job, side_by_side
from pr2l.benchmark.rows import COST, Row, check, read_row, row_of, write_row
from pr2l.benchmark.suites import MEASURES, PlannedRun, Suite, load_suite
from pr2l.benchmark.unlearned import play, player_of
from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.core.lock import locked
from pr2l.environments.isolation.exit_codes import describe_exit
from pr2l.policies.base import Hooks, Learner
from pr2l.profiling.timing import flops, highest_memory
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training import checkpoints
from pr2l.training.evaluate import learner_player, play_both, trained
from pr2l.training.metrics import Table as Metrics
from pr2l.training.runs import MAY_CHANGE, Run
from pr2l.training.train import learner_with_data, train, training_source

DEFAULT_MEMORY = 2_000_000_000  # bytes assumed for a process until a run of its method has been measured


@dataclass(frozen=True)
class CostEstimate:
    """Estimated cost of one run.

    Attributes:
        seconds: Wall-clock time.
        memory: Peak memory of the run's process in bytes.
        source: "measured" = from earlier runs, "probed" = from a probe of the method.
    """

    seconds: float
    memory: int
    source: str


def run(name: str, out: Path, at_once: int | None = None, methods: Sequence[str] = ()) -> None:
    """Prepare the data of a suite, then train and evaluate every run that has no row yet.

    Ctrl-C saves all runs and raises KeyboardInterrupt; the next call resumes them.

    Args:
        name: Name or file of the suite, as for load_suite.
        out: Folder of rows and run folders.
        at_once: Maximum number of parallel processes; None = one per CPU core, or one if there is a GPU.
        methods: Patterns of the methods to run, see `Suite.matching`; () = all.

    Raises:
        UserError: If another process is running the suite in `out`, or if runs failed (after the others have finished).
    """
    suite = load_suite(name)
    folder = out / suite.name
    with locked(folder):
        planned = missing(suite, folder, methods)
        if planned:
            prepare(suite)
        failed_jobs = _run(name, suite, folder, planned, *_share(at_once))
    if failed_jobs:
        raise UserError("\n".join(starmap(_failure, failed_jobs)))
    command, runs = f"[bold]pr2l bench report {escape(name)}[/]", "all runs" if not methods else "these runs"
    Console().print(f"{runs} of {escape(suite.name)} are done; {command} writes their report")


def prepare(suite: Suite) -> None:
    """Run the commands that make the data of a suite.

    `pr2l collect` continues a data set that it has begun. Other commands are left out if their folder exists.

    Args:
        suite: The suite.

    Raises:
        UserError: If a command failed.
    """
    for output, words in _data_commands(suite).items():
        if Path(output).exists() and words[0] != "collect":
            continue
        Console().print(f"[bold]{escape(shlex.join(['pr2l', *words]))}", soft_wrap=True)
        if code := subprocess.run([sys.executable, "-m", "pr2l", *words], check=False).returncode:
            raise UserError(f"{shlex.join(['pr2l', *words])!r} ended with {describe_exit(code)}")


def _data_commands(suite: Suite) -> dict[str, list[str]]:
    """Return the words behind `pr2l` of the commands of a suite's data, by folder."""
    return {output: [*shlex.split(command), "--output", output] for output, command in suite.definition.data.items()}


def _check_data(suite: Suite) -> None:
    commands = {output: words for output, words in _data_commands(suite).items() if not Path(output).exists()}
    if commands:
        lines = "\n".join(shlex.join(["pr2l", *words]) for words in commands.values())
        raise UserError(
            f"an estimate needs the data of {suite.name}. `pr2l bench run {suite.name}` records them; so do\n{lines}"
        )


def _run(
    name: str, suite: Suite, folder: Path, planned: Sequence[PlannedRun], at_once: int, threads: int
) -> list[tuple[Job, int]]:
    """Train the missing runs; return the jobs that failed, with their exit codes."""
    console = Console()
    to_do = f"{len(planned)} of {len(suite.planned())} runs to do"
    console.print(f"{suite.name}: {to_do}, {at_once} at a time; {folder}", markup=False)
    memory = {row.method: row.cost.peak_memory or DEFAULT_MEMORY for row in _rows(suite, folder)}
    make = partial(_make, suite, folder=folder, threads=threads)
    jobs = [_job(run.name, partial(make, run), folder, memory.get(run.method)) for run in planned]
    failed_jobs = []
    with _Display(console, suite, folder, planned) as display:
        try:
            with closing(side_by_side(jobs, at_once, threads, display.show)) as results:
                for job, code in results:
                    display.done(job, code)
                    failed_jobs += [(job, code)] if code else []
        except KeyboardInterrupt:
            console.print(f"stopped and saved; resume with [bold]pr2l bench run {escape(name)}", soft_wrap=True)
            raise
    return failed_jobs


def plan(name: str, out: Path, at_once: int | None = None, methods: Sequence[str] = ()) -> None:
    """Print the missing runs of a suite and their estimated cost.

    Costs come from earlier runs. A method without earlier runs is probed: its first rollout and update are measured.

    Args:
        name: Name or file of the suite, as for load_suite.
        out: Folder of rows and run folders. Results of probes are stored there too.
        at_once: Maximum number of parallel processes; None = one per CPU core, or one if there is a GPU.
        methods: Patterns of the methods, see `Suite.matching`; () = all.

    Raises:
        UserError: If a probe failed, or data of the suite are missing.
    """
    suite, console = load_suite(name), Console()
    folder = out / suite.name
    _check_data(suite)
    planned, rows = missing(suite, folder, methods), _rows(suite, folder)
    at_once, threads = _share(at_once)
    known = {row.method for row in rows} | set(_probes(suite, folder, threads))
    _probe_first([run for run in planned if run.method not in known], folder, at_once, threads, console)
    probes = _probes(suite, folder, threads)
    estimates = [(run, _estimate(run, rows, probes)) for run in planned]
    console.print(_table(suite, estimates, at_once, threads))


def missing(suite: Suite, folder: Path, methods: Sequence[str] = ()) -> list[PlannedRun]:
    """Return the runs of a suite that have no row of the suite's current version.

    Args:
        suite: The suite.
        folder: Folder of the suite's rows.
        methods: Patterns of the methods, see `Suite.matching`; () = all.
    """
    row_names, chosen = {row.name for row in _rows(suite, folder)}, suite.matching(methods)
    return [run for run in suite.planned() if run.name not in row_names and run.method in chosen]


def _rows(suite: Suite, folder: Path) -> list[Row]:
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            rows.append(check(read_row(path), suite, str(path)))
        except UserError:  # a row of another version of the suite: the run is repeated
            continue
    return rows


def _share(at_once: int | None) -> tuple[int, int]:
    """Return the number of processes, and the number of threads of each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = at_once or (1 if torch.cuda.is_available() else cores)
    return at_once, max(1, cores // at_once)


def _job(name: str, work: Callable[[], None], folder: Path, memory: int | None = None) -> Job:
    return Job(name, work, folder / name / "log.txt", memory or DEFAULT_MEMORY)


def _failure(job: Job, code: int) -> str:
    """Return an error message for a job with its exit code: the signal that killed it, or the last line of its log."""
    if code < 0:
        return f"{job.name} was {describe_exit(code)} (log: {job.log}); the same command resumes it"
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines() if job.log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"{job.name} failed: {last} (log: {job.log})"


# Runs in separate processes.


def _make(suite: Suite, planned: PlannedRun, folder: Path, threads: int) -> None:
    """Start or resume a run, and write its row."""
    torch.set_num_threads(threads)
    run_folder, runs = folder / planned.name, _runs(suite, folder, planned.name)
    with locked(run_folder, wait=True):  # a process of an earlier call, whose parent was killed, may still be saving
        # Python and the imports of this module are up: they take seconds that no method causes.
        start, previous = time.monotonic(), _resumable(planned, runs)
        if planned.player:
            run = play(planned.config, planned.player, runs)
            _write_cost(run, threads, time.monotonic() - start, None)
        elif previous is None or not _evaluated(previous):
            run = Run.load(train(planned.config, previous.path if previous else None, runs))
            if not (run.path / COST).exists():
                _write_cost(run, threads, None if previous else time.monotonic() - start, _gflop(run))
        else:
            run = previous
        write_row(folder / f"{planned.name}.json", row_of(run, suite, planned.method))


def _write_cost(run: Run, threads: int, seconds: float | None, gflop: float | None) -> None:
    cost = {"threads": threads, "seconds": seconds, "peak_memory": highest_memory(), "gflop": gflop}
    write_json(run.path / COST, cost)


def _runs(suite: Suite, folder: Path, name: str) -> Path:
    """Return the folder of a planned run's run folders: one per version, as two versions may have the same config."""
    version = suite.definition.version
    return folder / name if version == 1 else folder / name / f"v{version}"


def _resumable(planned: PlannedRun, runs: Path) -> Run | None:
    """Return the newest run with the same config that has a checkpoint; None if there is none."""
    free = MAY_CHANGE - MEASURES
    for path in sorted((config.parent for config in runs.glob("*/config.yaml")), reverse=True):
        try:
            run = Run.load(path)
        except UserError:  # incomplete, or of an earlier commit with other options
            continue
        same = run.config.model_dump(exclude=free) == planned.config.model_dump(exclude=free)
        if same and checkpoints.steps(run.checkpoints):
            return run
    return None


def _evaluated(run: Run) -> bool:
    """Return whether results.json covers all steps and episodes; `pr2l evaluate` may write fewer."""
    path = run.path / "results.json"
    if not path.exists():
        return False
    results = run.results()
    episodes, others = run.config.evaluation_episodes, run.config.evaluations.keys()
    complete = results["evaluation"]["episodes"] == episodes and results.get("evaluations", {}).keys() == others
    return bool(results["steps"] >= run.config.steps and complete)


def _gflop(run: Run) -> float:
    """Return 1e9 floating-point operations of the run's encoder for one frame."""
    encoder, _, _ = trained(run)
    with closing(build.environments(run.config, "train", labels=encoder.needs_labels, count=1)) as frames:
        return flops(VecEmbed(frames, encoder).reset) / 1e9


# Estimated cost.


def _probe_first(planned: Sequence[PlannedRun], folder: Path, at_once: int, threads: int, console: Console) -> None:
    """Probe the first planned run of each method."""
    first = {run.method: run for run in reversed(planned)}
    jobs = [
        _job(method, partial(_probe, run, threads, _probe_file(method, folder)), folder / "probes")
        for method, run in sorted(first.items())
    ]
    with console.status("probing"), closing(side_by_side(jobs, at_once, threads, lambda running: None)) as results:
        for job, code in results:
            console.print(f"probed {job.name}")
            if code:
                raise UserError(_failure(job, code))


def _probe_file(method: str, folder: Path) -> Path:
    return folder / "probes" / f"{method}.json"


def _probes(suite: Suite, folder: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Return stored probes by method; ignore probes with other threads or with a config that has changed."""
    probes = {}
    for method in suite.methods:
        path = _probe_file(method, folder)
        if path.exists():
            probe = read_json(path)
            configs = [_timing_config(run.config) for run in suite.planned() if run.method == method]
            if probe.get("threads") == threads and "decision" in probe and probe.get("config") in configs:
                probes[method] = probe
    return probes


def _timing_config(config: RunConfig) -> dict[str, Any]:
    """Return the part of a config that can change its speed."""
    return config.model_dump(mode="json", exclude={"why", "seed", "steps"})


def _probe(planned: PlannedRun, threads: int, path: Path) -> None:
    """Measure the cost of a run's start, training and evaluation; write it together with the config."""
    torch.set_num_threads(threads)
    config = planned.config
    if planned.player:
        costs = {"start": 0.0, "speed": None, "decision": _decision(config, player_of(config, planned.player))}
    else:
        costs = _probe_training(config)
    write_json(path, {**costs, "memory": highest_memory(), "threads": threads, "config": _timing_config(config)})


def _probe_training(config: RunConfig) -> dict[str, Any]:
    """Return the seconds before the first environment step, steps per second, and seconds per evaluation decision."""
    start, clock = time.monotonic(), _FirstUpdate()
    with training_source(config) as (encoder, spaces, source):
        learner = learner_with_data(config, encoder, spaces)
        with suppress(_Enough):
            learner.learn(source, config.steps, clock)
    player = learner_player(config, encoder, learner)
    decision = _decision(config, player, labels=encoder.needs_labels)
    return {"start": clock.began - start, "speed": clock.steps / clock.seconds, "decision": decision}


def _decision(config: RunConfig, player: Any, *, labels: bool = False) -> float:
    """Return the seconds per decision of an evaluation, which plays each episode with a player and at random."""
    start = time.monotonic()
    played = play_both(config, player, min(config.num_envs, config.evaluation_episodes), labels=labels)
    seconds = time.monotonic() - start
    return 2 * seconds / sum(episode["l"] for episode in (*played.agent, *played.random))


class _Enough(Exception):
    pass


class _FirstUpdate(Hooks):
    """Hooks that stop training after the first update with environment steps; earlier ones count as the start."""

    began, seconds, steps = 0.0, 0.0, 0

    def on_update_start(self, learner: Learner) -> None:
        self._learner, self.began = learner, time.monotonic()

    def on_update(self, metrics: Mapping[str, float]) -> None:
        self.steps, self.seconds = self._learner.num_timesteps, time.monotonic() - self.began
        if self.steps:
            raise _Enough


def _estimate(planned: PlannedRun, rows: Sequence[Row], probes: dict[str, dict[str, Any]]) -> CostEstimate:
    """Estimate the cost from rows of the method on the task, else of the method on any task, else from its probe."""
    same = [row for row in rows if row.method == planned.method]
    same = [row for row in same if row.task == planned.task] or same
    if same:
        shares = [planned.config.steps / row.config["steps"] for row in same]
        seconds = [share * (row.cost.seconds or _without_start(row)) for share, row in zip(shares, same, strict=True)]
        memory = max(row.cost.peak_memory or DEFAULT_MEMORY for row in same)
        return CostEstimate(float(np.mean(seconds)), memory, "measured")
    probe = probes[planned.method]
    horizon = registry.load("environments", planned.config.environment).TASKS[planned.config.task].horizon
    training = planned.config.steps / probe["speed"] if probe["speed"] else 0.0
    evaluations = 1 + len(planned.config.evaluations)
    evaluation = evaluations * planned.config.evaluation_episodes * horizon * probe["decision"]  # at most
    return CostEstimate(probe["start"] + training + evaluation, probe["memory"], "probed")


def _without_start(row: Row) -> float:
    """Return the seconds of training and evaluation from the speed, without start-up."""
    length = row.results["evaluation"]["length"]
    return float(row.config["steps"] + row.config["evaluation_episodes"] * length) / row.frames_per_second


def _table(suite: Suite, estimates: Sequence[tuple[PlannedRun, CostEstimate]], at_once: int, threads: int) -> Table:
    columns = ("method", "runs", "steps", "minutes per run", "core-hours", "memory", "source")
    table = Table(*columns, title=f"{escape(suite.name)}: missing runs")
    for method in suite.methods:
        of_method = [(run, estimate) for run, estimate in estimates if run.method == method]
        if not of_method:
            continue
        seconds = sum(estimate.seconds for _, estimate in of_method)
        steps = sum(run.config.steps for run, _ in of_method)
        memory = max(estimate.memory for _, estimate in of_method) / 1e9
        numbers = (f"{seconds / len(of_method) / 60:.1f}", f"{seconds * threads / 3600:.2f}", f"{memory:.1f} GB")
        table.add_row(method, str(len(of_method)), f"{steps:,}", *numbers, of_method[0][1].source)
    seconds = sum(estimate.seconds for _, estimate in estimates)
    memory = max((estimate.memory for _, estimate in estimates), default=0)
    if memory:  # free memory may limit the number of processes
        at_once = min(at_once, max(1, int(psutil.virtual_memory().available // memory)))
    table.caption = (
        f"runs: {len(estimates)}; core-hours: {seconds * threads / 3600:.2f}; "
        f"hours, {at_once} at a time with {threads} threads each: {seconds / at_once / 3600:.2f}"
    )
    return table


class _Display:
    """Progress bars for all runs and for each active run, and a line for each finished run."""

    def __init__(self, console: Console, suite: Suite, folder: Path, planned: Sequence[PlannedRun]) -> None:
        self._console, self._suite, self._folder = console, suite, folder
        self._steps = {run.name: run.config.steps for run in planned}
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
            runs = _runs(self._suite, self._folder, job.name)
            self._progress.update(self._bars[job.name], completed=_steps_done(runs))

    def done(self, job: Job, code: int) -> None:
        if job.name in self._bars:
            self._progress.remove_task(self._bars.pop(job.name))
        self._progress.advance(self._all)
        row = self._folder / f"{job.name}.json"
        failed = f"[bold red]failed[/], see {escape(str(job.log))}"
        outcome = failed if code else f"success {read_row(row).success:.2f}"
        self._console.print(f"{job.name}: {outcome}", highlight=False)


def _steps_done(runs: Path) -> int:
    tables = sorted(runs.glob("*/metrics.csv"))
    rows = Metrics(tables[-1]).complete_rows() if tables else []
    return int(rows[-1]["step"]) if rows else 0
