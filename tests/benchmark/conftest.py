"""A suite over the toy world, and run folders and rows of it with chosen results."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from plugins import plugin_writer
from toy_runs import TOY, TOY_WORLD

from pr2l.benchmark.rows import row_of, write_row
from pr2l.benchmark.suites import PlannedRun, Suite, load_suite
from pr2l.training.runs import Run

METHOD = TOY | {
    "algorithm_options": {"n_steps": 16, "n_epochs": 1, "batch_size": 64, "head_sizes": [16], "device": "cpu"},
    "steps": 1,
}
SUITE = {
    "why": "a world of colours",
    "version": 1,
    "tasks": {"toy/colours": {}, "toy/again": {"base": "toy/colours"}},
    "methods": {
        "pixels": {"config": "pixels"},
        "small": {"config": "pixels", "overrides": ["encoder_options.size=4"], "about": "a quarter of the picture"},
    },
    "baseline": "small",
    "algorithm": "ppo",
    "steps": 128,
    "seeds": [0, 1],
    "evaluation_episodes": 4,
    "threshold": 0.52,
    "overrides": ["checkpoint_every=64"],
}
CURVE = "step,episodes,success,return,seconds\n64,100,0.25,-1,0.5\n128,200,0.75,1,2\n"


@pytest.fixture(scope="module")
def toy_plugins(tmp_path_factory):
    """The suite `toys`, its config and its environment, as plug-ins. Returns their folder."""
    folder = tmp_path_factory.mktemp("toys")
    two_tasks = TOY_WORLD.replace('TASKS = {"colours": Task()}', 'TASKS = {"colours": Task(), "again": Task()}')
    with pytest.MonkeyPatch.context() as monkeypatch:
        write_plugin = plugin_writer(folder, monkeypatch)
        write_plugin("environments", "toy", two_tasks)
        write_plugin("configs", "toy/colours/pixels", yaml.safe_dump(METHOD))
        write_plugin("configs", "benchmarks/toys", yaml.safe_dump(SUITE, sort_keys=False))
        yield folder


@pytest.fixture(scope="module")
def toy_suite(toy_plugins) -> Suite:
    """The suite `toys`."""
    return load_suite("toys")


@pytest.fixture
def toys(toy_suite, tmp_path, monkeypatch) -> Suite:
    """The suite `toys`, for a test that works in tmp_path."""
    monkeypatch.chdir(tmp_path)
    return toy_suite


def write_run(path: Path, planned: PlannedRun, successes: int, **changes: object) -> Path:
    """Write the folder of a finished run: its first `successes` of 4 evaluation episodes succeed."""
    config = planned.config.model_copy(update=changes)
    path.mkdir(parents=True)
    config.save(path / "config.yaml")
    facts = {
        "started": "2026-11-01T12:00:00",
        "command": ["/somewhere/bin/pr2l", "train", "toy/colours/pixels", f"seed={config.seed}"],
        "commit": "c0ffee" + "0" * 34,
        "uncommitted": False,
        "python": "3.11.7",
        "machine": "a machine, 2 cores",
        "packages": {"torch": "2.13.0", "rich": "14.0.0"},
    }
    (path / "run.json").write_text(json.dumps(facts))
    (path / "metrics.csv").write_text(CURVE)
    success = [1.0] * successes + [0.0] * (4 - successes)
    rate = {"value": successes / 4, "low": 0.0, "high": 1.0}
    results = {
        "steps": 128,
        "evaluation": {"episodes": 4, "success": rate, "length": 5.0},
        "random": {
            "episodes": 8,
            "success": {"value": 0.125, "low": 0.0, "high": 0.0},  # an interval of an earlier version
            "return": {"value": 0.25, "low": 0.0, "high": 1.0},
            "length": 5.0,
        },
        "played": {"success": success, "return": [2 * value for value in success]},
    }
    (path / "results.json").write_text(json.dumps(results))
    cost = {"threads": 1, "seconds": 4.0, "peak_memory": 1_500_000_000, "gflop": 0.25}
    (path / "cost.json").write_text(json.dumps(cost))
    return path


@pytest.fixture
def make_run(toys, tmp_path) -> Callable[..., Path]:
    """make_run(task, method, seed, successes, suite=None, **changes): a finished run of a suite.

    Without a suite it is a run of `toys`, and the task has no "toy/". `changes` are values in its config.
    """

    def make(task: str, method: str, seed: int, successes: int, suite: Suite | None = None, **changes: object) -> Path:
        planned = suite.plan(task, method, seed) if suite else toys.plan(f"toy/{task}", method, seed)
        path = tmp_path / "runs" / str(len(list(tmp_path.glob("runs/*"))))
        return write_run(path, planned, successes, **changes)

    return make


@pytest.fixture(scope="module")
def row_files(toy_suite, tmp_path_factory) -> Path:
    """Like `rows`, for tests that do not change them."""
    folder, runs = tmp_path_factory.mktemp("rows"), tmp_path_factory.mktemp("runs")
    (folder / "toys").mkdir()
    successes = {("toy/colours", "pixels"): (4, 4), ("toy/again", "pixels"): (2, 0)}
    for planned in toy_suite.planned():
        count = successes.get((planned.task, planned.method), (1, 1))[planned.config.seed]
        row = row_of(Run.load(write_run(runs / planned.name, planned, count)), toy_suite)
        write_row(folder / "toys" / f"{row.name}.json", row)
    return folder


@pytest.fixture
def rows(row_files, toys, tmp_path) -> Path:
    """The folder with the rows of `toys`: `small` succeeds in 1 of 4 episodes, `pixels` in 4, 4 and in 2, 0."""
    return shutil.copytree(row_files, tmp_path / "rows")


@pytest.fixture
def write_suite(toys, tmp_path) -> Callable[..., str]:
    """write_suite(name, key=value, ...): the file of a suite like `toys` with one task, one method and these values."""

    def write(name: str, **changes: object) -> str:
        one_cell = {"tasks": {"toy/colours": {}}, "methods": {"small": SUITE["methods"]["small"]}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(SUITE | one_cell | changes, sort_keys=False))
        return f"{name}.yaml"

    return write
