"""Suites that are run: side by side, each run once, and on after a kill."""

import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from pr2l.benchmark import runner as bench
from pr2l.benchmark.jobs import Job, _fits, side_by_side
from pr2l.benchmark.rows import read_row, read_rows
from pr2l.benchmark.suites import load_suite
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.core.lock import locked
from pr2l.training import checkpoints
from pr2l.training.evaluate import evaluate
from pr2l.training.train import train

PATIENCE = 130  # seconds to wait for another process, which may have to share its cores with much else


def test_what_is_missing_is_made_once(write_suite, tmp_path, capsys):
    name = write_suite("two")
    bench.run(name, tmp_path / "out", at_once=2)
    one, other = read_rows(tmp_path / "out", load_suite(name))
    assert (one.seed, other.seed) == (0, 1) and one.cost.threads == 1 and one.results["steps"] == 128
    assert one.cost.seconds > 0 and one.cost.peak_memory > 50_000_000 and one.cost.gflop == 0  # pixels multiply nothing
    folders = sorted((tmp_path / "out").glob("two/*/toy-*"))
    assert len(folders) == 2
    capsys.readouterr()
    bench.run(name, tmp_path / "out")
    assert "two: 0 of 2 runs to do" in capsys.readouterr().out
    assert sorted((tmp_path / "out").glob("two/*/toy-*")) == folders


def test_a_second_program_in_the_same_folder_is_refused(write_suite, tmp_path):
    name = write_suite("two")
    busy = pytest.raises(UserError, match=r"out/two is in use by process")
    with locked(tmp_path / "out" / "two"), busy:
        bench.run(name, tmp_path / "out")
    assert read_rows(tmp_path / "out", load_suite(name)) == []


def test_killed_it_saves_and_goes_on(write_suite, tmp_path):
    """kill -9 of the program: its process notices, saves and ends; called again, the same run folder is finished."""
    name = write_suite("long", steps=640, seeds=[0])
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    environment = {**os.environ, "PYTHONPATH": path, "TOY_DELAY": "0.02"}
    command = [sys.executable, "-m", "pr2l.cli", "bench", "run", name, "--out", "out"]
    place = tmp_path / "out" / "long" / "toy-colours-small-seed0"
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as program:
        try:
            wait_until(lambda: any(int(made.name) > 0 for made in place.glob("*/checkpoints/[0-9]*")), program)
            family = psutil.Process(program.pid).children(recursive=True)
        finally:
            program.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert family and not alive
    [folder] = place.glob("toy-*")
    assert not (folder / "results.json").exists()
    suite = load_suite(name)
    bench._make(suite, suite.planned()[0], tmp_path / "out" / "long", threads=1)
    row = read_row(tmp_path / "out" / "long" / "toy-colours-small-seed0.json")
    assert [*place.glob("toy-*")] == [folder] and row.results["steps"] == 640
    assert row.cost.seconds is None  # what it took was not measured in one go


def wait_until(happened, program):
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert program.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stopped_run_that_was_evaluated_goes_on(write_suite, tmp_path):
    suite = load_suite(write_suite("two"))
    cell = suite.planned()[0]
    stopped = train(cell.config.model_copy(update={"steps": 64}), root=tmp_path / "two" / cell.name)
    cell.config.save(stopped / "config.yaml")
    bench._make(suite, cell, tmp_path / "two", threads=1)
    assert read_json(stopped / "results.json")["steps"] == 128
    assert read_row(tmp_path / "two" / f"{cell.name}.json").results["steps"] == 128


def test_a_run_that_was_evaluated_on_other_episodes_is_so_on_its_own(write_suite, tmp_path):
    suite = load_suite(write_suite("two"))
    cell = suite.planned()[0]
    bench._make(suite, cell, tmp_path / "two", threads=1)
    row = read_row(tmp_path / "two" / f"{cell.name}.json")
    [run] = (tmp_path / "two" / cell.name).glob("toy-*")
    evaluate(run, episodes=2)
    bench._make(suite, cell, tmp_path / "two", threads=1)
    again = read_row(tmp_path / "two" / f"{cell.name}.json")
    assert again.played("return") == row.played("return") and len(row.played("return")) == 4
    assert again.cost == row.cost and row.cost.seconds > 0


def test_a_run_of_another_version_is_not_taken_for_one_of_this(write_suite, tmp_path):
    home = tmp_path / "two"
    for version in (1, 2):
        suite = load_suite(write_suite("two", version=version))
        cell = suite.planned()[0]
        with bench._Display(Console(quiet=True), suite, home, [cell]) as display:
            job = Job(cell.name, int, tmp_path / "log.txt", 0)
            display.show([job])
            assert display._progress.tasks[-1].completed == 0
            bench._make(suite, cell, home, threads=1)
            display.show([job])
            assert display._progress.tasks[-1].completed == 128
    [first], [second] = ((home / cell.name).glob(runs) for runs in ("toy-*", "v2/toy-*"))
    assert (first / "results.json").exists() and (second / "results.json").exists()
    assert read_row(home / f"{cell.name}.json").version == 2


@pytest.mark.parametrize("text", ["", "why: cut", "gone: 1"])
def test_a_run_whose_config_cannot_be_read_is_made_anew(text, toys, tmp_path):
    cell = toys.planned()[0]
    good, bad = tmp_path / "it" / "toy-1", tmp_path / "it" / "toy-2"
    for path in (good, bad):
        checkpoints.write(path / "checkpoints", checkpoints.Checkpoint(64, {}, {}))
        cell.config.save(path / "config.yaml")
    assert bench._resumable(cell, tmp_path / "it").path == bad
    (bad / "config.yaml").write_text(text)
    assert bench._resumable(cell, tmp_path / "it").path == good


def test_one_that_fails_is_told_and_none_outlives_the_caller(tmp_path):
    jobs = [
        Job("wrong", partial(int, "many"), tmp_path / "wrong.txt", 0),
        Job("long", partial(time.sleep, 600), tmp_path / "long.txt", 0),
    ]
    seen: set[str] = set()
    ended = side_by_side(jobs, 2, 1, lambda running: seen.update(job.name for job in running))
    job, code = next(ended)
    assert (job.name, code) == ("wrong", 1) and seen == {"wrong", "long"}
    assert "invalid literal for int() with base 10: 'many'" in bench._failure(job, code)
    ended.close()
    assert multiprocessing.active_children() == []


def test_failed_runs_are_an_error_at_the_end(write_suite, tmp_path, monkeypatch):
    failed = Job("it", int, tmp_path / "log.txt", 0)
    failed.log.write_text("Traceback\nValueError: no room\n\n")
    monkeypatch.setattr(bench, "side_by_side", lambda *rest: (each for each in [(failed, 1)]))
    with pytest.raises(UserError, match="it failed: ValueError: no room .*log.txt"):
        bench.run(write_suite("two"), tmp_path / "out")


def test_a_job_waits_for_memory_and_a_place():
    here = multiprocessing.current_process()
    small, large = (Job("", int, Path(), memory) for memory in (0, 2**60))
    assert _fits(large, {}, 1)  # alone it has to try
    assert _fits(small, {here: small}, 2) and not _fits(small, {here: small}, 1)
    assert not _fits(large, {here: small}, 2)
    assert not _fits(small, {here: large}, 2)  # what runs may still grow


def test_rows_of_another_version_are_made_again(toys, rows):
    home = rows / "toys"
    assert bench.missing(toys, home) == []
    for path in home.glob("toy-again-*"):
        write_json(path, read_json(path) | {"version": 2})
    assert {cell.task for cell in bench.missing(toys, home)} == {"toy/again"}


def test_what_it_will_cost(toys, rows, tmp_path, capsys, monkeypatch):
    """Measured runs took 4 seconds each; without that, 128 steps and 4 episodes of 5 at 64 a second."""
    cell = toys.plan("toy/colours", "small", 1)
    measured = read_rows(rows, toys)
    assert bench._estimate(cell, measured, {}) == bench.CostEstimate(4.0, 1_500_000_000, "measured")
    unknown = [row.model_copy(update={"cost": row.cost.model_copy(update={"seconds": None})}) for row in measured]
    assert bench._estimate(cell, unknown, {}).seconds == (128 + 4 * 5) / 64
    probes = {"small": {"start": 10.0, "speed": 50.0, "memory": 7}}  # of another task, maybe: the horizon is the cell's
    assert bench._estimate(cell, [], probes) == bench.CostEstimate(10 + (128 + 4 * 7) / 50, 7, "probed")
    (rows / "toys" / f"{cell.name}.json").unlink()
    monkeypatch.setenv("COLUMNS", "200")
    bench.plan("toys", rows, at_once=1)
    out = capsys.readouterr().out
    assert "runs: 1; core-hours: 0.00; hours, 1 at a time" in out and "measured" in out and "1.5 GB" in out


@pytest.mark.parametrize("steps", [64, 128])
def test_a_probe_is_the_first_update(steps, toys, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_DELAY", "0.002")
    bench._probe(toys.planned()[0].config.model_copy(update={"steps": steps}), 1, tmp_path / "probe.json")
    probe = read_json(tmp_path / "probe.json")
    assert probe["start"] > 0 and 10 < probe["speed"] <= 1 / 0.002  # also where there is no second rollout
    assert not any(tmp_path.glob("runs/*"))  # it leaves no run


def test_a_probe_counts_while_its_method_and_threads_are_the_same(write_suite, tmp_path):
    def probed(name, threads, **changed):
        return list(bench._probes(load_suite(write_suite(name, **changed)), tmp_path, threads))

    config = load_suite(write_suite("first")).planned()[0].config
    (tmp_path / "probes").mkdir()
    probe = {"threads": 1, "config": bench._timing_config(config)}
    write_json(tmp_path / "probes" / "small.json", probe)
    assert probed("first", 1) == probed("longer", 1, steps=256, seeds=[3]) == ["small"]
    assert probed("first", 2) == probed("other", 1, overrides=["num_envs=2"]) == []
    (tmp_path / "probes" / "small.json").write_text('{"start": 1.0, "speed": 2.0}')  # of an earlier version
    assert probed("first", 1) == []


def test_a_probe_that_fails_ends_the_others(toys, tmp_path, monkeypatch):
    ended = []

    def jobs():
        try:
            yield Job("it", int, tmp_path / "log.txt", 0), 1
        finally:
            ended.append(True)

    probing = jobs()
    monkeypatch.setattr(bench, "side_by_side", lambda *rest: probing)
    with pytest.raises(UserError, match="it failed"):
        bench.plan("toys", tmp_path / "out")
    assert ended


def test_a_folder_is_one_processs_at_a_time(tmp_path):
    with (tmp_path / ".lock").open("w") as other:
        with locked(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again
