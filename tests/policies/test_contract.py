"""Every algorithm in the registry keeps the learner contract: what callers use of it works as policies/base.py says."""

import json
import tempfile
from typing import get_args

import numpy as np
import pytest
import torch
from test_bc import source as trajectories
from token_world import created_for, token_worlds

from pr2l.core import registry
from pr2l.policies.base import Hooks, LearnsFrom
from pr2l.policies.networks import mlp

KINDS = 3
ALGORITHMS = registry.names("algorithms")


def worlds(algorithm):
    """One token that names the action, for `follow`; two of eight numbers for all others."""
    shape = {"tokens": 1, "width": KINDS} if algorithm == "follow" else {}
    return token_worlds(kinds=KINDS, horizon=5, **shape)


def create(algorithm, seed=0):
    module = registry.load("algorithms", algorithm)
    given = {"device": "cpu", "n_steps": 8, "batch": 20, "batch_size": 16, "lstm_size": 8}
    options = module.Defaults(**{key: value for key, value in given.items() if key in module.Defaults.model_fields})
    network = mlp.Network, mlp.Defaults(hidden=(8,))
    return module.create(*created_for(worlds(algorithm)), *network, options, seed=seed)


def source(learner, algorithm):
    """What the learner declares to learn from."""
    if learner.learns_from == "trajectories":
        return trajectories()
    assert learner.learns_from == "rollouts", "teach this test to make such data"
    return worlds(algorithm)


class Calls(Hooks):
    def __init__(self):
        self.names, self.infos, self.metrics, self.state = [], 0, [], None

    def on_update_start(self, learner):
        self.names.append("start")
        self.state = learner.state_dict()

    def on_step(self, infos):
        self.infos += len(infos)

    def on_update(self, metrics):
        self.names.append("update")
        self.metrics.append(metrics)

    def on_end(self, learner):
        self.names.append("end")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_it_learns_from_is_known_before_it_is_created(algorithm):
    module = registry.load("algorithms", algorithm)
    assert module.Learner.learns_from in get_args(LearnsFrom)
    assert isinstance(create(algorithm), module.Learner)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hooks_are_called_around_each_update_and_the_state_is_tensors_and_json(algorithm):
    learner, calls = create(algorithm), Calls()
    assert learner.num_timesteps == 0
    learner.learn(source(learner, algorithm), 64, calls)
    count = len(calls.metrics)
    assert count >= 2 and calls.names == ["start", "update"] * count + ["end"]
    assert learner.num_timesteps >= 64
    assert calls.infos == (learner.num_timesteps if learner.learns_from == "rollouts" else 0)
    assert all(isinstance(float(value), float) for metrics in calls.metrics for value in metrics.values())
    tensors, values = learner.state_dict()
    assert all(isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" for tensor in tensors.values())
    other = create(algorithm, seed=1)
    other.load_state_dict(tensors, json.loads(json.dumps(values, allow_nan=False)))
    assert other.num_timesteps == learner.num_timesteps
    again, _ = other.state_dict()
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_it_acts_for_any_number_of_environments_and_greedily_always_alike(algorithm, rows):
    learner = create(algorithm)
    observation = {key: np.repeat(value[:1], rows, axis=0) for key, value in worlds(algorithm).reset().items()}
    first = learner.act(observation, greedy=True)
    assert first.actions.shape == (rows,) and set(first.actions) <= set(range(KINDS)) and len(set(first.actions)) == 1
    assert first.log_probabilities is None or (first.log_probabilities <= 0).all()
    second = learner.act(observation, first.memory, np.ones(rows, bool), greedy=True)
    assert second.actions.tolist() == first.actions.tolist()  # a new episode begins with an empty memory


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_weights_alone_make_it_act_the_same(algorithm):
    learner, other = create(algorithm), create(algorithm, seed=1)
    observation = token_worlds(count=64, kinds=KINDS).reset()
    if algorithm == "follow":
        observation = {"tokens": observation["tokens"][:, :1, :KINDS], "mask": observation["mask"][:, :1]}
    other.load_policy(learner.state_dict()[0])
    ours, theirs = (each.act(observation, greedy=True) for each in (learner, other))
    assert ours.actions.tolist() == theirs.actions.tolist()
    assert learner.parameter_count == other.parameter_count and learner.device == torch.device("cpu")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_leaves_no_logger_folder(algorithm, tmp_path, monkeypatch):
    """Stable-Baselines3's own logger would make one, and keep it for ever."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learner = create(algorithm)
    learner.learn(source(learner, algorithm), 32, Hooks())
    assert list(tmp_path.glob("SB3-*")) == []
