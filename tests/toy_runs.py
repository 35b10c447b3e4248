"""Whole runs in the toy world: their config, and comparisons between two runs."""

import csv
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from processes import TIMEOUT
from safetensors.torch import load_file

from pr2l.training.runs import Run

TOY = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "pixels",
    "encoder_options": {"size": 8},
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "num_envs": 4,
    "steps": 640,
    "checkpoint_every": 128,
    "evaluation_episodes": 10,
}

TOY_WORLD = Path(__file__).with_name("toy_world.py").read_text()

TIME_COLUMNS = {"seconds", "fps", "checksum"}


def metrics(run):
    """Return the rows of metrics.csv without the columns that depend on the speed of the machine."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: row[key] for key in row if key not in TIME_COLUMNS} for row in csv.DictReader(file)]


@contextmanager
def copied_before_checkpoint(monkeypatch, step, folder):
    """Copy the run folder to `folder` before its checkpoint at a step, as a kill at that time would leave it."""
    save = Run.save

    def copy_and_save(run, checkpoint):
        if checkpoint.step == step:
            shutil.copytree(run.path, folder)
        save(run, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", copy_and_save)
        yield


def weights(run):
    """Return the name of the latest checkpoint, which is its step, and its tensors."""
    latest = sorted((run / "checkpoints").iterdir())[-1]
    return latest.name, load_file(latest / "tensors.safetensors")


def assert_same_run(run, expected):
    """Assert that metrics, latest checkpoint and evaluation of two runs are equal, bit for bit."""
    assert metrics(run) == metrics(expected)
    (step, tensors), (expected_step, expected_tensors) = weights(run), weights(expected)
    assert step == expected_step
    assert tensors.keys() == expected_tensors.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], expected_tensors[name])] == []
    assert (run / "results.json").read_text() == (expected / "results.json").read_text()


def wait_for_checkpoint(tmp_path, process, step):
    """Wait until a run in tmp_path/runs has a checkpoint of at least this step, and return the run folder."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for checkpoint in (tmp_path / "runs").glob("*/checkpoints/[0-9]*"):
            if int(checkpoint.name) >= step:
                return checkpoint.parents[1]
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise TimeoutError(f"there is no checkpoint of step {step}")


FITTED = '''
"""Mean colour minus the mean of the frames on which the encoder was fitted."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
FIT_CALLS = []
class Defaults(BaseModel): pass
class Fitted(Encoder):
    tokens, width, fit_frames = 1, 3, 40
    shift = torch.zeros(3)
    def mean(self, frames):
        return torch.from_numpy(frames).float().mean(dim=(1, 2)) / 255
    def fit(self, frames, contexts):
        FIT_CALLS.append((len(frames), len(contexts)))
        self.shift = self.mean(frames).mean(dim=0)
    def encode(self, frames, contexts, labels=None):
        values = (self.mean(frames) - self.shift)[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))
    def state_dict(self): return {"shift": self.shift}
    def load_state_dict(self, state): self.shift = state["shift"]
    def key(self): return {"encoder": "fitted", "shift": self.shift.tolist()}
def create(source, options): return Fitted()
'''
