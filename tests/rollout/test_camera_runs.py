"""Runs with two cameras: the example of docs/encoders.md, PPO, recorded episodes, stored embeddings, loaded agents."""

import re
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import yaml
from pages import DOCS, python_blocks
from picture_worlds import Arm
from small_vlms import CASE, folder

import pr2l
from pr2l.core import prompt
from pr2l.core.config import load_config
from pr2l.data.embed import embed
from pr2l.data.recording import Recording
from pr2l.encoders.common.cache import uncached
from pr2l.rollout import build
from pr2l.training.collect import collect
from pr2l.training.train import train

PAGE = DOCS / "encoders.md"
KEYS = ["front", "wrist"]


@pytest.fixture
def cup(tmp_path, monkeypatch) -> Path:
    """The prompt of the page, in the working folder."""
    [block] = [
        text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "cameras" in text
    ]
    (tmp_path / "cup.yaml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cup.yaml"


def states_of_times(encoder, times):
    """Return the tokens for the front camera now, and the wrist camera at the two last times."""
    rows = [
        [np.full((6, 8, 3), value, np.uint8) for value in (time, 10 * max(time - 1, 0), 10 * time)] for time in times
    ]
    prompts = encoder.prompts([{}] * len(rows))
    hidden = encoder.vlm.hidden(rows, prompts, prompt_tokens=encoder.prompts.tokens)
    return hidden.states.transpose(1, 2).flatten(2).numpy()


def test_example_of_the_page_learns_from_two_cameras(cup):
    [block] = [text for text in python_blocks(PAGE) if "frame=" in text]
    names = {"pr2l": pr2l, "stable_baselines3": stable_baselines3, "env": Arm(), "vlm": str(folder(CASE["smolvlm"]))}
    exec(block, names)
    assert names["model"].num_timesteps == 16
    venv = names["venv"]
    observations = [venv.reset()["tokens"], *(venv.step([0])[0]["tokens"] for _ in range(2))]
    expected = states_of_times(uncached(venv.encoder), [0, 1, 2])
    np.testing.assert_allclose(np.concatenate(observations), expected, atol=2e-3)


def test_ppo_recorded_episodes_stored_embeddings_and_a_loaded_agent(cup, tmp_path):
    values = {
        "why": "a test",
        "environment": "picture_worlds:Arm",
        "environment_options": {"frame": KEYS},
        "task": "default",
        "encoder": "prompted",
        "vlm": str(folder(CASE["smolvlm"])),
        "vlm_options": {"generation": "none"},
        "prompt": str(cup),
        "network": "mlp",
        "algorithm": "ppo",
        "algorithm_options": {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu"},
        "num_envs": 2,
        "steps": 16,
        "evaluation_episodes": 1,
    }
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(values))
    config = load_config(tmp_path / "arm.yaml", [])
    run = train(config, root=tmp_path / "runs")
    collect("picture_worlds:Arm", "default", tmp_path / "episodes", episodes=2, options={"frame": KEYS})
    recording = Recording(tmp_path / "episodes")
    assert recording.frame_shape == (6, 16, 3)
    encoder = build.encoder(config, recording.frame_shape)
    stored = embed(recording.folder, config)[:].values.numpy()
    np.testing.assert_allclose(stored, states_of_times(uncached(encoder), [0, 1, 2, 3] * 2), atol=2e-3)
    agent = pr2l.load_run(run)
    observation, info = agent.make_env().reset(seed=0)
    assert agent.act(observation, info["context"], greedy=True) in (0, 1)


def test_prompt_of_the_page_takes_two_frames_of_one_camera(cup):
    loaded = prompt.load(str(cup))
    assert (loaded.images, loaded.cameras, loaded.views) == (2, ("front", "wrist"), ("front", "wrist", "wrist"))
