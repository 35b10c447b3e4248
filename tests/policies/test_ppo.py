"""PPO in an environment with a known optimum: learning, storage, and exact resumption from a saved state."""

import copy
import json
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from token_world import TokenWorld, spaces_and_count, token_space, token_worlds
from touch_world import FACTORS_OF_TYPE, all_pages, all_right, touch_worlds

from pr2l.policies import ppo
from pr2l.policies.base import Hooks
from pr2l.policies.common.sb3 import UpdateThreads
from pr2l.policies.networks import mlp, token_transformer

SMALL = {"learning_rate": 3e-3, "n_steps": 32, "n_epochs": 4, "head_sizes": (16,), "lstm_size": 8, "device": "cpu"}
NETWORK = mlp.Defaults(hidden=(16,))


def create(venv, seed=0, **options):
    return ppo.create(*spaces_and_count(venv), mlp.Network, NETWORK, ppo.Defaults(**{**SMALL, **options}), seed=seed)


class Recorder(Hooks):
    """Record the sums of the weights before each rollout, and learner and `venv` after `snapshot_at` steps."""

    def __init__(self, snapshot_at=None, venv=None):
        self.snapshot_at, self.venv, self.weight_sums, self.snapshot, self.metrics = snapshot_at, venv, [], None, []

    def on_update_start(self, learner):
        self.weight_sums.append((learner.num_timesteps, weight_sums(learner)))
        if learner.num_timesteps == self.snapshot_at:
            self.snapshot = (*learner.state_dict(), copy.deepcopy(self.venv))

    def on_update(self, metrics):
        self.metrics.append(metrics)


def weight_sums(learner):
    """Return the sum of each weight of the policy."""
    tensors = sorted(learner.state_dict()[0].items())
    return [tensor.double().sum().item() for name, tensor in tensors if name.startswith("policy/")]


def test_learns_the_optimal_policy():
    venv = token_worlds(num_actions=3, horizon=4)
    learner = ppo.create(
        *spaces_and_count(venv),
        token_transformer.Network,
        token_transformer.Defaults(width=16, feedforward=16, summary=16),
        ppo.Defaults(**{**SMALL, "learning_rate": 1e-2}),
        seed=0,
    )
    learner.learn(venv, 1280, Recorder())
    observation, episode_return = venv.reset(), 0.0
    for _ in range(4):
        observation, rewards, _, _ = venv.step(learner.act(observation, greedy=True).actions)
        episode_return += rewards.mean()
    assert episode_return == 4


def test_without_handles_the_buffer_stores_float16_tokens():
    venv = token_worlds(count=4, tokens=5, width=8)
    buffer = create(venv, n_steps=32, handles=False).model.rollout_buffer
    assert buffer.observations["tokens"].dtype == np.float16
    stored = sum(array.nbytes for array in buffer.observations.values())
    assert stored == 32 * 4 * (5 * 8 * 2 + 5 + 4)
    needed = ppo.rollout_bytes(venv.observation_space, 4, ppo.Defaults(n_steps=32, handles=False))
    assert needed == {"cpu": 2 * stored}  # SB3 flattens a copy


def test_rollout_bytes_of_a_long_rollout():
    space = token_space(64, 4096, proprio=None)
    row, rows = 64 * (4096 * 2 + 1), 2048 * 8
    options = {"n_steps": 2048, "device": "cpu"}
    assert ppo.rollout_bytes(space, 8, ppo.Defaults(**options, handles=False)) == {"cpu": 2 * rows * row}
    assert ppo.rollout_bytes(space, 8, ppo.Defaults(**options)) == {"cpu": (rows + 8 + 1) * row + 2 * rows * 8}


def test_seed_determines_the_weights():
    runs = []
    for seed in (0, 0, 1):
        recorder = Recorder()
        venv = token_worlds()
        create(venv, seed).learn(venv, 512, recorder)
        runs.append(recorder.weight_sums)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@cache
def uninterrupted_run(recurrent):
    """Train for 640 steps with a snapshot after 256; return recorder and learner, which tests only read."""
    venv = token_worlds(horizon=5)  # 5 does not divide 32, so episodes cross the ends of rollouts
    recorder, learner = Recorder(snapshot_at=256, venv=venv), create(venv, recurrent=recurrent, schedule="linear")
    learner.learn(venv, 640, recorder)
    return recorder, learner


def resume(snapshot, recurrent, **changed_tensors):
    """Train a new learner, with another seed, from a snapshot to 640 steps; return its recorder and the learner."""
    tensors, values, venv = copy.deepcopy(snapshot)  # training changes them in place
    learner, recorder = create(venv, seed=99, recurrent=recurrent, schedule="linear"), Recorder()
    learner.load_state_dict({**tensors, **changed_tensors}, json.loads(json.dumps(values)))
    learner.learn(venv, 640, recorder)
    return recorder, learner


@pytest.mark.parametrize("recurrent", [False, True])
def test_resumed_training_equals_uninterrupted_training(recurrent):
    expected, uninterrupted = uninterrupted_run(recurrent)
    torch.manual_seed(99), np.random.seed(99)
    recorder, resumed = resume(expected.snapshot, recurrent)
    assert [step for step, _ in recorder.weight_sums] == [256, 384, 512]
    assert recorder.weight_sums == expected.weight_sums[2:]
    assert weight_sums(resumed) == weight_sums(uninterrupted)
    assert recorder.metrics == expected.metrics[2:] and recorder.metrics[-1]["train/n_updates"] == 20


class BoxActionWorld(TokenWorld):
    """Actions in Box(-1, 1); the reward is minus the distance of the first number from half of the answer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        assert self.action_space.contains(action)
        observation, _, terminated, truncated, info = super().step(self.answer)
        return observation, -abs(float(action[0]) - 0.5 * self.answer), terminated, truncated, info


def test_resumed_training_with_box_actions_equals_uninterrupted_training():
    venv = DummyVecEnv([lambda: BoxActionWorld(horizon=5)] * 4)
    expected, uninterrupted = Recorder(snapshot_at=256, venv=venv), create(venv, schedule="linear")
    uninterrupted.learn(venv, 640, expected)
    recorder, resumed = resume(expected.snapshot, recurrent=False)
    assert recorder.weight_sums == expected.weight_sums[2:] and weight_sums(resumed) == weight_sums(uninterrupted)


@pytest.mark.parametrize(
    ("schedule", "total", "rates"),
    [
        ("linear", 512, [1, 0.75, 0.5, 0.25]),
        ("linear", 100, [1]),
        ("linear", 200, [1, 0.36]),
        ("constant", 256, [1, 1]),
    ],
)
def test_learning_rate_schedule(schedule, total, rates):
    """A rollout has 128 steps; its rate is that of its first step, so no update has the rate 0."""
    venv, recorder = token_worlds(), Recorder()
    create(venv, schedule=schedule).learn(venv, total, recorder)
    assert [row["train/learning_rate"] for row in recorder.metrics] == pytest.approx([3e-3 * rate for rate in rates])


def test_learning_rate_schedule_of_a_longer_second_training():
    """After 256 of 256 steps, a training to 512 steps continues at half of the rate."""
    venv, recorder = token_worlds(), Recorder()
    learner = create(venv, schedule="linear")
    learner.learn(venv, 256, Hooks())
    learner.learn(venv, 512, recorder)
    assert [row["train/learning_rate"] for row in recorder.metrics] == pytest.approx([1.5e-3, 0.75e-3])


@pytest.mark.parametrize("prefix", ["optimizer/", "random/torch", "observation/tokens", "lstm/"])
def test_resumed_training_differs_without_part_of_the_state(prefix):
    expected, uninterrupted = uninterrupted_run(recurrent=True)
    tensors = expected.snapshot[0]
    if prefix == "random/torch":
        reset = {"random/torch": torch.get_rng_state()}
    else:
        reset = {name: torch.zeros_like(tensors[name]) for name in tensors if name.startswith(prefix)}
    assert reset
    recorder, resumed = resume(expected.snapshot, recurrent=True, **reset)
    assert recorder.weight_sums[0] == expected.weight_sums[2]
    assert weight_sums(resumed) != weight_sums(uninterrupted)


def test_state_dict_is_a_copy():
    recorder = Recorder(snapshot_at=128)
    venv = token_worlds()
    learner = create(venv)
    learner.learn(venv, 256, recorder)
    tensors, _, _ = recorder.snapshot
    last = learner.state_dict()[0]
    weights = [name for name in tensors if name.startswith("policy/mlp_extractor")]
    assert weights and all(not torch.equal(tensors[name], last[name]) for name in weights)


def test_checkpoint_of_unfused_adam_continues_with_fused_adam():
    """Earlier versions wrote such checkpoints; the steps are equal within rounding."""
    venv = token_worlds()
    learner = create(venv)
    learner.learn(venv, 128, Hooks())
    tensors, values = learner.state_dict()
    assert [group.pop("fused") for group in values["param_groups"]] == [True]
    values["param_groups"][0] |= {"fused": None, "lr": 0.5}
    restored = create(venv)
    restored.load_state_dict(tensors, values)
    fused = restored.model.policy.optimizer
    assert (fused.param_groups[0]["fused"], fused.param_groups[0]["lr"]) == (True, 0.5)
    policy = copy.deepcopy(restored.model.policy)
    unfused = torch.optim.Adam(policy.parameters(), eps=1e-5)
    unfused.load_state_dict(copy.deepcopy(fused.state_dict()) | {"param_groups": values["param_groups"]})
    for optimizer in (fused, unfused):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
    for ours, theirs in zip(restored.model.policy.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_updates_with_two_threads_give_the_same_weights_each_time():
    def weights():
        venv = token_worlds(count=16, tokens=16, width=64)
        options = ppo.Defaults(**{**SMALL, "n_steps": 16, "n_epochs": 1, "batch_size": 256, "threads": 2})
        small = token_transformer.Defaults(width=64, feedforward=64)
        learner = ppo.create(*spaces_and_count(venv), token_transformer.Network, small, options, seed=0)
        learner.learn(venv, 256, Hooks())
        return learner.state_dict()[0]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = weights(), weights()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("policy/"))


def test_updates_use_at_most_the_threads_of_torch():
    callback = UpdateThreads(1000)
    assert callback.count == torch.get_num_threads()


def test_threads_apply_to_the_update_only():
    class ThreadRecorder(Hooks):
        threads: ClassVar[list] = []

        def on_update_start(self, learner):
            self.threads.append(torch.get_num_threads())

    venv = token_worlds()
    learner, recorder, update_threads = create(venv, threads=2, n_epochs=1), ThreadRecorder(), []
    train = learner.model.train
    learner.model.train = lambda: (update_threads.append(torch.get_num_threads()), train())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        learner.learn(venv, 256, recorder)
        assert (recorder.threads, update_threads, torch.get_num_threads()) == ([3, 3], [2, 2], 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
def test_act_equals_predict_of_stable_baselines3(recurrent, greedy):
    venv = token_worlds()
    learner = create(venv, recurrent=recurrent)
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


def test_box_actions_are_clipped():
    venv = token_worlds()
    box = spaces.Box(np.float32(-0.1), np.float32(0.1), (2,))
    observation_space, _, count = spaces_and_count(venv)
    learner = ppo.create(observation_space, box, count, mlp.Network, NETWORK, ppo.Defaults(**SMALL), seed=0)
    actions = learner.act(venv.reset()).actions
    assert actions.shape == (4, 2) and actions.dtype == np.float32 and np.abs(actions).max() == np.float32(0.1)


@pytest.mark.parametrize(
    ("space", "message"),
    [(spaces.Dict(a=spaces.Discrete(2)), "Discrete"), (spaces.Discrete(3, start=1), "add 1")],
)
def test_unsupported_action_spaces_are_refused(space, message):
    observation_space, _, count = spaces_and_count(token_worlds())
    with pytest.raises(ValueError, match=message):
        ppo.create(observation_space, space, count, mlp.Network, NETWORK, ppo.Defaults(**SMALL), seed=0)


def test_state_dict_of_an_untrained_learner():
    venv = token_worlds()
    first = create(venv)
    tensors, values = first.state_dict()
    second = create(venv, seed=1)
    second.load_state_dict(tensors, values)
    assert weight_sums(second) == weight_sums(first) and second.num_timesteps == 0


def test_random_states_of_twelve_gpus_are_restored_in_order(monkeypatch):
    """In numerical order: alphabetically, cuda/10 would be before cuda/2."""
    restored = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 12)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    venv = token_worlds()
    tensors, values = create(venv).state_dict()
    tensors |= {f"random/cuda/{index}": torch.tensor([index]) for index in range(12)}
    create(venv).load_state_dict(dict(sorted(tensors.items())), values)
    assert [int(generator) for generator in restored] == list(range(12))


class TwoFactorWorld(TokenWorld):
    """Actions in MultiDiscrete([3, 2]); right if the first factor is the answer and the second one its parity."""

    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = spaces.MultiDiscrete([3, 2])

    def step(self, action):
        return super().step(action[0] if action[1] == self.answer % 2 else -1)


def test_multi_discrete_actions_are_learned():
    venv = DummyVecEnv([lambda: TwoFactorWorld(num_actions=3)] * 4)
    learner = create(venv, learning_rate=1e-2)
    learner.learn(venv, 2560, Recorder())
    observation = {key: np.zeros((3, *space.shape), space.dtype) for key, space in venv.observation_space.items()}
    observation["tokens"][range(3), 0, range(3)] = observation["mask"][:, 0] = 1
    result = learner.act(observation, greedy=True)
    assert result.actions.tolist() == [[0, 0], [1, 1], [2, 0]] and result.log_probabilities.shape == (3,)


FACTORED = {"factors_of_type": FACTORS_OF_TYPE, "image_tokens": 4, "learning_rate": 1e-2}


def test_factored_heads_point_at_the_marked_cell():
    """The network sees the mean of the tokens, so only the pointer can tell where the mark is."""
    venv = touch_worlds()
    learner = create(venv, **FACTORED)
    learner.learn(venv, 2560, Recorder())
    assert all_right(learner.act(all_pages(), greedy=True).actions)
    loaded = create(venv, seed=1, **FACTORED)
    loaded.load_policy(learner.state_dict()[0])
    ours, theirs = (policy.act(all_pages(), greedy=True).log_probabilities for policy in (learner, loaded))
    assert ours.tolist() == theirs.tolist()


def test_factored_training_with_handles_equals_training_without():
    sums = []
    for handles in (True, False):
        venv = touch_worlds()
        learner = create(venv, handles=handles, **FACTORED)
        learner.learn(venv, 256, Recorder())
        sums.append(weight_sums(learner))
    assert sums[0] == sums[1]


def test_factored_heads_count_the_used_factors_only():
    """Types 3/4 and 1/4, and cells 0.1 to 0.4 on every page: `back` has the probability 1/4 with any cell."""
    learner = create(touch_worlds(), **FACTORED)
    policy, head = learner.model.policy, learner.model.policy.action_net.head
    for layer in (head.linear, head.pointer.query):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    head.linear.bias.data = torch.tensor([3.0, 1.0]).log()
    head.pointer.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    tensors, _ = policy.obs_to_tensor(all_pages())
    actions = torch.tensor([[0, 0], [0, 3], [1, 0], [1, 2], [1, 3]])
    _, log_probabilities, entropy = policy.evaluate_actions(tensors, actions.float())
    assert log_probabilities.exp().tolist() == pytest.approx([0.075, 0.3, 0.25, 0.25, 0.25])
    type_entropy, cell_entropy = (-sum(p * np.log(p) for p in ps) for ps in ([0.75, 0.25], [0.1, 0.2, 0.3, 0.4]))
    assert entropy.tolist() == pytest.approx([type_entropy + 0.75 * cell_entropy] * 5)


def test_recurrent_policies_have_no_factored_heads():
    with pytest.raises(ValueError, match="recurrent=true has no heads.*use recurrent=false"):
        create(touch_worlds(), recurrent=True, **FACTORED)


def test_factored_training_is_resumed_exactly():
    venv, recorder = touch_worlds(horizon=5), Recorder(snapshot_at=256)
    recorder.venv, uninterrupted = venv, create(venv, **FACTORED)
    uninterrupted.learn(venv, 640, recorder)
    tensors, values, venv = copy.deepcopy(recorder.snapshot)
    learner, resumed = create(venv, seed=99, **FACTORED), Recorder()
    learner.load_state_dict(tensors, json.loads(json.dumps(values)))
    learner.learn(venv, 640, resumed)
    assert resumed.weight_sums == recorder.weight_sums[2:] and weight_sums(learner) == weight_sums(uninterrupted)
