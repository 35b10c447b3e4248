"""Two embeddings of one data set at the same time, and damage to the state of a fitted encoder."""

import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile
from pr2l.core.lock import locked
from pr2l.core.types import Tokens
from pr2l.data import embed as module
from pr2l.data.embed import embed_with
from pr2l.encoders.base import Encoder


class Shift(Encoder):
    """A token of the mean of the frame minus the fitted mean."""

    tokens, width, fit_frames, needs_labels, frame_history = 1, 1, 2, False, 1

    def __init__(self):
        self.shift = torch.zeros(1)

    def fit(self, frames, contexts):
        self.shift = torch.tensor([frames.mean()], dtype=torch.float32)

    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().mean(dim=(1, 2, 3))[:, None, None] - self.shift
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]

    def key(self):
        return {"encoder": "shift", "shift": self.shift.tolist()}


class Config:
    num_envs, encoder = 2, "shift"


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """A function that embeds a data set of four frames; it has embedded them once."""
    from data_sets import write

    from pr2l.data.recording import Recording

    monkeypatch.setattr(module, "_check", lambda *arguments: None)
    recording = Recording(write(tmp_path / "data", [{"rewards": [0.0, 1.0, 2.0], "terminated": True}]))

    def function(folder="store", **options):
        return embed_with(Shift(), recording, Config, tmp_path / folder, **options)

    function()
    return function


def test_second_process_is_refused_with_the_owner(embedded, tmp_path):
    with locked(tmp_path / "other"), pytest.raises(UserError, match="other is in use by process [0-9]+ on "):
        embedded("other")
    assert not (tmp_path / "other" / "store.json").exists()


def test_training_waits_for_the_process_that_embeds(embedded, tmp_path, capsys):
    stores = []
    thread = threading.Thread(target=lambda: stores.append(embedded("other", wait=True)))
    with locked(tmp_path / "other"):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and "other is in use by process" in (out := capsys.readouterr().out)
        assert "waiting until it ends" in out
    thread.join()
    assert len(stores[0]) == 4


def test_complete_store_is_read_while_another_process_has_the_lock(embedded, tmp_path):
    with locked(tmp_path / "store"):
        assert len(embedded()) == 4


@pytest.mark.parametrize("in_header", [False, True])
def test_damaged_state_of_the_encoder_is_named(embedded, tmp_path, in_header):
    file = tmp_path / "store" / "fitted.safetensors"
    content = bytearray(file.read_bytes())
    content[8 if in_header else -1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match="fitted.safetensors is damaged.*Delete .*store and run `pr2l embed`"):
        embedded()


def test_state_of_an_earlier_version_is_loaded(embedded, tmp_path):
    """It has no digest."""
    file = tmp_path / "store" / "fitted.safetensors"
    save_file(load_file(file), file)
    assert len(embedded()) == 4
