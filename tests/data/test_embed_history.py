"""Stores of prompts with several images: each row is the last frames of its episode."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from data_sets import write
from small_vlms import CASE, folder
from stable_baselines3.common.vec_env import DummyVecEnv
from toy_runs import TOY_WORLD

from pr2l import load_run
from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.data.embed import embed, store_key
from pr2l.data.recorded import batch_source
from pr2l.data.recording import Recording
from pr2l.rollout import build
from pr2l.rollout.contract import ContractCheck
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.training.collect import collect
from pr2l.training.train import train

EPISODES = 5

TOY = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "prompted",
    "encoder_options": {"image_tokens": 1},
    "vlm": str(folder(CASE["llava"])),
    "vlm_options": {"generation": "none"},
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "algorithm": "bc",
    "algorithm_options": {"batch": 16, "lstm_layers": 1, "lstm_size": 8, "device": "cpu"},
    "num_envs": 4,
    "steps": 64,
    "evaluation_episodes": 2,
}

# Tokens that are exact in half precision, whatever the batch.
COLOURS = '''
"""The colours of the last three frames, as a token for each frame."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class Colours(Encoder):
    tokens, width, frame_history = 3, 3, 3
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames.max(axis=(2, 3))).float()
        return Tokens(values, torch.ones(len(frames), 3, dtype=torch.bool))
    def key(self): return {"encoder": "colours"}
def create(source, options): return Colours()
'''


def chat(frames, kind="image"):
    parts = [{"type": kind, "frames": frames}, {"type": "text", "text": "is it {target} ?"}]
    messages = [{"role": "user", "content": parts}]
    return {"messages": messages, "slots": ["target"], "why": "a test", "source": "this file"}


@pytest.fixture
def toy(write_plugin, tmp_path):
    """toy(key=value, ...) -> config with a prompt of two frames; there are prompts of one to three frames."""
    write_plugin("environments", "toy", TOY_WORLD)
    write_plugin("encoders", "colours", COLOURS)
    for frames in (1, 2, 3):
        (tmp_path / f"{frames}.yaml").write_text(yaml.safe_dump(chat(frames)))
    (tmp_path / "video.yaml").write_text(yaml.safe_dump(chat(3, "video")))
    config = TOY | {"prompt": str(tmp_path / "2.yaml"), "data": str(tmp_path / "episodes")}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.fixture
def dataset(toy, tmp_path):
    collect("toy", "colours", tmp_path / "episodes", episodes=EPISODES, seed=3)
    return Recording(tmp_path / "episodes")


def play(recording, encoder, number):
    """Return the tokens that VecEmbed gives while a recorded episode is played again."""
    [metadata] = recording.storage.get_episode_metadata([number])
    venv = VecEmbed(DummyVecEnv([lambda: ContractCheck(registry.load("environments", "toy").make("colours"))]), encoder)
    venv.seed(int(metadata["seed"]))
    tokens = [venv.reset()["tokens"][0]]
    for action in recording.episode(number).actions:
        observation, _, [done], [info] = venv.step([action])
        tokens.append(info["terminal_observation"]["tokens"] if done else observation["tokens"][0])
    assert done
    return np.stack(tokens)


def test_stored_rows_equal_the_tokens_of_playing_the_episode(toy, dataset):
    config = toy("encoder=colours", "encoder_options={}")
    store, encoder = embed(dataset.folder, config), build.encoder(config, dataset.frame_shape)
    played = [play(dataset, encoder, number) for number in range(EPISODES)]
    assert np.array_equal(store[:].values.numpy(), np.concatenate(played))
    assert len(np.unique(played[0], axis=0)) > 1 and (played[0][0] == played[0][0][0]).all()


VIDEO = ("prompt={path}/video.yaml", f"vlm={folder(CASE['qwen2_5_vl'])}", "vlm_options.image_size=16")


@pytest.mark.parametrize("overrides", [(), VIDEO], ids=["images", "video"])
def test_stored_states_of_a_prompt_equal_those_of_playing_the_episode(toy, dataset, overrides, tmp_path):
    """Batches of other sizes change the last bits of a state."""
    config = toy(*(override.format(path=tmp_path) for override in overrides))
    store, encoder = embed(dataset.folder, config), build.encoder(config, dataset.frame_shape)
    played = np.concatenate([play(dataset, encoder, number) for number in range(EPISODES)])
    np.testing.assert_allclose(store[:].values.numpy(), played, atol=2e-3)


def test_batches_and_samples_have_the_frames_of_one_episode(tmp_path):
    """Rows 0 to 2 are an episode and rows 3 and 4 another; frame n has value n."""
    episodes = [{"rewards": [0.0, 0.0], "terminated": True}, {"rewards": [0.0], "terminated": True}]
    recording = Recording(write(tmp_path / "a", episodes))
    whole, rest = ([frames[..., 0, 0, 0].tolist() for frames, _ in recording.batches(row, 4, 3)] for row in (0, 2))
    assert whole == [[[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3]], [[3, 3, 4]]]
    assert rest == [[[0, 1, 2], [3, 3, 3], [3, 3, 4]]]
    assert recording.sample(3, 2)[0][..., 0, 0, 0].tolist() == [[0, 0], [1, 2], [3, 4]]


def test_number_of_frames_is_part_of_the_key(toy, dataset, tmp_path):
    """Without image tokens, the tokens of the three prompts have one shape."""
    configs = [
        toy(f"prompt={tmp_path}/{name}.yaml", "encoder_options={segments: [prompt], max_prompt_tokens: 60}")
        for name in (1, 2, 3)
    ]
    keys = [store_key(dataset, build.encoder(config, dataset.frame_shape)) for config in configs]
    assert keys[0] != keys[1] != keys[2] != keys[0]
    assert len({key["tokens"] for key in keys}) == 1
    assert len({embed(dataset.folder, config).path for config in configs}) == 3


@pytest.mark.parametrize("algorithm", ["transitions", "trajectories"])
def test_batches_for_learning_have_the_stored_tokens(toy, dataset, monkeypatch, algorithm):
    monkeypatch.setattr(registry.load("algorithms", "bc").Learner, "learns_from", algorithm)
    config = toy("encoder=colours", "encoder_options={}")
    source = batch_source(config, build.encoder(config, dataset.frame_shape), dataset)
    frames = np.concatenate([frames for frames, _ in dataset.batches(0, 99)]).max(axis=(1, 2))
    starts = set(dataset.starts.tolist())
    expected = {(frames[row - (row not in starts)].tobytes(), frames[row].tobytes()) for row in range(len(frames))}
    for batch in source.next_batch(4) if algorithm == "trajectories" else [source.next_batch(20)]:
        tokens = batch.observations["tokens"].numpy().astype(np.uint8)
        assert {(row[1].tobytes(), row[2].tobytes()) for row in tokens} <= expected
        assert tokens.shape[1:] == (3, 3)


@pytest.mark.parametrize("pca", ["null", "4"])
def test_behaviour_cloning_from_a_prompt_of_two_frames(toy, dataset, tmp_path, pca):
    run = train(toy(f"encoder_options.pca={pca}", "encoder_options.pca_frames=20"), root=tmp_path / "runs")
    assert (run / "results.json").is_file()
    [store] = Path(dataset.folder / "embeddings").iterdir()
    assert (store / "fitted.safetensors").is_file() == (pca == "4")
    agent = load_run(run)
    assert agent.encoder.frame_history == 2
    observation, info = agent.make_env().reset(seed=0)
    assert agent.act(observation, info["context"], greedy=True) in (0, 1, 2)


def test_ppo_with_a_video_of_the_last_frames(toy, tmp_path):
    """A policy learns on the tokens of a video, and acts after loading with the frames of its own episode."""
    overrides = [override.format(path=tmp_path) for override in VIDEO]
    overrides += ["algorithm=ppo", "data=null", "num_envs=2", "steps=32"]
    overrides += ["algorithm_options={n_steps: 8, batch_size: 8, n_epochs: 1, device: cpu}"]
    run = train(toy(*overrides), root=tmp_path / "runs")
    assert (run / "results.json").is_file()
    agent = load_run(run)
    assert agent.encoder.frame_history == 3
    observation, info = agent.make_env().reset(seed=0)
    assert agent.act(observation, info["context"], greedy=True) in (0, 1, 2)
