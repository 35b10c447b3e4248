"""Transitions and trajectories against a loop over the episodes that were written, whatever those hold."""

import json
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from data_sets import write
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.data.recording import Recording
from pr2l.data.sources import Episodes, TrajectorySource, TransitionSource, discounted_returns
from pr2l.data.space_arrays import stack
from pr2l.data.store import Store


def stored(recording: Recording) -> Store:
    """Tokens whose values are the numbers of their rows, two to a frame, the second one padding in odd rows."""
    store = Store.create(recording.folder / "store", {"a": 1}, (len(recording), 2, 3))
    rows = torch.arange(len(recording)).float()
    mask = torch.stack([torch.ones(len(rows)), 1 - rows % 2], dim=1).bool()
    store.append(Tokens(rows[:, None, None].expand(-1, 2, 3), mask))
    store.flush()
    return Store.open(store.path, {"a": 1})


def loaded(folder: Path, episodes: list[dict], gamma: float = 0.5, **more) -> Episodes:
    recording = Recording(write(folder, episodes, **more))
    return Episodes(recording, stored(recording), gamma)


def naive(episodes: list[dict], gamma: float, n_step: int) -> list[dict]:
    """All transitions by definition, one loop in another."""
    found, row = [], 0
    for episode in episodes:
        rewards = episode["rewards"]
        for step in range(len(rewards)):
            end = min(step + n_step, len(rewards))
            last = end == len(rewards)
            found.append(
                {
                    "row": row + step,
                    "next_row": row + end,
                    "reward": sum(gamma ** (k - step) * rewards[k] for k in range(step, end)),
                    "return": sum(gamma ** (k - step) * rewards[k] for k in range(step, len(rewards))),
                    "terminated": last and episode["terminated"],
                    "truncated": last and not episode["terminated"],
                    "discount": 0 if last and episode["terminated"] else gamma ** (end - step),
                    "action": step,
                    "return_discount": 0 if episode["terminated"] else gamma ** (len(rewards) - step),
                }
            )
        row += len(rewards) + 1
    return found


EPISODES = st.lists(
    st.fixed_dictionaries(
        {"rewards": st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=6), "terminated": st.booleans()}
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(EPISODES, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(1, 7), st.randoms(use_true_random=False))
def test_transitions_are_those_of_a_naive_loop(tmp_path_factory, episodes, gamma, n_step, random):
    data = loaded(tmp_path_factory.mktemp("data") / "a", episodes, gamma)
    expected = naive(episodes, gamma, n_step)
    assert data.steps == len(expected) and len(data) == len(episodes)
    numbers = random.choices(range(len(expected)), k=10)
    batch, rows = data.transitions(np.array(numbers), n_step), [expected[number] for number in numbers]
    for observations, key in ((batch.observations, "row"), (batch.next_observations, "next_row")):
        place = torch.tensor([float(row[key]) for row in rows])
        real = observations["mask"]
        assert real.dtype == torch.bool and real[:, 0].all() and (real[:, 1] == (place % 2 == 0)).all()
        tokens = observations["tokens"]
        assert tokens.dtype == torch.float16
        assert torch.equal(tokens.float(), (place[:, None, None] * real[..., None]).expand(-1, -1, 3))
        assert torch.equal(observations["proprio"], torch.stack([place, -place], dim=1))
    for values, key in (
        (batch.rewards, "reward"),
        (batch.monte_carlo_returns, "return"),
        (batch.discounts, "discount"),
        (batch.return_discounts, "return_discount"),
    ):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, torch.tensor([float(row[key]) for row in rows]))
    for values, key in ((batch.terminated, "terminated"), (batch.truncated, "truncated"), (batch.actions, "action")):
        assert values.tolist() == [row[key] for row in rows]
    assert batch.contexts == [{"target": "armor"}] * 10 and batch.expert_actions is None


@settings(max_examples=20, deadline=None)
@given(EPISODES, st.sampled_from([0.5, 1.0]))
def test_a_trajectory_is_the_transitions_of_its_episode(tmp_path_factory, episodes, gamma):
    data = loaded(tmp_path_factory.mktemp("data") / "a", episodes, gamma)
    first = 0
    for number, episode in enumerate(episodes):
        steps = np.arange(first, first + len(episode["rewards"]))
        trajectory, transitions = data[number], data.transitions(steps)
        assert len(trajectory) == len(steps) == len(trajectory.contexts) - 1
        for key, values in trajectory.observations.items():
            assert torch.equal(values[:-1], transitions.observations[key])
            assert torch.equal(values[1:], transitions.next_observations[key])
        for key in ("actions", "rewards", "terminated", "truncated", "monte_carlo_returns", "discounts"):
            assert torch.equal(getattr(trajectory, key), getattr(transitions, key))
        assert torch.equal(trajectory.expert_actions, trajectory.actions)
        first += len(steps)


def test_returns_on_paper(tmp_path):
    """r = 1, 0, 4 at gamma = 1/2: G2 = 4, G1 = 0 + 4/2 = 2, G0 = 1 + 2/2 = 2, whether it ends there or is cut off.

    Two steps from 0 are worth 1 + 0/2 and lead to the observation 2, whose value counts gamma^2 = 1/4; from 1 they are
    worth 0 + 4/2, and the last observation counts 1/4 if the episode was cut off there, and nothing if it ended.
    """
    rewards = [1.0, 0.0, 4.0]
    assert discounted_returns(np.array(rewards), 0.5).tolist() == [2, 2, 4]
    both = [{"rewards": rewards, "terminated": True}, {"rewards": rewards, "terminated": False}]
    batch = loaded(tmp_path / "a", both).transitions(np.arange(6), n_step=2)
    assert batch.monte_carlo_returns.tolist() == [2, 2, 4, 2, 2, 4]
    assert batch.rewards.tolist() == [1, 2, 4, 1, 2, 4]
    assert batch.discounts.tolist() == [0.25, 0, 0, 0.25, 0.25, 0.5]
    assert batch.return_discounts.tolist() == [0, 0, 0, 0.125, 0.25, 0.5]
    assert batch.next_observations["proprio"][:, 0].tolist() == [2, 3, 3, 6, 7, 7]
    assert batch.terminated.tolist() == [False, True, True, False, False, False]
    assert batch.truncated.tolist() == [False, False, False, False, True, True]


def test_they_are_minaris_own_episodes(tmp_path):
    """Observation i, action i, reward i, observation i + 1, as Minari's EpisodeData says."""
    episodes = [{"rewards": [1.0, 2.0], "terminated": True}, {"rewards": [3.0], "terminated": False}]
    data = loaded(tmp_path / "a", episodes)
    batch, expected = data.transitions(np.arange(3)), []
    for episode in minari.MinariDataset(tmp_path / "a" / "data"):
        for step in range(len(episode.rewards)):
            shown = [episode.observations["proprio"][place].tolist() for place in (step, step + 1)]
            ends = bool(episode.terminations[step]), bool(episode.truncations[step])
            expected.append((*shown, int(episode.actions[step]), float(episode.rewards[step]), *ends))
    columns = (
        batch.observations["proprio"],
        batch.next_observations["proprio"],
        batch.actions,
        batch.rewards,
        batch.terminated,
        batch.truncated,
    )
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected


ACTIONS = {
    "box": (spaces.Box(-1, 1, (2,), np.float32), [[0.5, -0.25], [0, 1]]),
    "discrete": (spaces.Discrete(3, start=-5), [-5, -3]),
    "multidiscrete": (spaces.MultiDiscrete([3, 9]), [[2, 8], [0, 1]]),
    "multibinary": (spaces.MultiBinary(3), [[1, 0, 1], [1, 0, 0]]),
    "text": (spaces.Text(20), ["tap", "é"]),
    "dict": (spaces.Dict(a=spaces.Box(0, 1, (1,)), b=spaces.Text(3)), [{"a": [1], "b": "x"}, {"a": [0.5], "b": ""}]),
    "tuple": (spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)]), [(1, [0]), (0, [1])]),
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_actions_of_every_space_come_in_its_dtype(tmp_path, kind):
    """The second of two episodes is the first one backwards, and its expert would have done it forwards."""
    space, actions = ACTIONS[kind]
    forwards = {"rewards": [0.0, 0.0], "terminated": True, "actions": actions}
    episodes = [forwards, {**forwards, "actions": actions[::-1], "choices": actions}]
    data = loaded(tmp_path / "a", episodes, action_space=space)
    assert_actions(data.transitions(np.array([3, 0])).actions, stack(space, [actions[0], actions[0]]))
    assert_actions(data.transitions(np.array([3, 0])).expert_actions, stack(space, [actions[1], actions[0]]))
    assert_actions(data[1].actions, stack(space, actions[::-1]))
    assert_actions(data[1].expert_actions, stack(space, actions))
    assert_actions(data[0].expert_actions, stack(space, actions))


def assert_actions(actions, expected):
    if isinstance(expected, (dict, tuple)):
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_actions(actions[key], expected[key])
    elif isinstance(expected, list):
        assert actions == expected
    else:
        assert torch.equal(actions, torch.from_numpy(expected)) and actions.dtype == torch.from_numpy(expected).dtype


def test_a_context_may_change_within_an_episode(tmp_path):
    told = [{"app": "mail"}, {"app": "maps", "step": "2"}, {"app": "mail"}]
    episodes = [{"rewards": [0.0, 1.0], "terminated": True, "contexts": told}, {"rewards": [0.0], "terminated": True}]
    data = loaded(tmp_path / "a", episodes)
    armor = {"target": "armor"}
    assert data.transitions(np.array([2, 1, 0])).contexts == [armor, told[1], told[0]]
    assert list(data[0].contexts) == told and list(data[1].contexts) == [armor] * 2
    assert [contexts for _, contexts in data.recording.batches(1, 2)] == [told[1:], [armor] * 2]
    assert data.recording.sample(9)[1] == [*told, armor, armor]
    assert data.recording.all_contexts() == [told[0], told[1], armor]


MANY = [{"rewards": [float(i)] * (1 + i % 3), "terminated": i % 2 == 0} for i in range(7)]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("data") / "many", MANY)


@pytest.mark.parametrize("kind", [TransitionSource, TrajectorySource])
def test_every_item_comes_once_an_epoch_in_an_order_of_the_seed(many, kind):
    def numbers(source, count):
        batch = source.next_batch(count)
        if kind is TransitionSource:
            return batch.observations["proprio"][:, 0].tolist()
        return [float(trajectory.observations["proprio"][0, 0]) for trajectory in batch]

    source = kind(many, seed=3)
    size = len(source)
    everything = [numbers(source, size) for _ in range(2)]
    assert sorted(everything[0]) == sorted(everything[1]) and len(set(everything[0])) == size
    assert everything[0] != everything[1] and source.epoch == 2
    assert numbers(kind(many, seed=3), size) == everything[0] != numbers(kind(many, seed=4), size)
    across = kind(many, seed=3)
    numbers(across, size - 2)
    assert numbers(across, 5) == everything[0][-2:] + everything[1][:3]


@pytest.mark.parametrize("kind", [TransitionSource, TrajectorySource])
@pytest.mark.parametrize("before", [0, 5, 30])
def test_a_resumed_source_goes_on_bit_for_bit(many, kind, before):
    def drawn(source):
        batch = source.next_batch(4)
        return [each.rewards.tolist() for each in batch] if kind is TrajectorySource else batch.rewards.tolist()

    first = kind(many, seed=0)
    first.next_batch(before)
    state = json.loads(json.dumps(first.state_dict()))
    second = kind(many, seed=0)
    second.load_state_dict(state)
    assert [drawn(first) for _ in range(9)] == [drawn(second) for _ in range(9)]
    with pytest.raises(UserError, match="holds other episodes than when the run was stopped"):
        second.load_state_dict({**state, "data": "other"})


def test_a_batch_reads_the_rows_that_it_needs(many, monkeypatch):
    read = []
    original = Store.__getitem__
    monkeypatch.setattr(Store, "__getitem__", lambda self, rows: read.append(rows) or original(self, rows))
    many.transitions(np.array([4, 0]))
    assert [sorted(map(int, rows)) for rows in read] == [[0, 6], [1, 7]]
    read.clear()
    many[2]
    assert read == [slice(5, 9)]
