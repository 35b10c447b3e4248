"""Runs of a suite: processes, resuming, probes and estimated costs."""

import multiprocessing
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from processes import TIMEOUT
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


@pytest.mark.slow
def test_missing_runs_are_trained_in_processes_of_their_own(write_suite, tmp_path, capsys):
    """Of two runs the first has a row already."""
    suite_file = write_suite("two")
    suite, folder = load_suite(suite_file), tmp_path / "out" / "two"
    bench._make(suite, suite.planned()[0], folder, threads=1)
    bench.run(suite_file, tmp_path / "out", at_once=2)
    assert "two: 1 of 2 runs to do, 2 at a time" in capsys.readouterr().out
    rows = read_rows(tmp_path / "out", suite)
    assert [(row.seed, row.cost.threads, row.results["steps"]) for row in rows] == [(0, 1, 128), (1, 1, 128)]
    cost = rows[1].cost
    assert cost.seconds > 0 and cost.peak_memory > 50_000_000 and cost.gflop == 0  # pixels multiply nothing
    run_folders = sorted(folder.glob("*/toy-*"))
    assert len(run_folders) == 2
    bench.run(suite_file, tmp_path / "out")
    assert "two: 0 of 2 runs to do" in capsys.readouterr().out
    assert sorted(folder.glob("*/toy-*")) == run_folders


def test_second_process_in_the_same_folder_raises(write_suite, tmp_path):
    suite_file = write_suite("two")
    with locked(tmp_path / "out" / "two"), pytest.raises(UserError, match=r"out/two is in use by process"):
        bench.run(suite_file, tmp_path / "out")
    assert read_rows(tmp_path / "out", load_suite(suite_file)) == []


@pytest.mark.slow
def test_resume_after_kill(write_suite, tmp_path, monkeypatch):
    """After kill -9 of the program its process saves and ends; the next call resumes the run in its folder."""
    suite_file = write_suite("long", steps=640, seeds=[0])
    runs = tmp_path / "out" / "long" / "toy-colours-small-seed0"
    with monkeypatch.context() as patch:
        patch.setenv("TOY_DELAY", "0.02")
        # A fork needs no imports; it does not train itself.
        program = multiprocessing.get_context("fork").Process(target=bench.run, args=(suite_file, tmp_path / "out"))
        program.start()
    try:
        wait_for_checkpoint(runs, program)
        children = psutil.Process(program.pid).children(recursive=True)
    finally:
        program.kill()
        program.join()
    _, alive = psutil.wait_procs(children, timeout=TIMEOUT)
    assert children and not alive
    [run_folder] = runs.glob("toy-*")
    assert not (run_folder / "results.json").exists()
    suite = load_suite(suite_file)
    bench._make(suite, suite.planned()[0], tmp_path / "out" / "long", threads=1)
    row = read_row(tmp_path / "out" / "long" / "toy-colours-small-seed0.json")
    assert [*runs.glob("toy-*")] == [run_folder] and row.results["steps"] == 640
    assert row.cost.seconds is None  # unknown: the run was made in two parts


def wait_for_checkpoint(runs, program):
    """Wait until a run in the folder has a checkpoint after step 0."""
    deadline = time.monotonic() + TIMEOUT
    while not any(int(checkpoint.name) > 0 for checkpoint in runs.glob("*/checkpoints/[0-9]*")):
        assert program.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)


def test_resume_of_a_shorter_evaluated_run(write_suite, tmp_path):
    suite = load_suite(write_suite("two"))
    planned = suite.planned()[0]
    short_run = train(planned.config.model_copy(update={"steps": 64}), root=tmp_path / "two" / planned.name)
    planned.config.save(short_run / "config.yaml")
    bench._make(suite, planned, tmp_path / "two", threads=1)
    assert read_json(short_run / "results.json")["steps"] == 128
    assert read_row(tmp_path / "two" / f"{planned.name}.json").results["steps"] == 128


def test_run_evaluated_on_other_episodes_is_evaluated_again(write_suite, tmp_path):
    suite = load_suite(write_suite("two"))
    planned = suite.planned()[0]
    bench._make(suite, planned, tmp_path / "two", threads=1)
    first = read_row(tmp_path / "two" / f"{planned.name}.json")
    [run] = (tmp_path / "two" / planned.name).glob("toy-*")
    evaluate(run, episodes=2)
    bench._make(suite, planned, tmp_path / "two", threads=1)
    second = read_row(tmp_path / "two" / f"{planned.name}.json")
    assert second.played("return") == first.played("return") and len(first.played("return")) == 4
    assert second.cost == first.cost and first.cost.seconds > 0


def test_new_version_of_a_suite_starts_new_runs(write_suite, tmp_path):
    folder = tmp_path / "two"
    for version in (1, 2):
        suite = load_suite(write_suite("two", version=version))
        planned = suite.planned()[0]
        with bench._Display(Console(quiet=True), suite, folder, [planned]) as display:
            job = Job(planned.name, int, tmp_path / "log.txt", 0)
            display.show([job])
            assert display._progress.tasks[-1].completed == 0
            bench._make(suite, planned, folder, threads=1)
            display.show([job])
            assert display._progress.tasks[-1].completed == 128
    [old_run], [new_run] = ((folder / planned.name).glob(pattern) for pattern in ("toy-*", "v2/toy-*"))
    assert (old_run / "results.json").exists() and (new_run / "results.json").exists()
    assert read_row(folder / f"{planned.name}.json").version == 2


@pytest.mark.parametrize("text", ["", "why: cut", "gone: 1"])
def test_run_with_unreadable_config_is_not_resumed(text, toys, tmp_path):
    planned, runs = toys.planned()[0], tmp_path / "runs"
    older, newer = runs / "toy-1", runs / "toy-2"
    for path in (older, newer):
        checkpoints.write(path / "checkpoints", checkpoints.Checkpoint(64, {}, {}))
        planned.config.save(path / "config.yaml")
    assert bench._resumable(planned, runs).path == newer
    (newer / "config.yaml").write_text(text)
    assert bench._resumable(planned, runs).path == older


def test_runs_and_probes_set_the_number_of_threads(write_suite, tmp_path, monkeypatch):
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    suite = load_suite(write_suite("two"))
    planned = suite.planned()[0]
    bench._make(suite, planned, tmp_path / "two", threads=3)
    assert numbers[0] == 3 and read_row(tmp_path / "two" / f"{planned.name}.json").cost.threads == 3
    numbers.clear()
    bench._probe(planned, 4, tmp_path / "probe.json")
    assert numbers[0] == 4


def test_failed_job_leaves_its_log_and_no_process_outlives_the_caller(tmp_path):
    jobs = [
        Job("wrong", partial(int, "many"), tmp_path / "wrong.txt", 0),
        Job("long", partial(time.sleep, 600), tmp_path / "long.txt", 0),
    ]
    running: set[str] = set()
    results = side_by_side(jobs, 2, 1, lambda active: running.update(job.name for job in active))
    job, code = next(results)
    assert (job.name, code) == ("wrong", 1) and running == {"wrong", "long"}
    assert "invalid literal for int() with base 10: 'many'" in bench._failure(job, code)
    results.close()
    assert multiprocessing.active_children() == []


def test_failed_runs_raise_at_the_end(write_suite, tmp_path, monkeypatch):
    failed = Job("small", int, tmp_path / "log.txt", 0)
    failed.log.write_text("Traceback\nValueError: no room\n\n")
    monkeypatch.setattr(bench, "side_by_side", lambda *_: (result for result in [(failed, 1)]))
    with pytest.raises(UserError, match="small failed: ValueError: no room .*log.txt"):
        bench.run(write_suite("two"), tmp_path / "out")


def test_jobs_are_limited_by_their_number_and_by_memory():
    process = multiprocessing.current_process()
    small, large = (Job("", int, Path(), memory) for memory in (0, 2**60))
    assert _fits(large, {}, 1)  # the first job always starts
    assert _fits(small, {process: small}, 2) and not _fits(small, {process: small}, 1)
    assert not _fits(large, {process: small}, 2)
    assert not _fits(small, {process: large}, 2)  # the running job may still grow


def test_rows_of_another_version_are_missing(toys, rows):
    folder = rows / "toys"
    assert bench.missing(toys, folder) == []
    for path in folder.glob("toy-again-*"):
        write_json(path, read_json(path) | {"version": 2})
    assert {planned.task for planned in bench.missing(toys, folder)} == {"toy/again"}


def test_estimated_costs(toys, rows, tmp_path, capsys, monkeypatch):
    """The rows have 4 seconds each; without that, 128 steps and 4 episodes of 5 steps at 64 steps per second."""
    planned = toys.plan("toy/colours", "small", 1)
    measured = read_rows(rows, toys)
    assert bench._estimate(planned, measured, {}) == bench.CostEstimate(4.0, 1_500_000_000, "measured")
    unknown = [row.model_copy(update={"cost": row.cost.model_copy(update={"seconds": None})}) for row in measured]
    assert bench._estimate(planned, unknown, {}).seconds == (128 + 4 * 5) / 64
    probes = {"small": {"start": 10.0, "speed": 50.0, "decision": 0.25, "memory": 7}}
    horizon = 7  # of the planned task; the probe may be of another task
    assert bench._estimate(planned, [], probes) == bench.CostEstimate(10 + 128 / 50 + 4 * horizon / 4, 7, "probed")
    config = planned.config.model_copy(update={"evaluations": {"few": {}, "many": {}}})
    probes["small"]["speed"] = None  # of a player that does not learn
    twice_more = bench._estimate(replace(planned, config=config), [], probes)
    assert twice_more.seconds == 10 + 3 * 4 * horizon / 4
    (rows / "toys" / f"{planned.name}.json").unlink()
    monkeypatch.setenv("COLUMNS", "200")
    bench.plan("toys", rows, at_once=1)
    out = capsys.readouterr().out
    assert "runs: 1; core-hours: 0.00; hours, 1 at a time" in out and "measured" in out and "1.5 GB" in out


@pytest.mark.parametrize("steps", [64, 128])
def test_probe_measures_the_first_update(steps, toys, tmp_path, monkeypatch):
    """Also if the run has only one update."""
    monkeypatch.setenv("TOY_DELAY", "0.002")
    planned = toys.planned()[0]
    short = replace(planned, config=planned.config.model_copy(update={"steps": steps}))
    bench._probe(short, 1, tmp_path / "probe.json")
    probe = read_json(tmp_path / "probe.json")
    assert probe["decision"] > 0.002
    assert probe["start"] > 0 and 10 < probe["speed"] <= 1 / 0.002
    assert not any(tmp_path.glob("runs/*"))  # a probe leaves no run folder


def test_probe_is_reused_for_the_same_method_and_threads(write_suite, tmp_path):
    def probed_methods(name, threads, **changes):
        return list(bench._probes(load_suite(write_suite(name, **changes)), tmp_path, threads))

    config = load_suite(write_suite("first")).planned()[0].config
    (tmp_path / "probes").mkdir()
    write_json(
        tmp_path / "probes" / "small.json", {"threads": 1, "decision": 1, "config": bench._timing_config(config)}
    )
    assert probed_methods("first", 1) == probed_methods("longer", 1, steps=256, seeds=[3]) == ["small"]
    assert probed_methods("first", 2) == probed_methods("other", 1, overrides=["num_envs=2"]) == []
    write_json(tmp_path / "probes" / "small.json", {"start": 1.0, "speed": 2.0})  # of an earlier version of pr2l
    assert probed_methods("first", 1) == []


def test_failed_probe_ends_the_others(toys, tmp_path, monkeypatch):
    closed = []

    def results():
        try:
            yield Job("small", int, tmp_path / "log.txt", 0), 1
        finally:
            closed.append(True)

    generator = results()  # a reference, so that only an explicit close() ends it
    monkeypatch.setattr(bench, "side_by_side", lambda *_: generator)
    with pytest.raises(UserError, match="small failed"):
        bench.plan("toys", tmp_path / "out")
    assert closed
