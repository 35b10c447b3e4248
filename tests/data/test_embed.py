"""Data sets of the toy world, embedded by encoders whose tokens are known."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
import yaml

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.data import embed
from pr2l.data.embed import store_key
from pr2l.data.recording import Recording
from pr2l.data.store import Store
from pr2l.rollout import build
from pr2l.rollout.vec_embed import in_half
from pr2l.training.collect import collect

TOY = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "known",
    "network": "mlp",
    "num_envs": 4,
    "steps": 1,
}

# Says at its end what it was asked, and can be made to die or to be interrupted at a batch.
KNOWN = '''
"""The mean colour less what was fitted, and which way the context says; one token, and one that is padding."""
import os, signal, torch
from pydantic import BaseModel
from pr2l.core import digest as _digest
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
BATCHES = []
class Defaults(BaseModel):
    scale: float = 1.0
    fitted: bool = False
    dies_at: int = -1
class Known(Encoder):
    tokens, width, costly = 2, 4, False
    def __init__(self, options):
        self.options, self.fit_frames, self.shift = options, 10 * options.fitted, torch.zeros(3)
    def mean(self, frames):
        return torch.from_numpy(frames).double().mean(dim=(1, 2)).float() / 3 * self.options.scale
    def encode(self, frames, contexts, labels=None):
        if len(BATCHES) == self.options.dies_at:
            os.kill(os.getpid(), signal.Signals[os.environ["DIES_BY"]])
        BATCHES.append(len(frames))
        way = torch.tensor([[float(context["target"] == "left")] for context in contexts])
        values = torch.cat([self.mean(frames) - self.shift, way], dim=1)[:, None].repeat(1, 2, 1)
        return Tokens(values, torch.tensor([[True, False]]).repeat(len(frames), 1))
    def fit(self, frames, contexts): self.shift = self.mean(frames).mean(dim=0)
    def state_dict(self): return {"shift": self.shift} if self.options.fitted else {}
    def load_state_dict(self, state): self.shift = state["shift"]
    def key(self):
        return {"encoder": "known", "scale": self.options.scale, "fitted": _digest.of_tensors(self.state_dict())}
def create(source, options): return Known(options)
'''


@pytest.fixture
def toy(write_plugin, tmp_path):
    """toy(key=value, ...) -> config of the toy world with the encoder `known`; its YAML is in tmp_path/toy.yaml."""
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text())
    write_plugin("encoders", "known", KNOWN)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.fixture
def dataset(toy, tmp_path):
    collect("toy", "colours", tmp_path / "episodes", episodes=5, seed=3)
    return tmp_path / "episodes"


@pytest.fixture
def frames(dataset):
    """All frames and the context of each, read with Minari alone."""
    storage = minari.MinariDataset(dataset / "data").storage
    shown = [episode["observations"]["frame"] for episode in storage.get_episodes(range(5))]
    contexts = [about["context"] for about in storage.get_episode_metadata(range(5))]
    return np.concatenate(shown), [context for each, context in zip(shown, contexts, strict=True) for _ in each]


def batches():
    return registry.load("encoders", "known").BATCHES


def assert_holds(store, tokens):
    values, mask, _ = in_half(tokens)
    assert np.array_equal(store[:].values.numpy(), values) and np.array_equal(store[:].mask.numpy(), mask.astype(bool))


def test_every_frame_of_every_episode_is_embedded_under_its_context(toy, dataset, frames):
    config = toy()
    store = embed.embed(dataset, config)
    assert store.path.parent == dataset / "embeddings" and store.path.name.startswith("known-")
    assert len(store) == len(frames[0]) == sum(len(each.actions) + 1 for each in minari.MinariDataset(dataset / "data"))
    assert batches() == [4] * (len(store) // 4) + [len(store) % 4] * (len(store) % 4 > 0)
    tokens = build.encoder(config).encode(*frames)
    assert_holds(store, tokens)
    rounded = store[:].values[:, 0].float() - tokens.values[:, 0]
    assert 0 < rounded.abs().max() < 0.1  # so there was something to round
    assert minari.MinariDataset(dataset / "data").total_episodes == 5


def test_nothing_is_embedded_again(toy, dataset, capsys):
    embed.embed(dataset, toy())
    count = len(batches())
    store = embed.embed(dataset, toy())
    assert len(batches()) == count
    assert f"{len(store)} of {len(store)} frames are in {store.path}" in capsys.readouterr().out


def test_another_encoder_goes_to_another_folder(toy, dataset):
    one, two = (embed.embed(dataset, toy(f"encoder_options.scale={scale}")) for scale in (1, 2))
    assert one.path != two.path
    assert torch.allclose(one[:].values[..., :3] * 2, two[:].values[..., :3], rtol=1e-3)
    with pytest.raises(UserError, match=r"scale is 1.0 there and 2.0 here\. .*--output FOLDER"):
        embed.embed(dataset, toy("encoder_options.scale=2"), one.path)


def test_another_data_set_is_not_taken_for_this_one(toy, dataset, tmp_path):
    store = embed.embed(dataset, toy(), tmp_path / "store")
    assert store.key["data"] == {**Recording(dataset).key, "name": "episodes", "episodes": 5, "frames": len(store)}
    collect("toy", "colours", tmp_path / "others", episodes=5, seed=4)
    with pytest.raises(UserError, match="data.name is .*data.sha256 is"):
        embed.embed(tmp_path / "others", toy(), store.path)


@pytest.mark.parametrize(
    ("number", "code", "fitted"),
    [
        (signal.SIGKILL, -signal.SIGKILL, False),
        (signal.SIGINT, 130, True),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, False, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_command_goes_on(toy, dataset, tmp_path, number, code, fitted):
    """SIGKILL after the flush of the second batch, or Ctrl-C in the third, which has to flush what there is."""
    words = ["toy.yaml", f"encoder_options.fitted={str(fitted).lower()}"]
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    seconds = 0 if number == signal.SIGKILL else 1000
    script = (
        "import sys; from pr2l import cli; from pr2l.data import embed; "
        f"embed.FLUSH_EVERY = {seconds}; sys.argv[0] = 'pr2l'; cli.main()"
    )
    command = [sys.executable, "-c", script, "embed", "episodes", "--config", *words, "encoder_options.dies_at=2"]
    environment = {**os.environ, "PYTHONPATH": path, "DIES_BY": signal.Signals(number).name}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    (folder,) = (dataset / "embeddings").iterdir()
    assert json.loads((folder / "store.json").read_text())["done"] == 8
    resumed = embed.embed(dataset, toy(*words[1:]))
    assert resumed.path == folder
    assert sum(batches()) == len(resumed) - 8
    whole = embed.embed(dataset, toy(*words[1:]), tmp_path / "whole")
    assert whole.key == resumed.key
    assert torch.equal(whole[:].values, resumed[:].values) and torch.equal(whole[:].mask, resumed[:].mask)


def test_what_is_fitted_is_fitted_over_the_whole_data_set_and_kept(toy, dataset, frames):
    config = toy("encoder_options.fitted=true")
    rows = np.linspace(0, len(frames[0]) - 1, 10).round().astype(int)
    ours, theirs = Recording(dataset).sample(10), (frames[0][rows], [frames[1][row] for row in rows])
    assert np.array_equal(ours[0], theirs[0]) and ours[1] == theirs[1]
    store = embed.embed(dataset, config)
    encoder = build.encoder(config)
    encoder.fit(*theirs)
    assert store.key == store_key(Recording(dataset), encoder)
    assert_holds(store, encoder.encode(*frames))
    assert torch.equal(embed.load_file(store.path / "fitted.safetensors")["shift"], encoder.shift)
    registry.load("encoders", "known").Known.fit = None  # so that to fit again would fail
    assert embed.embed(dataset, config).key == store.key


def test_what_was_fitted_and_not_wholly_written_is_fitted_again(toy, dataset, monkeypatch):
    def cut_short(tensors, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    config = toy("encoder_options.fitted=true")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "save_file", cut_short)
        embed.embed(dataset, config)
    assert embed.embed(dataset, config).done == len(Recording(dataset))


@pytest.mark.parametrize("start", [0, 1, 7, 19])
def test_batches_begin_at_any_row(dataset, frames, start):
    read = list(Recording(dataset).batches(start, 3))
    assert np.array_equal(np.concatenate([shown for shown, _ in read]), frames[0][start:])
    assert [context for _, contexts in read for context in contexts] == frames[1][start:]
    assert {len(shown) for shown, _ in read[:-1]} == {3}


def test_a_frame_that_comes_again_is_not_embedded_twice(toy, dataset, frames):
    """The toy world shows three colours on two sides: six frames."""
    registry.load("encoders", "known").Known.costly = True
    store = embed.embed(dataset, toy())
    assert sum(batches()) == len({frame.tobytes() for frame in frames[0]}) <= 6
    assert_holds(store, Tokens(store[:].values, store[:].mask))


def test_the_vlms_embeddings_are_those_of_a_run(toy, dataset):
    """tiny, in the same batches as here: the same numbers, rounded."""
    config = toy("encoder=prompted", "vlm_options={image_size: 32, generation: none}", "cache_frames=0")
    store, encoder = embed.embed(dataset, config), build.encoder(config)
    with torch.no_grad():
        parts = [encoder.encode(*batch) for batch in Recording(dataset).batches(0, 4)]
    assert_holds(store, Tokens(*(torch.cat([getattr(part, name) for part in parts]) for name in ("values", "mask"))))
    assert Store.open(store.path, store_key(Recording(dataset), encoder)).key["vlm"]["name"] == "tiny"


def test_a_task_that_does_not_list_its_contexts_can_be_embedded(toy, dataset, frames, monkeypatch):
    """Its prompts are open, so any context may come; the same data set is refused where others are listed."""
    monkeypatch.setattr(registry.load("environments", "toy").Task, "contexts", None)
    config = toy()
    assert_holds(embed.embed(dataset, config), build.encoder(config).encode(*frames))
    monkeypatch.setattr(registry.load("environments", "toy").Task, "contexts", ({"target": "up"},))
    with pytest.raises(UserError, match="has an episode with the context .* which toy/colours never gives"):
        embed.embed(dataset, config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=oracle"], "'oracle' reads labels, which recorded episodes lack"),
        (["environment=doors", "task=choose"], "context {'target': '(left|right)'}, which doors/choose never gives"),
    ],
)
def test_what_does_not_fit_together_is_refused(examples, toy, dataset, overrides, message):
    with pytest.raises(UserError, match=message):
        embed.embed(dataset, toy(*overrides))
    assert not (dataset / "embeddings").exists()


def test_a_folder_without_a_data_set_is_refused(toy, tmp_path):
    with pytest.raises(UserError, match="is no data set: .*pr2l collect"):
        embed.embed(tmp_path, toy())
