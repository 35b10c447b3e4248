"""PPO on a world whose answer is known, its memory, and its state taken apart and put together again."""

import copy
import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from token_world import TokenWorld, created_for, token_space, token_worlds

from pr2l.policies import ppo
from pr2l.policies.base import Hooks
from pr2l.policies.networks import mlp, token_transformer

SMALL = {"learning_rate": 3e-3, "n_steps": 32, "n_epochs": 4, "head_sizes": (16,), "lstm_size": 8, "device": "cpu"}
NETWORK = mlp.Defaults(hidden=(16,))


def model(venv, seed=0, **options):
    return ppo.create(*created_for(venv), mlp.Network, NETWORK, ppo.Defaults(**{**SMALL, **options}), seed=seed)


class Recorder(Hooks):
    """Keeps the weights' sums before each rollout, and a copy of everything after `take_at` steps, world included."""

    def __init__(self, take_at=None, world=None):
        self.take_at, self.world, self.trace, self.taken, self.metrics = take_at, world, [], None, []

    def on_update_start(self, learner):
        self.trace.append((learner.num_timesteps, fingerprint(learner)))
        if learner.num_timesteps == self.take_at:
            self.taken = (*learner.state_dict(), copy.deepcopy(self.world))

    def on_update(self, metrics):
        self.metrics.append(metrics)


def fingerprint(learner):
    """Of the weights, as the state has them."""
    weights = sorted(learner.state_dict()[0].items())
    return [tensor.double().sum().item() for name, tensor in weights if name.startswith("policy/")]


def test_learns_to_name_what_it_sees():
    venv = token_worlds(kinds=3, horizon=4)
    trained = ppo.create(
        *created_for(venv),
        token_transformer.Network,
        token_transformer.Defaults(width=16, feedforward=16, summary=16),
        ppo.Defaults(**SMALL),
        seed=0,
    )
    trained.learn(venv, 3000, Recorder())
    observation, returned = venv.reset(), 0.0
    for _ in range(4):
        observation, rewards, _, _ = venv.step(trained.act(observation, greedy=True).actions)
        returned += rewards.mean()
    assert returned == 4


def test_without_handles_the_rollout_stores_half_precision_tokens():
    venv = token_worlds(count=4, tokens=5, width=8)
    buffer = model(venv, n_steps=32, handles=False).model.rollout_buffer
    assert buffer.observations["tokens"].dtype == np.float16
    stored = sum(part.nbytes for part in buffer.observations.values())
    assert stored == 32 * 4 * (5 * 8 * 2 + 5 + 4)
    needed = ppo.rollout_bytes(venv.observation_space, 4, ppo.Defaults(n_steps=32, handles=False))
    assert needed == {"cpu": 2 * stored}  # SB3 flattens a copy


def test_a_long_rollout_takes_what_arithmetic_says():
    space = token_space(64, 4096, proprio=None)
    row, rows = 64 * (4096 * 2 + 1), 2048 * 8
    options = {"n_steps": 2048, "device": "cpu"}
    assert ppo.rollout_bytes(space, 8, ppo.Defaults(**options, handles=False)) == {"cpu": 2 * rows * row}
    assert ppo.rollout_bytes(space, 8, ppo.Defaults(**options)) == {"cpu": (rows + 8 + 1) * row + 2 * rows * 8}


def test_same_seed_same_weights():
    traces = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        venv = token_worlds()
        model(venv, seed).learn(venv, 512, recorder)
        traces.append(recorder.trace)
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_restored_model_goes_on_bit_for_bit(recurrent):
    options = {"recurrent": recurrent, "schedule": "linear"}
    worlds = token_worlds(horizon=5)  # 5 does not divide 32: episodes straddle rollouts
    whole, first = Recorder(take_at=256, world=worlds), model(worlds, **options)
    first.learn(worlds, 640, whole)

    tensors, values, world = whole.taken
    torch.manual_seed(99), np.random.seed(99)
    second, rest = model(world, seed=99, **options), Recorder()
    second.load_state_dict(tensors, json.loads(json.dumps(values)))
    second.learn(world, 640, rest)

    assert [step for step, _ in rest.trace] == [256, 384, 512]
    assert rest.trace == whole.trace[2:]
    assert fingerprint(second) == fingerprint(first)
    assert rest.metrics == whole.metrics[2:] and rest.metrics[-1]["train/n_updates"] == 20


class SteeringWorld(TokenWorld):
    """Actions in Box(-1, 1): worth more the nearer the first number is to where the token points."""

    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        assert self.action_space.contains(action)
        observation, _, terminated, truncated, info = super().step(self.answer)
        return observation, -abs(float(action[0]) - 0.5 * self.answer), terminated, truncated, info


def test_a_restored_learner_of_box_actions_goes_on_bit_for_bit():
    worlds = DummyVecEnv([lambda: SteeringWorld(horizon=5)] * 4)
    whole, first = Recorder(take_at=256, world=worlds), model(worlds, schedule="linear")
    first.learn(worlds, 512, whole)
    tensors, values, world = whole.taken
    second, rest = model(world, seed=99, schedule="linear"), Recorder()
    second.load_state_dict(tensors, json.loads(json.dumps(values)))
    second.learn(world, 512, rest)
    assert rest.trace == whole.trace[2:] and fingerprint(second) == fingerprint(first)


@pytest.mark.parametrize(
    ("schedule", "total", "rates"),
    [
        ("linear", 512, [1, 0.75, 0.5, 0.25]),
        ("linear", 100, [1]),
        ("linear", 200, [1, 0.36]),
        ("constant", 256, [1, 1]),
    ],
)
def test_the_learning_rate_of_an_update_is_that_of_its_own_rollout(schedule, total, rates):
    """128 steps a rollout; none is spent at rate 0, however few there are."""
    venv, recorder = token_worlds(), Recorder()
    model(venv, schedule=schedule).learn(venv, total, recorder)
    assert [row["train/learning_rate"] for row in recorder.metrics] == pytest.approx([3e-3 * rate for rate in rates])


def test_a_schedule_is_stated_anew_for_more_steps():
    """Finished after 256 steps; with 512 the next update is at half of the rate, where it is half way."""
    venv, recorder = token_worlds(), Recorder()
    learner = model(venv, schedule="linear")
    learner.learn(venv, 256, Hooks())
    learner.learn(venv, 512, recorder)
    assert [row["train/learning_rate"] for row in recorder.metrics] == pytest.approx([1.5e-3, 0.75e-3])


@pytest.mark.parametrize("forgotten", ["optimizer/", "random/torch", "observation/tokens", "lstm/"])
def test_every_part_of_the_state_matters(forgotten):
    """The same comparison fails when any one part is left as it is in a fresh model."""
    options = {"recurrent": True}
    worlds = token_worlds(horizon=5)  # 5 does not divide 32: episodes straddle rollouts
    whole, first = Recorder(take_at=256, world=worlds), model(worlds, **options)
    first.learn(worlds, 640, whole)
    tensors, values, world = whole.taken
    second, rest = model(world, seed=99, **options), Recorder()
    fresh = {name: torch.zeros_like(tensors[name]) for name in tensors if name.startswith(forgotten)}
    if forgotten == "random/torch":
        fresh = {"random/torch": torch.get_rng_state()}
    assert fresh
    second.load_state_dict({**tensors, **fresh}, values)
    second.learn(world, 640, rest)
    assert rest.trace[0] == whole.trace[2]
    assert fingerprint(second) != fingerprint(first)


def test_state_is_a_copy():
    recorder = Recorder(take_at=128)
    venv = token_worlds()
    trained = model(venv)
    trained.learn(venv, 256, recorder)
    tensors, _, _ = recorder.taken
    last = trained.state_dict()[0]
    weights = [name for name in tensors if name.startswith("policy/mlp_extractor")]
    assert weights and all(not torch.equal(tensors[name], last[name]) for name in weights)


def test_an_update_runs_on_its_own_number_of_threads():
    class Watch(Hooks):
        threads: ClassVar[list] = []

        def on_update_start(self, learner):
            self.threads.append(torch.get_num_threads())

    venv = token_worlds()
    trained, watch, update = model(venv, threads=2), Watch(), []
    inner = trained.model.train
    trained.model.train = lambda: (update.append(torch.get_num_threads()), inner())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        trained.learn(venv, 256, watch)
        assert (watch.threads, update, torch.get_num_threads()) == ([3, 3], [2, 2], 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
def test_it_acts_as_stable_baselines3_predicts(recurrent, greedy):
    venv = token_worlds()
    learner = model(venv, recurrent=recurrent)
    observation, ours, theirs = venv.reset(), None, None
    for starts in (np.ones(4, bool), np.zeros(4, bool), np.array([True, False, False, True])):
        torch.manual_seed(0)
        expected, theirs = learner.model.predict(observation, theirs, starts, deterministic=greedy)
        torch.manual_seed(0)
        actions, ours, log_probabilities = learner.act(observation, ours, starts, greedy=greedy)
        assert actions.tolist() == expected.tolist() and actions.shape == (4,)
        assert (ours is None) == (theirs is None) == (not recurrent)
        assert all(np.array_equal(a, b) for a, b in zip(ours or (), theirs or (), strict=True))
        assert (log_probabilities < 0).all() and log_probabilities.shape == (4,)


def test_actions_of_a_box_are_clipped_to_it():
    venv = token_worlds()
    box = spaces.Box(np.float32(-0.1), np.float32(0.1), (2,))
    observation_space, _, count = created_for(venv)
    learner = ppo.create(observation_space, box, count, mlp.Network, NETWORK, ppo.Defaults(**SMALL), seed=0)
    actions = learner.act(venv.reset()).actions
    assert actions.shape == (4, 2) and actions.dtype == np.float32 and np.abs(actions).max() == np.float32(0.1)


@pytest.mark.parametrize(
    ("space", "message"),
    [(spaces.Dict(a=spaces.Discrete(2)), "PPO chooses actions of Discrete"), (spaces.Discrete(3, start=1), "add 1")],
)
def test_actions_that_it_cannot_choose_are_refused(space, message):
    observation_space, _, count = created_for(token_worlds())
    with pytest.raises(ValueError, match=message):
        ppo.create(observation_space, space, count, mlp.Network, NETWORK, ppo.Defaults(**SMALL), seed=0)


def test_a_learner_that_has_not_learned_yet_has_a_state_too():
    venv = token_worlds()
    first = model(venv)
    tensors, values = first.state_dict()
    second = model(venv, seed=1)
    second.load_state_dict(tensors, values)
    assert fingerprint(second) == fingerprint(first) and second.num_timesteps == 0


def test_twelve_gpus_get_back_their_own_generators(monkeypatch):
    """By number: as text, cuda/10 would come before cuda/2."""
    restored = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 12)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    venv = token_worlds()
    tensors, values = model(venv).state_dict()
    tensors |= {f"random/cuda/{index}": torch.tensor([index]) for index in range(12)}
    model(venv).load_state_dict(dict(sorted(tensors.items())), values)
    assert [int(generator) for generator in restored] == list(range(12))
