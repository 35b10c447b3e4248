"""The token table keeps all observations of a rollout, does not change training, and saves memory."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictRolloutBuffer
from token_world import spaces_and_count, token_space, token_worlds

from pr2l.policies import ppo
from pr2l.policies.base import Hooks
from pr2l.policies.common.tokens import HANDLES, Handles, TokenHandles, TokenTable
from pr2l.policies.networks import mlp

SMALL = {"learning_rate": 3e-3, "n_steps": 16, "n_epochs": 3, "head_sizes": (16,), "lstm_size": 8, "device": "cpu"}
CPU = torch.device("cpu")


def create(venv, **options):
    options = ppo.Defaults(**{**SMALL, **options})
    return ppo.create(*spaces_and_count(venv), mlp.Network, mlp.Defaults(hidden=(16,)), options, seed=0)


def table(steps=3, num_envs=2, tokens=2, width=3):
    return TokenTable(steps, num_envs, (tokens, width), torch.float16, CPU)


def fill(ring, number):
    """Store a step whose tokens all are `number`; return its ids."""
    _, num_envs, (tokens, width), *_ = ring._arguments
    return ring.put(np.full((num_envs, tokens, width), number, np.float16), np.full((num_envs, tokens), 1, np.uint8))


@settings(deadline=None)  # other processes may slow it down
@given(n_steps=st.integers(1, 6), num_envs=st.integers(1, 4), rollouts=st.integers(1, 5))
def test_table_keeps_the_observations_of_a_rollout_and_the_next_one(n_steps, num_envs, rollouts):
    """As in SB3, a rollout starts with the last observation of the one before; each observation is a number."""
    ring = table(n_steps + 1, num_envs)
    last, number = fill(ring, 1), 1
    for _ in range(rollouts):
        buffer = []
        for _ in range(n_steps):
            buffer.append((number, last))
            number += 1
            last = fill(ring, number)
        for expected, ids in [*buffer, (number, last)]:
            tokens, mask = ring.gather(torch.from_numpy(ids))
            assert (tokens == expected).all() and (mask == 1).all()
        assert len({*np.concatenate([ids for _, ids in buffer]), *last}) == (n_steps + 1) * num_envs
    tokens, mask = ring.gather(torch.tensor([0]))
    assert not tokens.any() and not mask.any()  # row 0 stays empty


def test_handles_are_exact_in_float32():
    assert TokenTable(HANDLES - 1, 1, (1, 1), torch.float16, CPU)._mask.shape == (HANDLES, 1)
    assert float(np.float32(HANDLES - 1)) == HANDLES - 1 and np.float32(HANDLES + 1) == HANDLES
    with pytest.raises(ValueError, match="16,777,216.*fewer n_steps or num_envs"):
        TokenTable(HANDLES, 1, (1, 1), torch.float16, CPU)


def test_deepcopy_shares_the_table_and_pickle_empties_it():
    ring = table()
    ids = torch.from_numpy(fill(ring, 5))
    policy = create(token_worlds()).model.policy
    assert copy.deepcopy(Handles(ring)).table is ring
    assert copy.deepcopy(policy).features_extractor.table is policy.features_extractor.table
    unpickled = pickle.loads(pickle.dumps(Handles(ring))).table
    assert unpickled.nbytes == ring.nbytes and not unpickled.gather(ids)[0].any()


def test_padded_slots_are_stored_as_zeros():
    ring = table()
    tokens, mask = np.full((2, 2, 3), 5, np.float16), np.array([[1, 0], [1, 1]], np.uint8)
    tokens[0, 1] = np.nan
    stored, _ = ring.gather(torch.from_numpy(ring.put(tokens, mask)))
    assert stored[:, :, 0].tolist() == [[5, 0], [5, 5]]
    assert np.isnan(tokens[0, 1]).all()  # the argument is unchanged


def test_to_tokens_restores_the_observation():
    plain = token_worlds()
    handled = TokenHandles(token_worlds(), TokenTable.of(plain.observation_space, 5, 4, CPU))
    plain.seed(3), handled.seed(3)
    expected, with_handles = plain.reset(), handled.reset()
    for _ in range(9):
        assert list(with_handles) == ["handle", "proprio"] and with_handles["handle"].dtype == np.int64
        assert handled.observation_space.contains({key: values[0] for key, values in with_handles.items()})
        restored = handled.table.to_tokens(with_handles)
        assert set(restored) == set(expected)
        for key, values in expected.items():
            assert restored[key].dtype == values.dtype and (restored[key] == values).all()
        expected, with_handles = plain.step(np.zeros(4, int))[0], handled.step(np.zeros(4, int))[0]


class Recorder(Hooks):
    """Record the weights before each rollout and after the last update."""

    def __init__(self):
        self.weights = []

    def on_update_start(self, learner):
        tensors, _ = learner.state_dict()
        self.weights.append({key: tensor for key, tensor in tensors.items() if key.startswith("policy/")})

    on_end = on_update_start


def train(table_steps=None, **options):
    """Return the weights over five rollouts of 16 steps; table_steps = another size of the table."""
    venv = token_worlds(horizon=5)  # 5 does not divide 16: some episodes are bootstrapped
    learner, recorder = create(venv, **options), Recorder()
    if table_steps:
        learner.table = learner.model.policy.features_extractor.table = table(table_steps, venv.num_envs, 2, 8)
    learner.learn(venv, 320, recorder)
    return recorder.weights


def equal(first, second):
    pairs = zip(first, second, strict=True)
    return all(torch.equal(weights[key], others[key]) for weights, others in pairs for key in weights)


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_with_handles_equals_training_without(recurrent):
    with_handles, without = (train(recurrent=recurrent, handles=handles) for handles in (True, False))
    assert len(without) == 6 and not equal(without[:1], without[-1:])
    assert equal(with_handles, without)


def test_training_differs_with_a_table_of_one_step_less():
    enough, too_small = train(table_steps=17), train(table_steps=16)
    assert equal(enough[:1], too_small[:1]) and not equal(enough[1:2], too_small[1:2])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_acting_with_tokens_does_not_change_the_table(recurrent, count):
    venv = token_worlds()
    learner = create(venv, recurrent=recurrent)
    learner.learn(venv, 64, Recorder())
    ring = learner.table
    before = (ring._tokens.clone(), ring._mask.clone(), ring._next)
    actions, memory, _ = learner.act(token_worlds(count).reset(), greedy=True)
    assert actions.shape == (count,) and (memory is not None) == recurrent
    assert torch.equal(ring._tokens, before[0]) and torch.equal(ring._mask, before[1]) and ring._next == before[2]
    observation = TokenHandles(venv, ring).reset()
    of_tokens = learner.act(ring.to_tokens(observation), greedy=True).actions
    assert (of_tokens == learner.act(observation, greedy=True).actions).all()


def peak_numpy_bytes(work):
    """Return the peak memory of NumPy arrays in bytes; tracemalloc does not see torch's memory."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def rollout_and_epoch(buffer, observation, batch_size=32):
    """Fill and read a buffer as SB3 does, without a policy."""
    step = (np.zeros(buffer.n_envs), np.zeros(buffer.n_envs), np.zeros(buffer.n_envs))
    while not buffer.full:
        buffer.add(observation(), *step, torch.zeros(buffer.n_envs), torch.zeros(buffer.n_envs))
    for _ in buffer.get(batch_size):
        pass


def test_rollout_takes_a_quarter_of_sb3s_memory():
    steps, envs, shape = 128, 8, (16, 256)
    actions = spaces.Discrete(3)
    full = spaces.Dict(
        tokens=spaces.Box(-np.inf, np.inf, shape, np.float32), mask=spaces.Box(0, 1, shape[:1], np.float32)
    )
    observation = {key: np.ones((envs, *space.shape), space.dtype) for key, space in full.items()}

    def as_sb3():
        rollout_and_epoch(DictRolloutBuffer(steps, full, actions, "cpu", n_envs=envs), lambda: observation)

    def with_handles():
        ring = TokenTable(steps + 1, envs, shape, torch.float16, CPU)
        space = spaces.Dict(handle=Handles(ring))
        half, mask = observation["tokens"].astype(np.float16), observation["mask"].astype(np.uint8)
        buffer = DictRolloutBuffer(steps, space, actions, "cpu", n_envs=envs)
        rollout_and_epoch(buffer, lambda: {"handle": ring.put(half, mask)[:, None]})
        return ring.nbytes

    table_bytes = with_handles()
    ratio = (table_bytes + peak_numpy_bytes(with_handles)) / peak_numpy_bytes(as_sb3)
    print(f"{ratio:.3f} of SB3's float32 storage")
    assert ratio < 0.26  # a quarter, one step more, and the buffer's other arrays
    defaults = ppo.Defaults(n_steps=steps, device="cpu")
    predicted = ppo.rollout_bytes(token_space(*shape, proprio=None), envs, defaults)
    assert predicted == {"cpu": table_bytes + 2 * steps * envs * 8}
