"""A suite over the toy world, and finished runs of it whose numbers are chosen."""

import json
from pathlib import Path

import pytest
import yaml

from pr2l.benchmark.rows import row_of, write_row
from pr2l.benchmark.suites import Suite, load_suite
from pr2l.training.runs import Run

METHOD = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "pixels",
    "encoder_options": {"size": 8},
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "algorithm_options": {"n_steps": 16, "n_epochs": 1, "batch_size": 64, "head_sizes": [16], "device": "cpu"},
    "num_envs": 4,
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


@pytest.fixture
def toys(write_plugin, tmp_path, monkeypatch):
    """The suite `toys` and all that it names, as plug-ins; works in tmp_path. Returns the suite."""
    world = (Path(__file__).parents[1] / "toy_world.py").read_text()
    two = world.replace('TASKS = {"colours": Task()}', 'TASKS = {"colours": Task(), "again": Task()}')
    write_plugin("environments", "toy", two)
    write_plugin("configs", "toy/colours/pixels", yaml.safe_dump(METHOD))
    write_plugin("configs", "benchmarks/toys", yaml.safe_dump(SUITE, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return load_suite("toys")


@pytest.fixture
def finished(toys, tmp_path):
    """finished(task, method, seed, rights, **changed) -> a run folder; rights: episodes of four that succeed.

    suite: None = toys, whose tasks need no "toy/".
    """

    def make(task: str, method: str, seed: int, rights: int, suite: Suite | None = None, **changed: object) -> Path:
        cell = suite.plan(task, method, seed) if suite else toys.plan(f"toy/{task}", method, seed)
        config = cell.config.model_copy(update=changed)
        path = tmp_path / "runs" / str(len(list(tmp_path.glob("runs/*"))))
        path.mkdir(parents=True)
        config.save(path / "config.yaml")
        facts = {
            "started": "2026-11-01T12:00:00",
            "command": ["/somewhere/bin/pr2l", "train", "toy/colours/pixels", f"seed={seed}"],
            "commit": "c0ffee" + "0" * 34,
            "uncommitted": False,
            "python": "3.11.7",
            "machine": "a machine, 2 cores",
            "packages": {"torch": "2.13.0", "rich": "14.0.0"},
        }
        (path / "run.json").write_text(json.dumps(facts))
        (path / "metrics.csv").write_text(CURVE)
        success = [1.0] * rights + [0.0] * (4 - rights)
        rate = {"value": rights / 4, "low": 0.0, "high": 1.0}
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

    return make


@pytest.fixture
def rows(toys, finished, tmp_path):
    """The folder of a whole suite's rows. Of 4 episodes pixels succeeds in 4 4 and 2 0 on the two tasks, small in 1."""
    folder = tmp_path / "rows"
    (folder / "toys").mkdir(parents=True)
    rights = {("colours", "pixels"): (4, 4), ("again", "pixels"): (2, 0)}
    for task in ("colours", "again"):
        for method in ("pixels", "small"):
            for seed, count in enumerate(rights.get((task, method), (1, 1))):
                row = row_of(Run.load(finished(task, method, seed, count)), toys)
                write_row(folder / "toys" / f"{row.name}.json", row)
    return folder


@pytest.fixture
def write_suite(toys, tmp_path):
    """write_suite(name, key=value, ...): a suite file like `toys` but for that, of one task and method; its path."""

    def write(name: str, **changed: object) -> str:
        one = {"tasks": {"toy/colours": {}}, "methods": {"small": SUITE["methods"]["small"]}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(SUITE | one | changed, sort_keys=False))
        return f"{name}.yaml"

    return write
