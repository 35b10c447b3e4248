"""Runs whose files are damaged, that two processes want, or whose numbers are not finite."""

import csv
import json
import math
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file
from toy_runs import TOY, TOY_WORLD

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile
from pr2l.core.lock import locked
from pr2l.training import checkpoints, metrics
from pr2l.training.checkpoints import Checkpoint, NotFinite
from pr2l.training.evaluate import evaluate
from pr2l.training.metrics import Table
from pr2l.training.runs import Run
from pr2l.training.train import train

CONFIG = TOY | {
    "algorithm_options": {"n_steps": 16, "n_epochs": 1, "batch_size": 32, "head_sizes": [16], "device": "cpu"},
    "steps": 128,
    "checkpoint_every": 64,
    "evaluation_episodes": 2,
}


@pytest.fixture
def config(write_plugin, tmp_path):
    """config(key=value, ...) -> config of a short run in the toy world."""
    write_plugin("environments", "toy", TOY_WORLD)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.fixture
def run(config, tmp_path):
    """The folder of a finished run with checkpoints of steps 64 and 128."""
    return train(config(), root=tmp_path / "runs")


def resume(run, *overrides):
    return train(load_config(run / "config.yaml", overrides), resume=run)


def change_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_second_process_on_a_run_is_refused_and_changes_nothing(run):
    before = {path: path.read_bytes() for path in run.glob("*.*") if path.is_file()}
    with locked(run):
        with pytest.raises(UserError, match=f"{run} is in use by process"):
            resume(run, "steps=192")
        with pytest.raises(UserError, match=f"{run} is in use by process"):
            evaluate(run)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
def test_one_changed_bit_of_a_checkpoint_is_detected(name, tmp_path):
    for step in (1, 2):
        checkpoints.write(tmp_path, Checkpoint(step, {"w": torch.arange(1000.0)}, {"episodes": [step]}))
    change_byte(tmp_path / "000000002" / name, -20)
    with pytest.warns(UserWarning, match=f"step 2 in .* is damaged .*{name}.*step 1 is taken"):
        assert checkpoints.read_latest(tmp_path).step == 1


def test_results_of_a_damaged_checkpoint_are_not_overwritten_by_those_of_an_earlier_one(run):
    change_byte(run / "checkpoints" / "000000128" / "tensors.safetensors", -1)
    results = (run / "results.json").read_bytes()
    with (
        pytest.warns(UserWarning, match="step 128 .* is damaged"),
        pytest.raises(UserError, match=r"results.json is of step 128.*undamaged checkpoint is of step 64.*--resume"),
    ):
        evaluate(run)
    assert (run / "results.json").read_bytes() == results
    with pytest.warns(UserWarning, match="step 128 .* is damaged"):
        resume(run)
    assert evaluate(run)["steps"] == 128


def test_changed_config_of_a_run_is_refused_unless_its_digest_is_removed(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    with pytest.raises(DamagedFile, match=r"config\.yaml is damaged: .*remove its last line"):
        load_config(run / "config.yaml")
    lines = text.splitlines(keepends=True)[:-1]
    (run / "config.yaml").write_text("".join(lines))
    assert load_config(run / "config.yaml").seed == 0


@pytest.mark.parametrize(("name", "read"), [("run.json", Run.facts), ("results.json", Run.results)])
def test_changed_json_of_a_run_is_refused(name, read, run):
    change_byte(run / name, 40)
    with pytest.raises(DamagedFile, match=name):
        read(Run.load(run))


def test_changed_missing_and_torn_rows_of_metrics_are_detected(run):
    path = run / "metrics.csv"
    content = path.read_bytes()
    header, *rows = content.splitlines(keepends=True)
    damaged = {
        "changed": header + rows[0].replace(b"64,", b"65,", 1) + rows[1],
        "first row missing": header + rows[1],
        "last row missing": header + rows[0],
        "torn": content[:-12],
        "column renamed": content.replace(b"return", b"retorn"),
        "checksum renamed": content.replace(b"checksum", b"checksul"),
    }
    for name, bad in damaged.items():
        path.write_bytes(bad)
        with pytest.raises(DamagedFile, match=r"metrics\.csv is damaged: .*[Tt]rain (it|the run) again"):
            print(name, Run.load(run).metrics())
    path.write_bytes(content)
    assert [row["step"] for row in Run.load(run).metrics()] == ["64", "128"]


def test_resumed_run_keeps_good_rows_and_names_lost_ones(run):
    path = run / "metrics.csv"
    content = path.read_bytes()
    path.write_bytes(content[:-12])  # a torn row of step 128, whose checkpoint is on the disk
    with pytest.warns(UserWarning, match=r"metrics\.csv is damaged: row 2 has \d+ of \d+ values\..*up to step 128"):
        resume(run, "steps=192")
    assert [row["step"] for row in Run.load(run).metrics()] == ["64", "192"]


def test_metrics_of_an_earlier_version_have_no_checksums_and_are_read(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,return\n64,1.5\n128,\n")
    table = Table(path)
    assert table.rows() == [{"step": "64", "return": "1.5"}, {"step": "128", "return": ""}]
    table.append({"step": 192, "return": 2.5})
    assert [row["return"] for row in Table(path).rows()] == ["1.5", "", "2.5"]
    with path.open(newline="") as file:
        assert all(row["checksum"] for row in csv.DictReader(file))


def test_checkpoint_with_nan_is_refused_and_the_one_before_stays(tmp_path):
    checkpoints.write(tmp_path, Checkpoint(1, {"w": torch.ones(2)}, {}))
    for bad in (math.nan, math.inf):
        with pytest.raises(NotFinite, match=r"at step 2 w and 0 other tensors.*learning_rate"):
            checkpoints.write(tmp_path, Checkpoint(2, {"w": torch.tensor([1.0, bad])}, {}))
    assert checkpoints.read_latest(tmp_path).step == 1


def test_checkpoint_with_nan_of_an_earlier_version_is_skipped(tmp_path):
    checkpoints.write(tmp_path, Checkpoint(1, {"w": torch.ones(2)}, {}))
    shutil.copytree(tmp_path / "000000001", tmp_path / "000000002")
    save_file({"w": torch.tensor([1.0, math.nan])}, tmp_path / "000000002" / "tensors.safetensors")
    (tmp_path / "000000002" / "values.json").write_text("{}")  # without digests
    with pytest.warns(UserWarning, match=r"step 2 in .* is damaged .*w and 0 other tensors have NaN.*step 1 is taken"):
        assert checkpoints.read_latest(tmp_path).step == 1


def test_diverged_run_stops_with_an_explanation_and_its_last_good_checkpoint(config, tmp_path):
    with pytest.raises(NotFinite, match="the training has diverged: at step"):
        train(config("algorithm_options.learning_rate=1e30", "steps=640"), root=tmp_path / "runs")
    [run] = (tmp_path / "runs").iterdir()
    checkpoint = Run.load(run).latest()
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
    assert all(math.isfinite(float(row["train/loss"])) for row in Run.load(run).metrics())


def test_damaged_results_are_written_again(run):
    (run / "results.json").write_text(json.dumps({"steps": 10**9})[:-2])
    assert evaluate(run)["steps"] == 128


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_checkpoint_that_cannot_be_read_for_another_reason_than_damage_stays(tmp_path, monkeypatch, error):
    for step in (1, 2):
        checkpoints.write(tmp_path, Checkpoint(step, {"w": torch.ones(2)}, {}))

    def load(path):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(checkpoints, "load_file", load)
        checkpoints.read_latest(tmp_path, remove_damaged=True)
    assert checkpoints.read_latest(tmp_path).step == 2


def test_rows_are_on_the_disk_before_the_checkpoint_of_their_step(config, tmp_path, monkeypatch):
    """Otherwise a power failure could lose rows that a resumed run does not write again."""
    synced = []
    for module in (metrics, checkpoints):
        monkeypatch.setattr(module, "sync", lambda path: synced.append(path.name))
    train(config(), root=tmp_path / "runs")
    order = [name for name in synced if name in ("metrics.csv", "values.json")]
    assert order == ["values.json", "metrics.csv", "values.json", "metrics.csv", "values.json"]
    assert ".partial-metrics.csv" in synced
