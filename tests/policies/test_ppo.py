"""PPO on a world whose answer is known, its memory, and its state taken apart and put together again."""

import copy
import json

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from token_world import token_space, token_worlds

from pr2l.policies import ppo
from pr2l.policies.networks import mlp, token_transformer

SMALL = {"learning_rate": 3e-3, "n_steps": 32, "n_epochs": 4, "heads": (16,), "lstm_size": 8, "device": "cpu"}
NETWORK = mlp.Defaults(hidden=(16,))


def model(venv, seed=0, **options):
    return ppo.create(venv, mlp.Network, NETWORK, ppo.Defaults(**{**SMALL, **options}), seed=seed)


class Recorder(BaseCallback):
    """Keeps the weights' norm after each update, and a copy of everything after `take_at` steps."""

    def __init__(self, take_at=None):
        super().__init__()
        self.take_at, self.trace, self.taken = take_at, [], None

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.trace.append((self.model.num_timesteps, fingerprint(self.model)))
        if self.model.num_timesteps == self.take_at:
            self.taken = (*ppo.state(self.model), copy.deepcopy(self.training_env.unwrapped))


def fingerprint(trained):
    return [parameter.detach().double().sum().item() for parameter in trained.policy.parameters()]


def test_learns_to_name_what_it_sees():
    venv = token_worlds(kinds=3, horizon=4)
    trained = ppo.create(
        venv,
        token_transformer.Network,
        token_transformer.Defaults(width=16, feedforward=16, summary=16),
        ppo.Defaults(**SMALL),
        seed=0,
    )
    ppo.learn(trained, ppo.Defaults(), 3000, Recorder())
    observation, returned = venv.reset(), 0.0
    for _ in range(4):
        actions, _ = ppo.act(trained, observation, deterministic=True)
        observation, rewards, _, _ = venv.step(actions)
        returned += rewards.mean()
    assert returned == 4


def test_without_handles_the_rollout_stores_half_precision_tokens():
    venv = token_worlds(count=4, tokens=5, width=8)
    buffer = model(venv, n_steps=32, handles=False).rollout_buffer
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
        ppo.learn(model(token_worlds(), seed), ppo.Defaults(), 512, recorder)
        traces.append(recorder.trace)
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


@pytest.mark.parametrize("recurrent", [False, True])
def test_a_restored_model_goes_on_bit_for_bit(recurrent):
    options = {"recurrent": recurrent, "schedule": "linear"}
    whole = Recorder(take_at=256)
    first = model(token_worlds(horizon=5), **options)  # 5 does not divide 32: episodes straddle rollouts
    ppo.learn(first, ppo.Defaults(), 640, whole)

    tensors, values, world = whole.taken
    torch.manual_seed(99), np.random.seed(99)
    second, rest = model(world, seed=99, **options), Recorder()
    ppo.restore(second, tensors, json.loads(json.dumps(values)))
    ppo.learn(second, ppo.Defaults(), 640, rest)

    assert [step for step, _ in rest.trace] == [256, 384, 512]
    assert rest.trace == whole.trace[2:]
    assert fingerprint(second) == fingerprint(first)
    assert second._n_updates == first._n_updates
    assert list(second.ep_info_buffer)[0]["l"] == 5


@pytest.mark.parametrize("forgotten", ["optimizer/", "random/torch", "observation/tokens", "lstm/"])
def test_every_part_of_the_state_matters(forgotten):
    """The same comparison fails when any one part is left as it is in a fresh model."""
    options = {"recurrent": True}
    whole = Recorder(take_at=256)
    first = model(token_worlds(horizon=5), **options)  # 5 does not divide 32: episodes straddle rollouts
    ppo.learn(first, ppo.Defaults(), 640, whole)
    tensors, values, world = whole.taken
    second, rest = model(world, seed=99, **options), Recorder()
    fresh = {name: torch.zeros_like(tensors[name]) for name in tensors if name.startswith(forgotten)}
    if forgotten == "random/torch":
        fresh = {"random/torch": torch.get_rng_state()}
    assert fresh
    ppo.restore(second, {**tensors, **fresh}, values)
    ppo.learn(second, ppo.Defaults(), 640, rest)
    assert rest.trace[0] == whole.trace[2]
    assert fingerprint(second) != fingerprint(first)


def test_state_is_a_copy():
    recorder = Recorder(take_at=128)
    trained = model(token_worlds())
    ppo.learn(trained, ppo.Defaults(), 256, recorder)
    tensors, _, _ = recorder.taken
    last = ppo.state(trained)[0]
    weights = [name for name in tensors if name.startswith("policy/mlp_extractor")]
    assert weights and all(not torch.equal(tensors[name], last[name]) for name in weights)


def test_an_update_runs_on_its_own_number_of_threads():
    class Watch(Recorder):
        def _on_rollout_start(self):
            self.trace.append(torch.get_num_threads())

    trained, seen, update = model(token_worlds()), Watch(), []
    inner = trained.train
    trained.train = lambda: (update.append(torch.get_num_threads()), inner())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ppo.learn(trained, ppo.Defaults(threads=2), 256, seen)
        assert (seen.trace, update, torch.get_num_threads()) == ([3, 3], [2, 2], 3)
    finally:
        torch.set_num_threads(before)
