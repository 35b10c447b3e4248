"""Runs that learn from recorded episodes: in the toy world, whose expert never errs, and the whole way in Doom."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
import yaml
from test_train import assert_same_run, metrics, wait_for_step, weights

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.data.embed import embed
from pr2l.data.recorded import batch_source, recording
from pr2l.data.recording import Recording
from pr2l.data.sources import Episodes, TransitionSource
from pr2l.rollout import build
from pr2l.training.check import findings
from pr2l.training.collect import collect
from pr2l.training.evaluate import evaluate
from pr2l.training.train import train

TOY = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "pixels",
    "encoder_options": {"size": 8},
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "algorithm": "bc",
    "algorithm_options": {"learning_rate": 0.03, "batch": 64, "lstm_layers": 1, "lstm_size": 8, "device": "cpu"},
    "num_envs": 4,
    "steps": 640,
    "checkpoint_every": 128,
    "evaluation_episodes": 10,
}


COLLECTED = {}  # the folder of the one data set that all tests copy


@pytest.fixture
def toy(write_plugin, tmp_path, tmp_path_factory):
    """toy(key=value, ...) -> config of a run on 20 episodes of the toy world's oracle, a third of its actions noise."""
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text())
    if not COLLECTED:
        COLLECTED["toy"] = tmp_path_factory.mktemp("data") / "episodes"
        collect("toy", "colours", COLLECTED["toy"], policy="oracle", episodes=20, noise=0.33)
    shutil.copytree(COLLECTED["toy"], tmp_path / "episodes")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**TOY, "data": str(tmp_path / "episodes")}))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.mark.pictures
def test_a_run_clones_the_expert_and_leaves_everything_behind(toy, tmp_path):
    run = train(toy("steps=8000"), root=tmp_path / "runs")
    result = json.loads((run / "results.json").read_text())
    assert run.name.startswith("toy-colours-bc-pixels-seed0-")
    assert result["evaluation"]["success"]["value"] >= 0.9 > 0.1 >= result["random"]["success"]["value"]
    rows = metrics(run)
    assert float(rows[-1]["train/accuracy"]) == 1 and "return" not in rows[0]
    expected = {"config.yaml", "run.json", "metrics.csv", "tensorboard", "checkpoints", "curves.png", "video.mp4"}
    assert expected <= {path.name for path in run.iterdir()}
    assert registry.load("environments", "toy").Colours.open_engines == 0
    once = (run / "results.json").read_text()
    evaluate(run)
    assert (run / "results.json").read_text() == once


def test_noise_is_taken_and_the_choice_is_kept(toy, tmp_path):
    """The oracle does what the frame's colour stands for, so the choices can be seen, and are what is rewarded."""
    dataset = minari.MinariDataset(tmp_path / "episodes" / "data")
    noisy = []
    for episode in dataset:
        colours = episode.observations["frame"].reshape(len(episode.actions) + 1, -1, 3).any(axis=1).argmax(axis=1)
        assert episode.infos["choice"].tolist() == colours[:-1].tolist()
        assert (episode.rewards == (episode.actions == colours[:-1])).all()
        noisy.extend(episode.actions != episode.infos["choice"])
    assert 0.12 < np.mean(noisy) < 0.32  # a third of them drawn, and a third of these as the oracle's
    assert dataset.storage.metadata["noise"] == 0.33


def test_noise_is_the_same_wherever_an_episode_stands_in_a_data_set(toy, tmp_path):
    collect("toy", "colours", tmp_path / "later", policy="oracle", episodes=3, noise=0.33, seed=5)
    here, there = (minari.MinariDataset(tmp_path / name / "data") for name in ("episodes", "later"))
    assert [here[5 + i].actions.tolist() for i in range(3)] == [there[i].actions.tolist() for i in range(3)]


def test_noise_does_not_end_an_episode(toy, tmp_path, monkeypatch):
    """Never action 2, unless the oracle itself says so."""
    monkeypatch.setattr(registry.load("environments", "toy"), "ENDING_ACTIONS", (2,), raising=False)
    collect("toy", "colours", tmp_path / "going", policy="oracle", episodes=5, noise=0.9)
    for episode in minari.MinariDataset(tmp_path / "going" / "data"):
        drawn = episode.actions[episode.actions != episode.infos["choice"]]
        assert len(drawn) and 2 not in drawn


def test_without_noise_the_actions_are_the_labels(toy, tmp_path):
    collect("toy", "colours", tmp_path / "clean", policy="oracle", episodes=2)
    assert minari.MinariDataset(tmp_path / "clean" / "data")[0].infos is None
    config = toy()
    one = Episodes(Recording(tmp_path / "clean"), embed(tmp_path / "clean", config))[0]
    assert one.expert_actions.tolist() == one.actions.tolist()


def test_a_trajectory_is_what_was_recorded_and_embedded(toy, tmp_path):
    config = toy()
    store, dataset = embed(tmp_path / "episodes", config), minari.MinariDataset(tmp_path / "episodes" / "data")
    episodes, encoder = Episodes(Recording(tmp_path / "episodes"), store), build.encoder(config)
    assert len(episodes) == 20
    for number in (0, 7, 19):
        one, episode = episodes[number], dataset[number]
        tokens = encoder.encode(episode.observations["frame"], [{}] * (len(episode.actions) + 1))
        assert torch.equal(one.observations["tokens"], tokens.values.half())
        assert torch.equal(one.observations["mask"], tokens.mask)
        assert np.array_equal(one.observations["proprio"], episode.observations["proprio"])
        assert np.array_equal(one.actions, episode.actions)
        assert np.array_equal(one.expert_actions, episode.infos["choice"])
        assert np.array_equal(one.rewards, episode.rewards)
        assert np.array_equal(one.terminated, episode.terminations)
        assert np.array_equal(one.truncated, episode.truncations)
        discounts = 0.99 ** np.arange(len(one))
        assert one.monte_carlo_returns[0].item() == pytest.approx((episode.rewards * discounts).sum())
        assert one.monte_carlo_returns[-1] == one.rewards[-1] and len(one.contexts) == len(one) + 1


def test_the_encoder_is_not_asked_in_training(toy, tmp_path, monkeypatch):
    """Embedded before, the run does not even look: an encoder or a simulator that fails would not be noticed."""
    embed(tmp_path / "episodes", toy())
    config = toy("steps=64")
    encoder = build.encoder(config)
    monkeypatch.setattr(type(encoder), "encode", lambda *given: pytest.fail("was asked"))
    monkeypatch.setattr(registry.load("environments", "toy").Colours, "reset", lambda *a, **b: pytest.fail("played"))
    assert len(batch_source(config, encoder, recording(config))) == 20
    with pytest.raises(pytest.fail.Exception, match="played"):
        train(config, root=tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert metrics(run) and not (run / "results.json").exists()  # trained, and failed at the evaluation


def test_same_seed_same_run_and_another_seed_another(toy, tmp_path):
    runs = [train(toy("steps=192", f"seed={seed}"), root=tmp_path / "runs") for seed in (0, 0, 1)]
    assert_same_run(runs[0], runs[1])
    assert metrics(runs[0]) != metrics(runs[2])


def test_a_prolonged_run_is_never_interrupted(toy, tmp_path):
    words = ("algorithm_options.schedule=constant", "evaluation_episodes=1")
    run = train(toy("steps=192", *words), root=tmp_path / "runs")
    whole = train(toy("steps=640", *words), root=tmp_path / "whole")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=640"]), resume=run), whole)


@pytest.mark.slow  # tests/training/test_train.py kills a run, too
def test_killed_and_resumed_is_never_killed(toy, tmp_path):
    """kill -9 at some moment after a checkpoint, in the middle of an epoch."""
    toy()
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    words = ["steps=40000", "checkpoint_every=500", "evaluation_episodes=1"]
    command = [sys.executable, "-m", "pr2l.cli", "train", "toy.yaml", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, **pipes)
    try:
        killed = wait_for_step(tmp_path, process, 500)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert int(weights(killed)[0]) < 20_000
    resumed = train(load_config(killed / "config.yaml"), resume=killed)
    assert_same_run(resumed, train(toy(*words), root=tmp_path / "whole"))


def test_what_is_fitted_on_the_data_set_comes_with_the_run(toy, tmp_path, write_plugin):
    from test_train import FITTED

    key = "    def key(self): return {'shift': self.shift.tolist()}\n    def encode"
    write_plugin("encoders", "fitted", FITTED.replace("    def encode", key))
    config = toy("steps=64", "encoder=fitted", "encoder_options={}")
    run = train(config, root=tmp_path / "runs")
    shift = Recording(tmp_path / "episodes").sample(40)[0].mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(weights(run)[1]["encoder/shift"], shift, rtol=1e-5)
    train(load_config(run / "config.yaml", ["steps=128"]), resume=run)
    assert registry.load("encoders", "fitted").FITTED == [(40, 40)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=null"], "bc learns from recorded episodes, .* none: .*data=FOLDER"),
        (["algorithm=ppo", "algorithm_options={}"], "ppo plays its own episodes .*data=null"),
        (["data=absent"], "absent is no data set: .*pr2l collect"),
        (["environment=doors", "task=choose"], "was recorded in toy/colours, .* doors/choose"),
        (["encoder=oracle", "encoder_options={}"], "'oracle' reads labels"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_there_is_a_run(examples, toy, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        train(toy(*overrides), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_spaces_that_differ_are_refused_where_nothing_says_what_was_recorded(examples, toy, tmp_path):
    metadata = tmp_path / "episodes" / "data" / "metadata.json"
    values = json.loads(metadata.read_text())
    del values["environment"], values["task"], values["description"]
    metadata.write_text(json.dumps(values))
    with pytest.raises(UserError, match="observation_space of the data set .* is Dict.*environment_options"):
        train(toy("environment=doors", "task=choose"), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_learning_needs_no_simulator_until_the_evaluation(toy, tmp_path, monkeypatch):
    """The encoder's frames and the learner's spaces are those of the data set."""

    def absent(*arguments, **options):
        raise ImportError("the toy simulator is not installed")

    monkeypatch.setattr(registry.load("environments", "toy"), "make", absent)
    with pytest.raises(ImportError, match="not installed"):
        train(toy("steps=64"), root=tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert metrics(run) and weights(run)[0] and not (run / "results.json").exists()


TRANSITIONS = """
from typing import ClassVar
from pydantic import BaseModel
class Defaults(BaseModel):
    gamma: float = 0.5
    n_step: int = 2
class Learner:
    learns_from: ClassVar = "transitions"
"""


def test_an_algorithm_that_learns_from_transitions_gets_them(toy, tmp_path, write_plugin):
    """With the discount and the n-step rewards of its options."""
    write_plugin("algorithms", "offline", TRANSITIONS)
    config = toy("algorithm=offline", "algorithm_options={}")
    encoder = build.encoder(config)
    source = batch_source(config, encoder, recording(config))
    episodes = list(minari.MinariDataset(tmp_path / "episodes" / "data"))
    assert isinstance(source, TransitionSource) and len(source) == sum(len(episode.actions) for episode in episodes)
    batch = source.episodes.transitions(np.arange(len(episodes[0].actions)), source.n_step)
    rewards = [*episodes[0].rewards, 0.0]
    assert batch.rewards.tolist() == [rewards[i] + 0.5 * rewards[i + 1] for i in range(len(rewards) - 1)]
    assert batch.discounts.tolist() == [0.25] * (len(rewards) - 2) + [0.5] and batch.truncated[-1]
    assert torch.equal(batch.next_observations["tokens"][:-1], source.episodes[0].observations["tokens"][2:])
    assert batch.expert_actions.tolist() == episodes[0].infos["choice"].tolist()


def test_check_says_how_often_the_data_will_be_seen(toy, tmp_path):
    transitions = sum(len(episode.actions) for episode in minari.MinariDataset(tmp_path / "episodes" / "data"))
    found = {finding.what: finding for finding in findings(toy(f"steps={transitions * 5}"))}
    assert all(finding.good for finding in found.values())
    assert found["data"].found.startswith(f"20 episodes of {transitions} transitions in {tmp_path}")
    assert found["data"].found.endswith("steps see each 5 times")
    assert "policy" in found and "memory" not in found and "first steps" not in found
    assert not {finding.what: finding for finding in findings(toy("data=null"))}["data"].good


DOOM = {
    **TOY,
    "environment": "doom",
    "environment_options": {"rooms": 20},
    "task": "fetch",
    "vlm": "tiny",
    "vlm_options": {"new_tokens": 1},
    "prompt": "where",
    "encoder": "prompted",
    "encoder_options": {"image_tokens": 4},
    "num_envs": 2,
    "steps": 300,
    "evaluation_episodes": 2,
}


def test_the_whole_way_in_doom(tmp_path):
    """Recorded, embedded, cloned and played: every part once. The expert succeeds in spite of the noise."""
    options = DOOM["environment_options"]
    data = tmp_path / "episodes"
    dataset = collect("doom", "fetch", data, policy="oracle", episodes=4, options=options, noise=0.1)
    about = list(dataset.storage.get_episode_metadata(range(4)))
    assert sum(one["success"] for one in about) >= 3
    (tmp_path / "doom.yaml").write_text(yaml.safe_dump({**DOOM, "data": str(data)}))
    config = load_config(tmp_path / "doom.yaml")
    store = embed(data, config)
    run = train(config, root=tmp_path / "runs")
    assert [path.name for path in (data / "embeddings").iterdir()] == [store.path.name]
    rows = metrics(run)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert json.loads((run / "results.json").read_text())["evaluation"]["episodes"] == 2
