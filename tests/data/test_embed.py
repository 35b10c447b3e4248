"""Embedding of data sets of the toy world with an encoder whose tokens are simple to compute."""

import json
import signal
import sys

import minari
import numpy as np
import pytest
import torch
import yaml
from processes import run_in_fork
from toy_runs import TOY_WORLD

from pr2l import cli
from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.data import embed, store_writer
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
    "encoder": "colour",
    "network": "mlp",
    "num_envs": 4,
    "steps": 1,
}

# The encoder records its batch sizes, and can send a signal to its own process instead of encoding a batch.
COLOUR = '''
"""A token of the mean colour minus the fitted one and of 1 for the context "left", and a token of padding."""
import os, torch
from pydantic import BaseModel
from pr2l.core import digest as _digest
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
BATCHES = []
class Defaults(BaseModel):
    scale: float = 1.0
    fitted: bool = False
    signal: int = 0
    signal_at: int = -1
class Colour(Encoder):
    tokens, width, costly = 2, 4, False
    def __init__(self, options):
        self.options, self.fit_frames, self.shift = options, 10 * options.fitted, torch.zeros(3)
    def mean(self, frames):
        return torch.from_numpy(frames).double().mean(dim=(1, 2)).float() / 3 * self.options.scale
    def encode(self, frames, contexts, labels=None):
        if len(BATCHES) == self.options.signal_at:
            os.kill(os.getpid(), self.options.signal)
        BATCHES.append(len(frames))
        left = torch.tensor([[float(context["target"] == "left")] for context in contexts])
        values = torch.cat([self.mean(frames) - self.shift, left], dim=1)[:, None].repeat(1, 2, 1)
        return Tokens(values, torch.tensor([[True, False]]).repeat(len(frames), 1))
    def fit(self, frames, contexts): self.shift = self.mean(frames).mean(dim=0)
    def state_dict(self): return {"shift": self.shift} if self.options.fitted else {}
    def load_state_dict(self, state): self.shift = state["shift"]
    def key(self):
        return {"encoder": "colour", "scale": self.options.scale, "fitted": _digest.of_tensors(self.state_dict())}
def create(source, options): return Colour(options)
'''


@pytest.fixture
def toy(write_plugin, tmp_path):
    """toy(key=value, ...) -> config of the toy world with the encoder `colour`; its YAML is in tmp_path/toy.yaml."""
    write_plugin("environments", "toy", TOY_WORLD)
    write_plugin("encoders", "colour", COLOUR)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.fixture
def dataset(toy, tmp_path):
    collect("toy", "colours", tmp_path / "episodes", episodes=5, seed=3)
    return tmp_path / "episodes"


@pytest.fixture
def frames(dataset):
    """All frames and the context of each, read with Minari only."""
    storage = minari.MinariDataset(dataset / "data").storage
    episodes = [episode["observations"]["frame"] for episode in storage.get_episodes(range(5))]
    contexts = [metadata["context"] for metadata in storage.get_episode_metadata(range(5))]
    pairs = zip(episodes, contexts, strict=True)
    return np.concatenate(episodes), [context for frames, context in pairs for _ in frames]


def batch_sizes():
    return registry.load("encoders", "colour").BATCHES


def assert_equal(store, tokens):
    values, mask, _ = in_half(tokens)
    assert np.array_equal(store[:].values.numpy(), values) and np.array_equal(store[:].mask.numpy(), mask.astype(bool))


def test_all_frames_are_embedded_with_their_contexts(toy, dataset, frames):
    config = toy()
    store = embed.embed(dataset, config)
    assert store.path.parent == dataset / "embeddings" and store.path.name.startswith("colour-")
    episodes = minari.MinariDataset(dataset / "data")
    assert len(store) == len(frames[0]) == sum(len(episode.actions) + 1 for episode in episodes)
    assert batch_sizes() == [4] * (len(store) // 4) + [len(store) % 4] * (len(store) % 4 > 0)
    tokens = build.encoder(config).encode(*frames)
    assert_equal(store, tokens)
    rounded = store[:].values[:, 0].float() - tokens.values[:, 0]
    assert 0 < rounded.abs().max() < 0.1  # half precision has changed some numbers
    assert minari.MinariDataset(dataset / "data").total_episodes == 5


def test_second_command_embeds_nothing(toy, dataset, capsys):
    embed.embed(dataset, toy())
    count = len(batch_sizes())
    store = embed.embed(dataset, toy())
    assert len(batch_sizes()) == count
    assert f"{len(store)} of {len(store)} frames" in capsys.readouterr().out


def test_other_encoder_options_have_another_folder(toy, dataset):
    one, two = (embed.embed(dataset, toy(f"encoder_options.scale={scale}")) for scale in (1, 2))
    assert one.path != two.path
    assert torch.allclose(one[:].values[..., :3] * 2, two[:].values[..., :3], rtol=1e-3)
    with pytest.raises(UserError, match=r"scale is 1.0 there and 2.0 here.*--output"):
        embed.embed(dataset, toy("encoder_options.scale=2"), one.path)


def test_store_of_another_data_set_is_rejected(toy, dataset, tmp_path):
    store = embed.embed(dataset, toy(), tmp_path / "store")
    assert store.key["data"] == {**Recording(dataset).key, "name": "episodes", "episodes": 5, "frames": len(store)}
    collect("toy", "colours", tmp_path / "others", episodes=5, seed=4)
    with pytest.raises(UserError, match="data.name is .*data.sha256 is"):
        embed.embed(tmp_path / "others", toy(), store.path)


def assert_resumes(dataset, config):
    """Assert that 8 frames are stored, and that embedding the others gives the store of an uninterrupted command."""
    [folder] = (dataset / "embeddings").iterdir()
    assert json.loads((folder / "store.json").read_text())["done"] == 8
    batch_sizes().clear()
    resumed = embed.embed(dataset, config)
    assert resumed.path == folder
    assert sum(batch_sizes()) == len(resumed) - 8
    uninterrupted = embed.embed(dataset, config, dataset.parent / "uninterrupted")
    assert uninterrupted.key == resumed.key
    assert torch.equal(uninterrupted[:].values, resumed[:].values)
    assert torch.equal(uninterrupted[:].mask, resumed[:].mask)


@pytest.mark.parametrize("fitted", [False, True])
def test_embedding_resumes_after_sigkill(toy, dataset, monkeypatch, fitted):
    """The signal arrives after the second batch has been flushed."""
    monkeypatch.setattr(store_writer, "FLUSH_EVERY", 0)
    signals = (f"encoder_options.signal={signal.SIGKILL.value}", "encoder_options.signal_at=2")
    config = toy(f"encoder_options.fitted={fitted}", *signals)
    assert run_in_fork(lambda: embed.embed(dataset, config)) == -signal.SIGKILL
    assert_resumes(dataset, toy(f"encoder_options.fitted={fitted}"))


@pytest.mark.parametrize("fitted", [False, True])
def test_embedding_flushes_and_resumes_after_ctrl_c(toy, dataset, tmp_path, monkeypatch, fitted):
    monkeypatch.setattr(store_writer, "FLUSH_EVERY", 1000)
    monkeypatch.chdir(tmp_path)
    signals = (f"encoder_options.signal={signal.SIGINT.value}", "encoder_options.signal_at=2")
    overrides = (f"encoder_options.fitted={str(fitted).lower()}", *signals)
    monkeypatch.setattr(sys, "argv", ["pr2l", "embed", "episodes", "--config", "toy.yaml", *overrides])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 130
    assert_resumes(dataset, toy(f"encoder_options.fitted={fitted}"))


def test_encoder_is_fitted_on_the_whole_data_set_and_stored(toy, dataset, frames):
    config = toy("encoder_options.fitted=true")
    rows = np.linspace(0, len(frames[0]) - 1, 10).round().astype(int)
    sample, expected = Recording(dataset).sample(10), (frames[0][rows], [frames[1][row] for row in rows])
    assert np.array_equal(sample[0], expected[0]) and sample[1] == expected[1]
    store = embed.embed(dataset, config)
    encoder = build.encoder(config)
    encoder.fit(*expected)
    assert store.key == store_key(Recording(dataset), encoder)
    assert_equal(store, encoder.encode(*frames))
    assert torch.equal(embed.load_file(store.path / "fitted.safetensors")["shift"], encoder.shift)
    registry.load("encoders", "colour").Colour.fit = None  # a second call would fail
    assert embed.embed(dataset, config).key == store.key


def test_encoder_is_fitted_again_after_an_interrupted_write(toy, dataset, monkeypatch):
    def interrupted(tensors, path, metadata):
        path.write_bytes(b"the first half")
        raise KeyboardInterrupt

    config = toy("encoder_options.fitted=true")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "save_file", interrupted)
        embed.embed(dataset, config)
    assert embed.embed(dataset, config).done == len(Recording(dataset))


@pytest.mark.parametrize("start", [0, 1, 7, 19])
def test_batches_can_start_at_any_row(dataset, frames, start):
    batches = list(Recording(dataset).batches(start, 3))
    assert np.array_equal(np.concatenate([batch for batch, _ in batches]), frames[0][start:])
    assert [context for _, contexts in batches for context in contexts] == frames[1][start:]
    assert {len(batch) for batch, _ in batches[:-1]} == {3}


def test_equal_frames_are_encoded_once(toy, dataset, frames):
    """The toy world has six different frames, three colours on two sides."""
    registry.load("encoders", "colour").Colour.costly = True
    store = embed.embed(dataset, toy())
    assert sum(batch_sizes()) == len({frame.tobytes() for frame in frames[0]}) <= 6
    assert_equal(store, Tokens(store[:].values, store[:].mask))


def test_embeddings_of_a_vlm_equal_those_of_its_encoder(toy, dataset):
    """In batches of the same size, rounded to half precision."""
    config = toy("encoder=prompted", "vlm_options={image_size: 32, generation: none}", "cache_frames=0")
    store, encoder = embed.embed(dataset, config), build.encoder(config)
    with torch.no_grad():
        parts = [encoder.encode(*batch) for batch in Recording(dataset).batches(0, 4)]
    assert_equal(store, Tokens(*(torch.cat([getattr(part, name) for part in parts]) for name in ("values", "mask"))))
    assert Store.open(store.path, store_key(Recording(dataset), encoder)).key["vlm"]["name"] == "tiny"


def test_contexts_are_checked_only_for_a_task_that_lists_them(toy, dataset, frames, monkeypatch):
    monkeypatch.setattr(registry.load("environments", "toy").Task, "contexts", None)
    config = toy()
    assert_equal(embed.embed(dataset, config), build.encoder(config).encode(*frames))
    monkeypatch.setattr(registry.load("environments", "toy").Task, "contexts", ({"target": "up"},))
    with pytest.raises(UserError, match="an episode with the context .*not a context of toy/colours"):
        embed.embed(dataset, config)


def test_recorded_labels_are_embedded_as_the_environment_gave_them(toy, tmp_path):
    """A distance of 1 is stored in units of NEAR = 4."""
    collect("toy", "colours", tmp_path / "labelled", episodes=3, seed=3, labels=True)
    recording, config = Recording(tmp_path / "labelled"), toy("encoder=oracle", "encoder_options.distance_unit=1")
    assert {label["distance"] for row in recording.labels() for label in row} == {0.25}
    labels = [*recording.labels(near=4.0)]
    assert len(labels) == len(recording) and labels[0][0]["distance"] == 1.0
    middle = int(recording.starts[1]) + 2  # a resumed command starts within an episode
    assert [*recording.labels(middle, near=4.0)] == labels[middle:]
    encoder = build.encoder(config)
    batches = recording.batches(0, len(recording))
    assert_equal(embed.embed(tmp_path / "labelled", config), encoder.encode(*next(batches), labels))


def test_labels_of_episodes_without_labels_are_refused(dataset):
    with pytest.raises(UserError, match="has no labels.*--labels"):
        next(Recording(dataset).labels())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=oracle"], "'oracle' reads labels, which .*episodes does not have.*--labels"),
        (["environment=doors", "task=choose"], "'(left|right)'.*not a context of doors/choose"),
    ],
)
def test_incompatible_encoder_or_environment_is_rejected(examples, toy, dataset, overrides, message):
    with pytest.raises(UserError, match=message):
        embed.embed(dataset, toy(*overrides))
    assert not (dataset / "embeddings").exists()


def test_folder_without_data_set_is_rejected(toy, tmp_path):
    with pytest.raises(UserError, match="is not a data set.*pr2l collect"):
        embed.embed(tmp_path, toy())
