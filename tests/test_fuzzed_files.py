"""A fuzzer: no damaged file of a run, row, store or data set is ever both accepted and wrong.

Each file gets single flipped bits and truncations, at places that a seed chooses. Then everything that pr2l reads from
the folder is read: it must be refused with a UserError or a warning, or equal what was written.
"""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from toy_runs import FITTED, TOY, TOY_WORLD

from pr2l.benchmark.rows import COST, read_row, write_row
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.data import parts
from pr2l.data.embed import embed
from pr2l.data.parts import EpisodeWriter, part_files
from pr2l.data.recording import Recording
from pr2l.training.collect import collect
from pr2l.training.runs import Run
from pr2l.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLIPS, TRUNCATIONS = 150, 30  # of each file
NOT_READ = {"curves.png", "video.mp4", "video.gif", ".lock"}


@pytest.fixture
def config(write_plugin, tmp_path):
    write_plugin("environments", "toy", TOY_WORLD)
    algorithm = {"n_steps": 16, "n_epochs": 1, "batch_size": 32, "head_sizes": [16], "device": "cpu"}
    short = {"steps": 128, "checkpoint_every": 64, "evaluation_episodes": 2, "algorithm_options": algorithm}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY | short))
    return load_config(tmp_path / "toy.yaml")


def damaged(content, random):
    """Yield the content with one flipped bit, and truncated."""
    for position in random.choice(len(content), min(FLIPS, len(content)), replace=False):
        changed = bytearray(content)
        changed[position] ^= 1 << random.integers(8)
        yield bytes(changed)
    for size in random.choice(len(content), min(TRUNCATIONS, len(content)), replace=False):
        yield content[:size]


def assert_damage_is_detected(folder, files, read):
    """Damage each file of a folder in many ways; `read(folder)` must refuse it, or return what it returns now."""
    random, expected = np.random.default_rng(0), read(folder)
    for file in files:
        content, refusals = file.read_bytes(), 0
        changes = list(damaged(content, random))
        for change in changes:
            file.write_bytes(change)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)
                    values = read(folder)
            except (UserError, UserWarning):
                refusals += 1
            else:
                assert values == expected, f"{file.name} was accepted with {change[:300]!r}"
        file.write_bytes(content)
        assert refusals > len(changes) / 2, f"{refusals} of {len(changes)} damaged versions of {file.name} were refused"
    assert read(folder) == expected


def read_run(folder):
    run = Run.load(folder)
    checkpoint = run.latest()
    tensors = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.tensors.items()}
    columns = ("step", "episodes", "success", "return", "length", "seconds")
    metrics = [[row.get(column) for column in columns] for row in run.metrics()]
    cost = read_json(folder / COST)
    return run.config, run.facts(), run.results(), cost, metrics, checkpoint.step, tensors, checkpoint.values


def test_damaged_run_is_refused_or_read_exactly(config, tmp_path):
    run = train(config, root=tmp_path / "runs")
    write_json(run / COST, {"threads": 1, "seconds": 2.5, "gflop": 0.1})  # as `pr2l bench run` does
    checkpoint = max(run.glob("checkpoints/*"))
    files = [path for path in (*run.iterdir(), *checkpoint.iterdir()) if path.is_file() and path.name not in NOT_READ]
    assert len(files) == 7, files
    assert_damage_is_detected(run, files, read_run)


def test_damaged_row_is_refused_or_read_exactly(tmp_path):
    row = next((Path(__file__).parents[1] / "docs" / "results" / "bench" / "doom-mini").glob("*.json"))
    (tmp_path / "doom-mini").mkdir()
    path = tmp_path / "doom-mini" / row.name
    shutil.copy(row, path)
    write_row(path, read_row(path))  # with a digest, which the committed row may lack
    assert_damage_is_detected(path, [path], lambda path: read_row(path).model_dump())


def read_data_set(folder):
    recording = Recording(folder)
    frames = [batch.tobytes() for batch, _ in recording.batches(0, 16)]
    episodes = [recording.episode(number) for number in range(recording.episodes)]
    arrays = [(episode.actions.tolist(), episode.rewards.tolist()) for episode in episodes]
    return recording.key, recording.contexts, recording.environment, recording.environment_options, frames, arrays


def test_damaged_data_set_is_refused_or_read_exactly(config, tmp_path):
    folder = tmp_path / "data"
    collect("toy", "colours", folder, policy="oracle", episodes=3, labels=True)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_READ]
    assert {path.name for path in files} == {"collect.json", "labels.jsonl", "main_data.hdf5", "metadata.json"}
    assert_damage_is_detected(folder, files, read_data_set)


def test_damaged_part_of_an_incomplete_data_set_is_refused(config, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    monkeypatch.setattr(parts, "COMMIT_EVERY", 0)
    with pytest.raises(RuntimeError, match="toy engine has died"):
        collect("toy", "colours", folder, episodes=50, options={"crash_at": 20}, labels=True)
    files = part_files(folder)
    assert len(files) > 1

    def read(folder):
        with pytest.raises(UserError, match="is incomplete"):
            Recording(folder)
        return EpisodeWriter(folder, "").seeds, [path.read_bytes() for path in part_files(folder)]

    assert_damage_is_detected(folder, files, read)


def test_damaged_store_is_refused_or_read_exactly(config, write_plugin, tmp_path):
    """Also the state of an encoder that is fitted on the data set."""
    write_plugin("encoders", "fitted", FITTED)
    config = load_config(tmp_path / "toy.yaml", ["encoder=fitted", "encoder_options={}"])
    collect("toy", "colours", tmp_path / "data", policy="oracle", episodes=3)
    store = embed(tmp_path / "data", config)

    def read(folder):
        tokens = embed(tmp_path / "data", config)[:]
        return tokens.values.numpy().tobytes(), tokens.mask.numpy().tobytes()

    files = [path for path in store.path.iterdir() if path.name not in NOT_READ]
    assert {path.name for path in files} == {
        "values.npy",
        "mask.npy",
        "checksums.npy",
        "store.json",
        "fitted.safetensors",
    }
    assert_damage_is_detected(store.path, files, read)
