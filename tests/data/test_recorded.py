"""Runs that learn from recorded episodes, in the toy world, whose oracle makes no mistakes, and in Doom."""

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
import toy_runs
import yaml
from toy_runs import FITTED, TOY_WORLD, assert_same_run, metrics, wait_for_checkpoint, weights

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

TOY = toy_runs.TOY | {
    "algorithm": "bc",
    "algorithm_options": {"learning_rate": 0.03, "batch": 64, "lstm_layers": 1, "lstm_size": 8, "device": "cpu"},
}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """The data set of all tests, which each test copies; the first one writes it."""
    return tmp_path_factory.mktemp("data") / "episodes"


@pytest.fixture
def toy(write_plugin, tmp_path, collected):
    """toy(key=value, ...) -> config of a run on 20 episodes of the toy world's oracle with a third of noise actions."""
    write_plugin("environments", "toy", TOY_WORLD)
    if not collected.exists():
        collect("toy", "colours", collected, policy="oracle", episodes=20, noise=0.33)
    shutil.copytree(collected, tmp_path / "episodes")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**TOY, "data": str(tmp_path / "episodes")}))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.mark.pictures
def test_run_clones_the_oracle_and_writes_all_files(toy, tmp_path):
    run = train(toy("steps=8000"), root=tmp_path / "runs")
    result = json.loads((run / "results.json").read_text())
    assert run.name.startswith("toy-colours-bc-pixels-seed0-")
    assert result["evaluation"]["success"]["value"] >= 0.9 > 0.1 >= result["random"]["success"]["value"]
    rows = metrics(run)
    assert float(rows[-1]["train/accuracy"]) == 1 and "return" not in rows[0]
    expected = {"config.yaml", "run.json", "metrics.csv", "tensorboard", "checkpoints", "curves.png", "video.mp4"}
    assert expected <= {path.name for path in run.iterdir()}
    assert registry.load("environments", "toy").Colours.open_engines == 0
    results = (run / "results.json").read_text()
    evaluate(run)
    assert (run / "results.json").read_text() == results


def test_noise_replaces_actions_and_infos_keep_the_choice(toy, tmp_path):
    """The oracle's choice is the colour of the frame, and the reward is 1 where the action is this choice."""
    dataset = minari.MinariDataset(tmp_path / "episodes" / "data")
    noisy = []
    for episode in dataset:
        colours = episode.observations["frame"].reshape(len(episode.actions) + 1, -1, 3).any(axis=1).argmax(axis=1)
        assert episode.infos["choice"].tolist() == colours[:-1].tolist()
        assert (episode.rewards == (episode.actions == colours[:-1])).all()
        noisy.extend(episode.actions != episode.infos["choice"])
    assert 0.12 < np.mean(noisy) < 0.32  # a third of the actions is random, and a third of these equals the choice
    assert dataset.storage.metadata["noise"] == 0.33


def test_noise_depends_on_the_seed_of_the_episode_only(toy, tmp_path):
    collect("toy", "colours", tmp_path / "later", policy="oracle", episodes=3, noise=0.33, seed=5)
    whole, later = (minari.MinariDataset(tmp_path / name / "data") for name in ("episodes", "later"))
    assert [whole[5 + i].actions.tolist() for i in range(3)] == [later[i].actions.tolist() for i in range(3)]


def test_noise_has_no_ending_actions(toy, tmp_path, monkeypatch):
    """Action 2 occurs only where the oracle chooses it."""
    monkeypatch.setattr(registry.load("environments", "toy"), "ENDING_ACTIONS", (2,), raising=False)
    collect("toy", "colours", tmp_path / "noisy", policy="oracle", episodes=5, noise=0.9)
    for episode in minari.MinariDataset(tmp_path / "noisy" / "data"):
        noise = episode.actions[episode.actions != episode.infos["choice"]]
        assert len(noise) and 2 not in noise


def test_without_noise_expert_actions_are_the_actions(toy, tmp_path):
    collect("toy", "colours", tmp_path / "clean", policy="oracle", episodes=2)
    assert minari.MinariDataset(tmp_path / "clean" / "data")[0].infos is None
    config = toy()
    trajectory = Episodes(Recording(tmp_path / "clean"), embed(tmp_path / "clean", config))[0]
    assert trajectory.expert_actions.tolist() == trajectory.actions.tolist()


def test_trajectory_holds_recorded_steps_and_embedded_frames(toy, tmp_path):
    config = toy()
    store, dataset = embed(tmp_path / "episodes", config), minari.MinariDataset(tmp_path / "episodes" / "data")
    episodes, encoder = Episodes(Recording(tmp_path / "episodes"), store), build.encoder(config)
    assert len(episodes) == 20
    for number in (0, 7, 19):
        trajectory, episode = episodes[number], dataset[number]
        tokens = encoder.encode(episode.observations["frame"], [{}] * (len(episode.actions) + 1))
        assert torch.equal(trajectory.observations["tokens"], tokens.values.half())
        assert torch.equal(trajectory.observations["mask"], tokens.mask)
        assert np.array_equal(trajectory.observations["proprio"], episode.observations["proprio"])
        assert np.array_equal(trajectory.actions, episode.actions)
        assert np.array_equal(trajectory.expert_actions, episode.infos["choice"])
        assert np.array_equal(trajectory.rewards, episode.rewards)
        assert np.array_equal(trajectory.terminated, episode.terminations)
        assert np.array_equal(trajectory.truncated, episode.truncations)
        discounts = 0.99 ** np.arange(len(trajectory))
        assert trajectory.monte_carlo_returns[0].item() == pytest.approx((episode.rewards * discounts).sum())
        assert trajectory.monte_carlo_returns[-1] == trajectory.rewards[-1]
        assert len(trajectory.contexts) == len(trajectory) + 1


def test_training_on_embedded_episodes_does_not_encode_frames(toy, tmp_path, monkeypatch):
    """With stored embeddings, a run uses neither the encoder nor a simulator before the evaluation."""
    embed(tmp_path / "episodes", toy())
    config = toy("steps=64")
    encoder = build.encoder(config)
    monkeypatch.setattr(type(encoder), "encode", lambda *arguments: pytest.fail("encoded"))
    monkeypatch.setattr(registry.load("environments", "toy").Colours, "reset", lambda *a, **b: pytest.fail("played"))
    assert len(batch_source(config, encoder, recording(config))) == 20
    with pytest.raises(pytest.fail.Exception, match="played"):
        train(config, root=tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert metrics(run) and not (run / "results.json").exists()  # it has trained and then failed in the evaluation


def test_equal_seeds_give_equal_runs(toy, tmp_path):
    run, same, other = (train(toy("steps=192", f"seed={seed}"), root=tmp_path / "runs") for seed in (0, 0, 1))
    assert_same_run(run, same)
    assert metrics(run) != metrics(other)


def test_extended_run_equals_a_longer_run(toy, tmp_path):
    words = ("algorithm_options.schedule=constant", "evaluation_episodes=1")
    run = train(toy("steps=192", *words), root=tmp_path / "runs")
    longer = train(toy("steps=640", *words), root=tmp_path / "longer")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=640"]), resume=run), longer)


@pytest.mark.pictures
@pytest.mark.parametrize("algorithm", ["filtered_bc", "digirl", "digiq"])
def test_algorithms_that_learn_from_outcomes_write_all_files(toy, tmp_path, algorithm):
    words = [f"algorithm={algorithm}", "algorithm_options={device: cpu}", "steps=256", "evaluation_episodes=1"]
    run = train(toy(*words), root=tmp_path / "runs")
    assert {"results.json", "metrics.csv", "curves.png", "video.mp4"} <= {path.name for path in run.iterdir()}
    assert int(metrics(run)[-1]["step"]) >= 256


ONLINE = {
    "n_steps": 8, "updates": 2, "trajectories": 4, "critic_sizes": (8,), "device": "cpu", "offline_updates": 5,
}  # fmt: skip


def test_offline_to_online_run_continues_with_its_replay(toy, tmp_path):
    """A run that learns from recorded episodes, then from its own, equals one that is extended after 192 steps."""
    words = ["algorithm=digirl_online", f"algorithm_options={json.dumps(ONLINE)}", "evaluation_episodes=1"]
    run = train(toy("steps=192", *words), root=tmp_path / "runs")
    rows = metrics(run)
    assert [int(row["step"]) for row in rows[:7]] == [0] * 5 + [32, 64] and rows[0]["train/value_loss"]
    assert any("replay/0/observations/tokens" in name for name in weights(run)[1])
    longer = train(toy("steps=640", *words), root=tmp_path / "longer")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=640"]), resume=run), longer)


@pytest.mark.slow  # tests/training/test_train.py kills a run, too
def test_resume_after_kill_equals_uninterrupted_run(toy, tmp_path):
    """SIGKILL at some time after a checkpoint, in the middle of an epoch."""
    toy()
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    words = ["steps=40000", "checkpoint_every=500", "evaluation_episodes=1"]
    command = [sys.executable, "-m", "pr2l", "train", "toy.yaml", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, **pipes)
    try:
        killed = wait_for_checkpoint(tmp_path, process, 500)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert int(weights(killed)[0]) < 20_000
    resumed = train(load_config(killed / "config.yaml"), resume=killed)
    assert_same_run(resumed, train(toy(*words), root=tmp_path / "uninterrupted"))


def test_encoder_is_fitted_on_the_data_set_and_restored_from_the_checkpoint(toy, tmp_path, write_plugin):
    key = "    def key(self): return {'shift': self.shift.tolist()}\n    def encode"
    write_plugin("encoders", "fitted", FITTED.replace("    def encode", key))
    config = toy("steps=64", "encoder=fitted", "encoder_options={}")
    run = train(config, root=tmp_path / "runs")
    shift = Recording(tmp_path / "episodes").sample(40)[0].mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(weights(run)[1]["encoder/shift"], shift, rtol=1e-5)
    train(load_config(run / "config.yaml", ["steps=128"]), resume=run)
    assert registry.load("encoders", "fitted").FIT_CALLS == [(40, 40)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=null"], "bc learns from recorded episodes.*data=FOLDER"),
        (["algorithm=ppo", "algorithm_options={}"], "ppo learns from its own rollouts.*data=null"),
        (["data=absent"], "absent is not a data set: .*pr2l collect"),
        (["environment=doors", "task=choose"], "toy/colours.*doors/choose"),
        (["encoder=oracle", "encoder_options={}"], "'oracle' reads labels"),
    ],
)
def test_incompatible_options_are_rejected_before_the_run_folder_exists(examples, toy, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        train(toy(*overrides), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_other_spaces_are_rejected_for_a_data_set_without_environment_name(examples, toy, tmp_path):
    metadata = tmp_path / "episodes" / "data" / "metadata.json"
    values = json.loads(metadata.read_text())
    del values["environment"], values["task"], values["description"]
    metadata.write_text(json.dumps(values))
    (tmp_path / "episodes" / "collect.json").unlink()
    with pytest.raises(UserError, match="observation_space of the data set.*environment_options"):
        train(toy("environment=doors", "task=choose"), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_training_needs_no_simulator_before_the_evaluation(toy, tmp_path, monkeypatch):
    """The shape of the frames and the learner's spaces come from the data set."""

    def not_installed(*arguments, **options):
        raise ImportError("the toy simulator is not installed")

    monkeypatch.setattr(registry.load("environments", "toy"), "make", not_installed)
    with pytest.raises(ImportError, match="not installed"):
        train(toy("steps=64"), root=tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    assert metrics(run) and weights(run)[0] and not (run / "results.json").exists()


@pytest.fixture
def make_calls(toy, monkeypatch):
    """List that grows with each environment of the toy world that is made."""
    module, calls = registry.load("environments", "toy"), []
    make = module.make
    monkeypatch.setattr(module, "make", lambda *arguments, **options: calls.append(1) or make(*arguments, **options))
    return calls


@pytest.mark.parametrize(
    ("metadata", "overrides", "count"),
    [
        ({}, [], 0),
        ({"environment_options": {}}, [], 0),  # earlier versions stored only the options that were set
        ({}, ["environment_options.crash_at=999"], 1),  # other options may mean other spaces
        ({"environment_options": {"speed": 3}}, [], 1),  # an option that no longer exists
        ({"environment_options": None}, [], 1),  # of an unknown program
        ({"environment": None}, [], 1),
    ],
)
def test_environments_are_made_before_the_evaluation_only_if_options_differ(
    toy, tmp_path, monkeypatch, make_calls, metadata, overrides, count
):
    file = tmp_path / "episodes" / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | metadata))
    (tmp_path / "episodes" / "collect.json").unlink()
    before_evaluation = []
    monkeypatch.setattr("pr2l.training.train.report", lambda *arguments: before_evaluation.append(len(make_calls)))
    config = toy("steps=64", *overrides)
    train(config, root=tmp_path / "runs")
    assert before_evaluation == [count]


def test_check_and_evaluation_make_one_environment_per_parallel_episode(toy, tmp_path, make_calls):
    assert all(finding.good for finding in findings(toy("num_envs=3", "evaluation_episodes=2")))
    assert len(make_calls) == 1 + 2 + 2  # for the spaces, for the memory of one, and those of the evaluation
    del make_calls[1:]
    run = train(toy("steps=64", "num_envs=2", "evaluation_episodes=2"), root=tmp_path / "runs")
    assert len(make_calls) == 1 + 2
    evaluate(run)
    assert len(make_calls) == 1 + 2 + 3  # one of them for the spaces


TRANSITIONS = """
from typing import ClassVar
from pydantic import BaseModel
class Defaults(BaseModel):
    gamma: float = 0.5
    n_step: int = 2
class Learner:
    learns_from: ClassVar = "transitions"
"""


def test_transitions_have_the_discount_and_n_step_rewards_of_the_algorithm(toy, tmp_path, write_plugin):
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


def test_check_reports_the_number_of_passes_over_the_data(toy, tmp_path):
    transitions = sum(len(episode.actions) for episode in minari.MinariDataset(tmp_path / "episodes" / "data"))
    by_name = {finding.what: finding for finding in findings(toy(f"steps={transitions * 5}"))}
    assert all(finding.good for finding in by_name.values())
    assert by_name["data"].description.startswith(f"20 episodes of {transitions} transitions in {tmp_path}")
    assert by_name["data"].description.endswith("steps see each 5 times")
    assert "policy" in by_name and not {"memory", "first steps"} & by_name.keys()
    assert not {finding.what: finding for finding in findings(toy("data=null"))}["data"].good


DOOM = {
    **TOY,
    "environment": "doom",
    "environment_options": {"rooms": 4},
    "task": "fetch",
    "vlm": "tiny",
    "vlm_options": {"new_tokens": 1, "image_size": 32},
    "prompt": "where",
    "encoder": "prompted",
    "encoder_options": {"image_tokens": 4},
    "num_envs": 2,
    "steps": 300,
    "evaluation_episodes": 2,
}


def test_collect_embed_train_and_evaluate_in_doom(tmp_path):
    """The oracle succeeds in spite of the noise."""
    options = DOOM["environment_options"]
    data = tmp_path / "episodes"
    dataset = collect("doom", "fetch", data, policy="oracle", episodes=3, options=options, noise=0.1)
    metadata = list(dataset.storage.get_episode_metadata(range(3)))
    assert sum(episode["success"] for episode in metadata) >= 2
    (tmp_path / "doom.yaml").write_text(yaml.safe_dump({**DOOM, "data": str(data)}))
    config = load_config(tmp_path / "doom.yaml")
    store = embed(data, config)
    run = train(config, root=tmp_path / "runs")
    assert [path.name for path in (data / "embeddings").iterdir()] == [store.path.name]
    rows = metrics(run)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert json.loads((run / "results.json").read_text())["evaluation"]["episodes"] == 2
