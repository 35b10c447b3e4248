"""Transitions and trajectories compared with a loop over the written episodes."""

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


def create_store(recording: Recording) -> Store:
    """Store two tokens per frame with the number of the row; in odd rows the second token is padding."""
    store = Store.create(recording.folder / "store", {"a": 1}, (len(recording), 2, 3))
    rows = torch.arange(len(recording)).float()
    mask = torch.stack([torch.ones(len(rows)), 1 - rows % 2], dim=1).bool()
    store.append(Tokens(rows[:, None, None].expand(-1, 2, 3), mask))
    store.flush()
    return Store.open(store.path, {"a": 1})


def write_and_read(folder: Path, episodes: list[dict], gamma: float = 0.5, **more) -> Episodes:
    recording = Recording(write(folder, episodes, **more))
    return Episodes(recording, create_store(recording), gamma)


def reference_transitions(episodes: list[dict], gamma: float, n_step: int) -> list[dict]:
    """Compute all transitions with nested loops."""
    transitions, row = [], 0
    for episode in episodes:
        rewards = episode["rewards"]
        for step in range(len(rewards)):
            end = min(step + n_step, len(rewards))
            last = end == len(rewards)
            transitions.append(
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
    return transitions


EPISODES = st.lists(
    st.fixed_dictionaries(
        {"rewards": st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=6), "terminated": st.booleans()}
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(EPISODES, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(1, 7), st.randoms(use_true_random=False))
def test_transitions_equal_a_reference_loop(tmp_path_factory, episodes, gamma, n_step, random):
    data = write_and_read(tmp_path_factory.mktemp("data") / "a", episodes, gamma)
    expected = reference_transitions(episodes, gamma, n_step)
    assert data.steps == len(expected) and len(data) == len(episodes)
    numbers = random.choices(range(len(expected)), k=10)
    batch, rows = data.transitions(np.array(numbers), n_step), [expected[number] for number in numbers]
    for observations, key in ((batch.observations, "row"), (batch.next_observations, "next_row")):
        numbers_of_rows = torch.tensor([float(row[key]) for row in rows])
        mask = observations["mask"]
        assert mask.dtype == torch.bool and mask[:, 0].all() and (mask[:, 1] == (numbers_of_rows % 2 == 0)).all()
        tokens = observations["tokens"]
        assert tokens.dtype == torch.float16
        assert torch.equal(tokens.float(), (numbers_of_rows[:, None, None] * mask[..., None]).expand(-1, -1, 3))
        assert torch.equal(observations["proprio"], torch.stack([numbers_of_rows, -numbers_of_rows], dim=1))
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
def test_trajectory_equals_the_transitions_of_its_episode(tmp_path_factory, episodes, gamma):
    data = write_and_read(tmp_path_factory.mktemp("data") / "a", episodes, gamma)
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


def test_returns_of_three_rewards(tmp_path):
    """r = 1, 0, 4 at gamma = 1/2: G2 = 4, G1 = 0 + 4/2 = 2, G0 = 1 + 2/2 = 2, terminated or truncated.

    The 2-step reward from step 0 is 1 + 0/2, and the discount of observation 2 is gamma^2 = 1/4. From step 1 it is
    0 + 4/2, and the discount of the last observation is 1/4 if the episode is truncated, 0 if it is terminated.
    """
    rewards = [1.0, 0.0, 4.0]
    assert discounted_returns(np.array(rewards), 0.5).tolist() == [2, 2, 4]
    both = [{"rewards": rewards, "terminated": True}, {"rewards": rewards, "terminated": False}]
    batch = write_and_read(tmp_path / "a", both).transitions(np.arange(6), n_step=2)
    assert batch.monte_carlo_returns.tolist() == [2, 2, 4, 2, 2, 4]
    assert batch.rewards.tolist() == [1, 2, 4, 1, 2, 4]
    assert batch.discounts.tolist() == [0.25, 0, 0, 0.25, 0.25, 0.5]
    assert batch.return_discounts.tolist() == [0, 0, 0, 0.125, 0.25, 0.5]
    assert batch.next_observations["proprio"][:, 0].tolist() == [2, 3, 3, 6, 7, 7]
    assert batch.terminated.tolist() == [False, True, True, False, False, False]
    assert batch.truncated.tolist() == [False, False, False, False, True, True]


def test_transitions_equal_those_of_minari(tmp_path):
    """Observation i, action i, reward i and observation i + 1 of Minari's EpisodeData."""
    episodes = [{"rewards": [1.0, 2.0], "terminated": True}, {"rewards": [3.0], "terminated": False}]
    data = write_and_read(tmp_path / "a", episodes)
    batch, expected = data.transitions(np.arange(3)), []
    for episode in minari.MinariDataset(tmp_path / "a" / "data"):
        for step in range(len(episode.rewards)):
            proprio = [episode.observations["proprio"][row].tolist() for row in (step, step + 1)]
            ends = bool(episode.terminations[step]), bool(episode.truncations[step])
            expected.append((*proprio, int(episode.actions[step]), float(episode.rewards[step]), *ends))
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
def test_actions_have_the_dtype_of_their_space(tmp_path, kind):
    """The second episode has the actions in reverse order, and as expert actions those of the first."""
    space, actions = ACTIONS[kind]
    forwards = {"rewards": [0.0, 0.0], "terminated": True, "actions": actions}
    episodes = [forwards, {**forwards, "actions": actions[::-1], "choices": actions}]
    data = write_and_read(tmp_path / "a", episodes, action_space=space)
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


def test_context_may_change_within_an_episode(tmp_path):
    changing = [{"app": "mail"}, {"app": "maps", "step": "2"}, {"app": "mail"}]
    first = {"rewards": [0.0, 1.0], "terminated": True, "contexts": changing}
    episodes = [first, {"rewards": [0.0], "terminated": True}]
    data = write_and_read(tmp_path / "a", episodes)
    armor = {"target": "armor"}
    assert data.transitions(np.array([2, 1, 0])).contexts == [armor, changing[1], changing[0]]
    assert list(data[0].contexts) == changing and list(data[1].contexts) == [armor] * 2
    assert [contexts for _, contexts in data.recording.batches(1, 2)] == [changing[1:], [armor] * 2]
    assert data.recording.sample(9)[1] == [*changing, armor, armor]
    assert data.recording.all_contexts() == [changing[0], changing[1], armor]


MANY = [{"rewards": [float(i)] * (1 + i % 3), "terminated": i % 2 == 0} for i in range(7)]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_and_read(tmp_path_factory.mktemp("data") / "many", MANY)


@pytest.mark.parametrize("kind", [TransitionSource, TrajectorySource])
def test_each_epoch_has_all_items_in_an_order_of_the_seed(many, kind):
    def numbers(source, count):
        batch = source.next_batch(count)
        if kind is TransitionSource:
            return batch.observations["proprio"][:, 0].tolist()
        return [float(trajectory.observations["proprio"][0, 0]) for trajectory in batch]

    source = kind(many, seed=3)
    size = len(source)
    epochs = [numbers(source, size) for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == size
    assert epochs[0] != epochs[1] and source.epoch == 2
    assert numbers(kind(many, seed=3), size) == epochs[0] != numbers(kind(many, seed=4), size)
    source = kind(many, seed=3)
    numbers(source, size - 2)
    assert numbers(source, 5) == epochs[0][-2:] + epochs[1][:3]


@pytest.mark.parametrize("kind", [TransitionSource, TrajectorySource])
@pytest.mark.parametrize("before", [0, 5, 30])
def test_restored_source_continues_exactly(many, kind, before):
    def rewards(source):
        batch = source.next_batch(4)
        return [item.rewards.tolist() for item in batch] if kind is TrajectorySource else batch.rewards.tolist()

    first = kind(many, seed=0)
    first.next_batch(before)
    state = json.loads(json.dumps(first.state_dict()))
    second = kind(many, seed=0)
    second.load_state_dict(state)
    assert [rewards(first) for _ in range(9)] == [rewards(second) for _ in range(9)]
    with pytest.raises(UserError, match="other episodes"):
        second.load_state_dict({**state, "data": "other"})


def test_batch_reads_only_its_rows(many, monkeypatch):
    read = []
    original = Store.__getitem__
    monkeypatch.setattr(Store, "__getitem__", lambda self, rows: read.append(rows) or original(self, rows))
    many.transitions(np.array([4, 0]))
    assert [sorted(map(int, rows)) for rows in read] == [[0, 6], [1, 7]]
    read.clear()
    many[2]
    assert read == [slice(5, 9)]
