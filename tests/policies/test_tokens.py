"""The token table: what a rollout can still ask for is there, learning is the same with it, and it is small."""

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
from token_world import created_for, token_space, token_worlds

from pr2l.policies import ppo
from pr2l.policies.base import Hooks
from pr2l.policies.common.tokens import HANDLES, Handles, TokenHandles, TokenTable
from pr2l.policies.networks import mlp

SMALL = {"learning_rate": 3e-3, "n_steps": 16, "n_epochs": 3, "head_sizes": (16,), "lstm_size": 8, "device": "cpu"}
CPU = torch.device("cpu")


def model(venv, **options):
    options = ppo.Defaults(**{**SMALL, **options})
    return ppo.create(*created_for(venv), mlp.Network, mlp.Defaults(hidden=(16,)), options, seed=0)


def table(steps=3, num_envs=2, tokens=2, width=3):
    return TokenTable(steps, num_envs, (tokens, width), torch.float16, CPU)


def fill(ring, number):
    """Puts a step whose tokens all are `number`; its ids."""
    _, num_envs, (tokens, width), *_ = ring._arguments
    return ring.put(np.full((num_envs, tokens, width), number, np.float16), np.full((num_envs, tokens), 1, np.uint8))


@settings(deadline=None)  # a machine may be busy
@given(n_steps=st.integers(1, 6), num_envs=st.integers(1, 4), rollouts=st.integers(1, 5))
def test_an_update_finds_every_observation_of_its_rollout_and_the_one_after_it(n_steps, num_envs, rollouts):
    """As SB3 uses it: a rollout begins with the last observation of the one before; numbers tell all apart."""
    ring = table(n_steps + 1, num_envs)
    last, shown = fill(ring, 1), 1
    for _ in range(rollouts):
        buffer = []
        for _ in range(n_steps):
            buffer.append((shown, last))
            shown += 1
            last = fill(ring, shown)
        for number, ids in [*buffer, (shown, last)]:
            tokens, mask = ring.gather(torch.from_numpy(ids))
            assert (tokens == number).all() and (mask == 1).all()
        assert len({*np.concatenate([ids for _, ids in buffer]), *last}) == (n_steps + 1) * num_envs
    tokens, mask = ring.gather(torch.tensor([0]))
    assert not tokens.any() and not mask.any()  # nobody writes to row 0


def test_every_row_has_a_handle_that_float32_can_hold():
    assert TokenTable(HANDLES - 1, 1, (1, 1), torch.float16, CPU)._mask.shape == (HANDLES, 1)
    assert float(np.float32(HANDLES - 1)) == HANDLES - 1 and np.float32(HANDLES + 1) == HANDLES
    with pytest.raises(ValueError, match="16,777,216 apart; take fewer n_steps or num_envs"):
        TokenTable(HANDLES, 1, (1, 1), torch.float16, CPU)


def test_a_copy_is_the_same_table_and_a_pickle_an_empty_one():
    ring = table()
    ids = torch.from_numpy(fill(ring, 5))
    policy = model(token_worlds()).model.policy
    assert copy.deepcopy(Handles(ring)).table is ring
    assert copy.deepcopy(policy).features_extractor.table is policy.features_extractor.table
    again = pickle.loads(pickle.dumps(Handles(ring))).table
    assert again.nbytes == ring.nbytes and not again.gather(ids)[0].any()


def test_handles_and_tokens_are_two_forms_of_the_same():
    plain = token_worlds()
    handled = TokenHandles(token_worlds(), TokenTable.of(plain.observation_space, 5, 4, CPU))
    plain.seed(3), handled.seed(3)
    shown, known = plain.reset(), handled.reset()
    for _ in range(9):
        assert list(known) == ["handle", "proprio"] and known["handle"].dtype == np.int64
        assert handled.observation_space.contains({key: part[0] for key, part in known.items()})
        back = handled.table.to_tokens(known)
        assert set(back) == set(shown)
        for key, part in shown.items():
            assert back[key].dtype == part.dtype and (back[key] == part).all()
        shown, known = plain.step(np.zeros(4, int))[0], handled.step(np.zeros(4, int))[0]


class Trace(Hooks):
    """Copies of the weights before each rollout and after the last update."""

    def __init__(self):
        self.weights = []

    def on_update_start(self, learner):
        tensors, _ = learner.state_dict()
        self.weights.append({key: tensor for key, tensor in tensors.items() if key.startswith("policy/")})

    on_end = on_update_start


def trained(steps=None, **options):
    """Weights over five rollouts of 16 steps; steps: exchange the table for one with room for so many."""
    venv = token_worlds(horizon=5)  # 5 does not divide 16: some episodes are bootstrapped
    learning, trace = model(venv, **options), Trace()
    if steps:
        learning.table = learning.model.policy.features_extractor.table = table(steps, venv.num_envs, 2, 8)
    learning.learn(venv, 320, trace)
    return trace.weights


def equal(some, others):
    return all(torch.equal(one[key], other[key]) for one, other in zip(some, others, strict=True) for key in one)


@pytest.mark.parametrize("recurrent", [False, True])
def test_the_weights_are_the_same_with_handles_and_without(recurrent):
    with_handles, without = (trained(recurrent=recurrent, handles=handles) for handles in (True, False))
    assert len(without) == 6 and not equal(without[:1], without[-1:])
    assert equal(with_handles, without)


def test_with_one_step_less_room_they_are_not():
    with_room, without = trained(steps=17), trained(steps=16)
    assert equal(with_room[:1], without[:1]) and not equal(with_room[1:2], without[1:2])


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_acting_needs_no_handles_and_touches_none(recurrent, count):
    venv = token_worlds()
    learning = model(venv, recurrent=recurrent)
    learning.learn(venv, 64, Trace())
    ring = learning.table
    before = (ring._tokens.clone(), ring._mask.clone(), ring._next)
    actions, memory, _ = learning.act(token_worlds(count).reset(), greedy=True)
    assert actions.shape == (count,) and (memory is not None) == recurrent
    assert torch.equal(ring._tokens, before[0]) and torch.equal(ring._mask, before[1]) and ring._next == before[2]
    known = TokenHandles(venv, ring).reset()
    as_tokens, as_handles = (learning.act(form, greedy=True).actions for form in (ring.to_tokens(known), known))
    assert (as_tokens == as_handles).all()


def peak_of_numpy(work):
    """What `work()` holds at most in NumPy arrays at once, in bytes; tracemalloc does not see torch's memory."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def rollout_and_epoch(buffer, observation, batch_size=32):
    """What SB3 does with a rollout's observations, without a policy."""
    step = (np.zeros(buffer.n_envs), np.zeros(buffer.n_envs), np.zeros(buffer.n_envs))
    while not buffer.full:
        buffer.add(observation(), *step, torch.zeros(buffer.n_envs), torch.zeros(buffer.n_envs))
    for _ in buffer.get(batch_size):
        pass


def test_a_rollout_takes_a_quarter_of_what_float32_tokens_take_in_sb3():
    steps, envs, shape = 128, 8, (16, 256)
    actions = spaces.Discrete(3)
    full = spaces.Dict(
        tokens=spaces.Box(-np.inf, np.inf, shape, np.float32), mask=spaces.Box(0, 1, shape[:1], np.float32)
    )
    shown = {key: np.ones((envs, *part.shape), part.dtype) for key, part in full.items()}

    def as_sb3():
        rollout_and_epoch(DictRolloutBuffer(steps, full, actions, "cpu", n_envs=envs), lambda: shown)

    def with_handles():
        ring = TokenTable(steps + 1, envs, shape, torch.float16, CPU)
        space = spaces.Dict(handle=Handles(ring))
        half, mask = shown["tokens"].astype(np.float16), shown["mask"].astype(np.uint8)
        buffer = DictRolloutBuffer(steps, space, actions, "cpu", n_envs=envs)
        rollout_and_epoch(buffer, lambda: {"handle": ring.put(half, mask)[:, None]})
        return ring.nbytes

    table_bytes = with_handles()
    ratio = (table_bytes + peak_of_numpy(with_handles)) / peak_of_numpy(as_sb3)
    print(f"{ratio:.3f} of SB3's float32 storage")
    assert ratio < 0.26  # a quarter, one step more, and what the buffer holds besides observations
    defaults = ppo.Defaults(n_steps=steps, device="cpu")
    predicted = ppo.rollout_bytes(token_space(*shape, proprio=None), envs, defaults)
    assert predicted == {"cpu": table_bytes + 2 * steps * envs * 8}
