"""Every algorithm in the registry implements the interface of policies/base.py."""

import json
import tempfile
from typing import get_args

import numpy as np
import pytest
import torch
from test_bc import episodes
from test_bc import source as trajectories
from token_world import spaces_and_count, token_worlds
from transitions import TransitionList

from pr2l.core import registry
from pr2l.policies.base import Hooks, LearnsFrom
from pr2l.policies.networks import mlp

NUM_ACTIONS = 3
ALGORITHMS = registry.names("algorithms")


def worlds(algorithm):
    """Return environments with one token that names the action for `follow`, and two tokens for the others."""
    shape = {"tokens": 1, "width": NUM_ACTIONS} if algorithm == "follow" else {}
    return token_worlds(num_actions=NUM_ACTIONS, horizon=5, **shape)


def create(algorithm, seed=0):
    module = registry.load("algorithms", algorithm)
    small = {
        "device": "cpu",
        "n_steps": 8,
        "batch": 20,
        "trajectories": 4,
        "batch_size": 16,
        "lstm_size": 8,
        "critic_sizes": (8,),
        "n": 3,
    }
    options = module.Defaults(**{key: value for key, value in small.items() if key in module.Defaults.model_fields})
    network = mlp.Network, mlp.Defaults(hidden=(8,))
    return module.create(*spaces_and_count(worlds(algorithm)), *network, options, seed=seed)


def source(learner, algorithm):
    """Return the kind of data that the learner declares to learn from."""
    if learner.learns_from == "trajectories":
        return trajectories()
    if learner.learns_from == "transitions":
        return TransitionList(episodes(), 0)
    assert learner.learns_from == "rollouts", "add such data to this test"
    return worlds(algorithm)


class Recorder(Hooks):
    def __init__(self):
        self.names, self.info_count, self.metrics, self.state = [], 0, [], None

    def on_update_start(self, learner):
        self.names.append("start")
        self.state = learner.state_dict()

    def on_step(self, infos):
        self.info_count += len(infos)

    def on_update(self, metrics):
        self.names.append("update")
        self.metrics.append(metrics)

    def on_end(self, learner):
        self.names.append("end")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learns_from_is_an_attribute_of_the_class(algorithm):
    module = registry.load("algorithms", algorithm)
    assert module.Learner.learns_from in get_args(LearnsFrom)
    assert isinstance(create(algorithm), module.Learner)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hooks_and_state_dict(algorithm):
    learner, recorder = create(algorithm), Recorder()
    assert learner.num_timesteps == 0
    learner.learn(source(learner, algorithm), 64, recorder)
    count = len(recorder.metrics)
    assert count >= 2 and recorder.names == ["start", "update"] * count + ["end"]
    assert learner.num_timesteps >= 64
    assert recorder.info_count == (learner.num_timesteps if learner.learns_from == "rollouts" else 0)
    assert all(isinstance(float(value), float) for metrics in recorder.metrics for value in metrics.values())
    tensors, values = learner.state_dict()
    assert all(isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" for tensor in tensors.values())
    other = create(algorithm, seed=1)
    other.load_state_dict(tensors, json.loads(json.dumps(values, allow_nan=False)))
    assert other.num_timesteps == learner.num_timesteps
    restored, _ = other.state_dict()
    assert restored.keys() == tensors.keys() and all(torch.equal(restored[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_act_accepts_any_number_of_rows_and_greedy_is_deterministic(algorithm, rows):
    learner = create(algorithm)
    observation = {key: np.repeat(value[:1], rows, axis=0) for key, value in worlds(algorithm).reset().items()}
    first = learner.act(observation, greedy=True)
    assert (
        first.actions.shape == (rows,)
        and set(first.actions) <= set(range(NUM_ACTIONS))
        and len(set(first.actions)) == 1
    )
    assert first.log_probabilities is None or (first.log_probabilities <= 0).all()
    second = learner.act(observation, first.memory, np.ones(rows, bool), greedy=True)
    assert second.actions.tolist() == first.actions.tolist()  # a new episode starts with an empty memory


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_load_policy_copies_the_policy(algorithm):
    learner, other = create(algorithm), create(algorithm, seed=1)
    observation = token_worlds(count=64, num_actions=NUM_ACTIONS).reset()
    if algorithm == "follow":
        observation = {"tokens": observation["tokens"][:, :1, :NUM_ACTIONS], "mask": observation["mask"][:, :1]}
    other.load_policy(learner.state_dict()[0])
    ours, theirs = (policy.act(observation, greedy=True) for policy in (learner, other))
    assert ours.actions.tolist() == theirs.actions.tolist()
    assert learner.parameter_count == other.parameter_count and learner.device == torch.device("cpu")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_logger_folder_is_created(algorithm, tmp_path, monkeypatch):
    """Stable-Baselines3's own logger would create one and never delete it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learner = create(algorithm)
    learner.learn(source(learner, algorithm), 32, Hooks())
    assert list(tmp_path.glob("SB3-*")) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_gives_the_same_training(algorithm):
    states = []
    for _ in range(2):
        learner = create(algorithm)
        data = source(learner, algorithm)
        if learner.learns_from == "rollouts":
            data.seed(0)
        learner.learn(data, 64, Hooks())
        states.append(learner.state_dict()[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
