"""DigiRL from rollouts: trajectories and replay by hand, learning, offline-to-online, and exact resumption."""

import copy
import json
from contextlib import closing

import numpy as np
import pytest
import torch
from stable_baselines3.common.monitor import Monitor
from test_digirl import create as create_digirl
from touch_world import BACK, TAP, TouchWorld, all_pages, all_right, random_episodes, touch_worlds

from pr2l.policies import digirl_online
from pr2l.policies.base import Actions, Hooks, UserError
from pr2l.policies.common.loop import ShuffledSource
from pr2l.policies.common.replay import Episode, Replay, Rollouts, row_of, trajectory
from pr2l.rollout.in_process import InProcessVecEnv

ONLINE = {"n_steps": 8, "updates": 4, "trajectories": 8, "critic_sizes": (16,), "history": 100, "successes_only": True}


def create(seed=0, **options):
    return create_digirl(digirl_online, seed, **{**ONLINE, **options})


class Recorder(Hooks):
    """Record steps and metrics of the updates, and learner and `venv` before update number `snapshot_at`."""

    def __init__(self, snapshot_at=None, venv=None):
        self.snapshot_at, self.venv, self.metrics, self.steps, self.snapshot = snapshot_at, venv, [], [], None

    def on_update_start(self, learner):
        if len(self.metrics) == self.snapshot_at:
            self.snapshot = copy.deepcopy((*learner.state_dict(), self.venv))
        self.steps.append(learner.num_timesteps)

    def on_update(self, metrics):
        self.metrics.append(metrics)


@pytest.mark.parametrize("truncated", [False, True])
def test_trajectory_by_hand(truncated):
    observations = {"tokens": torch.zeros(4, 2, 3)}
    steps = trajectory(observations, torch.zeros(3, 2), torch.tensor([0.0, 2.0, 1.0]), 0.5, truncated=truncated)
    assert steps.monte_carlo_returns.tolist() == [0 + 0.5 * 2.5, 2 + 0.5 * 1, 1]
    assert steps.truncated.tolist() == [False, False, truncated]
    assert steps.terminated.tolist() == [False, False, not truncated]
    assert steps.discounts.tolist() == [0.5, 0.5, 0.5 * truncated]


def test_replay_drops_the_oldest_episodes():
    """Episodes of 2 to 5 steps have 3 to 6 observations."""
    replay = Replay(capacity=10, gamma=0.5)
    for steps in (2, 3, 4, 5):
        rewards = torch.full((steps,), float(steps))
        replay.add(trajectory({"mask": torch.ones(steps + 1, 1)}, torch.zeros(steps, 1), rewards, 0.5, truncated=False))
    assert [len(steps) for steps in replay.trajectories] == [5] and replay.observations == 6
    long = trajectory({"mask": torch.ones(21, 1)}, torch.zeros(20, 1), torch.zeros(20), 0.5, truncated=False)
    replay.add(long)
    assert [*replay.trajectories] == [long] and replay.observations == 21


class Script:
    """Policy that taps the marked cell, but takes one wrong action first in every episode of environment 1."""

    def __init__(self):
        self.tapped = np.zeros(2, bool)

    def __call__(self, observation):
        last_page = observation["tokens"][:, 0, 1] > 0
        actions = np.stack([np.where(last_page, BACK, TAP), observation["tokens"][:, :, 0].argmax(axis=1)], axis=1)
        if not self.tapped[1]:
            actions[1] = BACK, 3
        self.tapped = ~last_page
        return Actions(actions)


def collected(n_steps=5):
    """Return the replay and the running episodes after a rollout of the script in two environments."""
    venv = touch_worlds(2, pages=1, horizon=4)
    venv.seed(0)
    observations = venv.reset()
    episodes = [Episode([row_of(observations, row)]) for row in range(2)]
    replay, infos = Replay(1000, gamma=0.5), []
    hooks = Hooks()
    hooks.on_step = infos.append
    assert Rollouts(venv, episodes, replay, None, hooks).collect(Script(), n_steps) == 2 * n_steps == 2 * len(infos)
    return replay, episodes


def test_rollouts_store_whole_episodes():
    """Environment 0 succeeds in steps 2 and 4, environment 1 in step 3; observations end with the episode's own."""
    replay, running = collected()
    assert [len(steps) for steps in replay.trajectories] == [2, 3, 2]
    success = replay.trajectories[1]
    assert success.actions[0].tolist() == [BACK, 3] and success.actions[2, 0] == BACK
    assert success.rewards.tolist() == [0, 0, 1] and success.monte_carlo_returns.tolist() == [0.25, 0.5, 1]
    assert success.terminated.tolist() == [False, False, True]
    tokens = success.observations["tokens"]
    assert tokens.dtype == torch.float16 and success.observations["mask"].dtype == torch.bool
    assert torch.equal(tokens[0], tokens[1])  # nothing changed after the wrong action
    assert tokens[2:, :, 1].all()  # the last page, before and after the last step, not the next episode's first
    assert [len(episode.actions) for episode in running] == [1, 2]
    assert [len(episode.observations) for episode in running] == [2, 3]


def test_time_limits_truncate():
    venv = touch_worlds(1, pages=5, horizon=3)
    replay = Replay(1000, gamma=0.5)
    episodes = [Episode([row_of(venv.reset(), 0)])]
    Rollouts(venv, episodes, replay, None, Hooks()).collect(lambda _: Actions(np.array([[BACK, 0]])), 3)
    assert replay.trajectories[0].truncated.tolist() == [False, False, True]
    assert replay.trajectories[0].discounts.tolist() == [0.5, 0.5, 0.5]


def test_replay_and_running_episodes_are_restored():
    replay, running = collected()
    restored = Replay(1000, gamma=0.5)
    restored.restore(replay.tensors())
    assert restored.observations == replay.observations == 10
    for ours, theirs in zip(replay.trajectories, restored.trajectories, strict=True):
        for name in ("actions", "rewards", "terminated", "truncated", "monte_carlo_returns", "discounts"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        assert all(torch.equal(ours.observations[key], theirs.observations[key]) for key in ours.observations)
    for episode in [*running, Episode(running[0].observations[:1])]:
        other = Episode.of_tensors(episode.tensors())
        assert np.array_equal(other.actions, episode.actions) and other.rewards == episode.rewards
        for ours, theirs in zip(episode.observations, other.observations, strict=True):
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_batches_mix_replay_and_data_in_proportion():
    replay, _ = collected()  # 3 trajectories beside 9 recorded ones
    data = ShuffledSource(random_episodes(9), 0)
    rollouts = Rollouts(touch_worlds(1), [], replay, data, Hooks())
    torch.manual_seed(0)
    batch = rollouts.next_batch(4000)
    own = sum(any(drawn is steps for steps in replay.trajectories) for drawn in batch)
    assert len(batch) == 4000 and own / 4000 == pytest.approx(1 / 4, abs=0.02) and data.position == 4000 - own
    assert Rollouts(touch_worlds(1), [], Replay(9, 0.5), None, Hooks()).next_batch(3) == []


@pytest.mark.parametrize("scores", ["curriculum", pytest.param("reward", marks=pytest.mark.slow)])
def test_learns_the_optimal_policy(scores):
    """A random policy succeeds in a third of the episodes of five steps; the right one in two steps."""
    learner, venv = create(filter=scores, margin=0.3, learning_rate=0.02), touch_worlds(horizon=5)
    learner.learn(venv, 4000, Hooks())
    assert all_right(learner.act(all_pages(), greedy=True).actions)
    assert np.mean([len(steps) for steps in [*learner.replay.trajectories][-50:]]) < 2.5


def test_recorded_data_train_the_policy_before_the_first_rollout():
    learner, recorder = create(offline_updates=300, margin=0.3), Recorder()
    learner.add_data(ShuffledSource(random_episodes(400, horizon=5), 0))
    learner.learn(touch_worlds(horizon=5), 1, recorder)
    assert recorder.steps == [0] * 301 and learner.num_timesteps == 32 and learner.updates == 304
    lengths = [len(steps) for steps in learner.replay.trajectories]
    assert lengths and np.mean(lengths) < 3 and "replay/trajectories" in recorder.metrics[-1]


def test_offline_updates_without_data_are_refused():
    with pytest.raises(UserError, match="offline_updates=3 needs recorded.*data=FOLDER"):
        create(offline_updates=3).learn(touch_worlds(), 1, Hooks())


@pytest.mark.parametrize("with_data", [False, True])
def test_resumed_training_equals_uninterrupted_training(with_data):
    """The snapshot has a replay that is full, and running episodes, because 8 is no multiple of 5."""

    def new_learner(seed):
        learner = create(seed, replay=40, schedule="linear", critic_updates=10, offline_updates=with_data)
        if with_data:
            learner.add_data(ShuffledSource(random_episodes(20), 0))
        return learner

    venv, uninterrupted = touch_worlds(horizon=5), new_learner(0)
    expected = Recorder(snapshot_at=4, venv=venv)
    uninterrupted.learn(venv, 256, expected)
    tensors, values, venv = expected.snapshot
    assert any(name.startswith("running/") and name.endswith("actions") for name in tensors)
    resumed, recorder = new_learner(1), Recorder()
    torch.manual_seed(99), np.random.seed(99)
    resumed.load_state_dict(tensors, json.loads(json.dumps(values)))
    resumed.learn(venv, 256, recorder)
    assert recorder.steps == expected.steps[4:] and len(recorder.steps) > 3 and recorder.metrics == expected.metrics[4:]
    ours, theirs = uninterrupted.state_dict()[0], resumed.state_dict()[0]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_state_contains_the_replay_without_a_copy():
    learner = create()
    learner.learn(touch_worlds(horizon=5), 64, Hooks())
    tokens = learner.state_dict()[0]["replay/0/observations/tokens"]
    assert tokens.data_ptr() == learner.replay.trajectories[0].observations["tokens"].data_ptr()


def test_rollout_bytes():
    space = TouchWorld().observation_space
    assert digirl_online.rollout_bytes(space, 4, digirl_online.Defaults(replay=10)) == {"cpu": 10 * (4 * 8 * 2 + 4)}


def in_process(count, **options):
    return InProcessVecEnv([lambda: Monitor(TouchWorld(**options))] * count)


def test_one_asynchronous_environment_equals_a_synchronous_one():
    states = []
    for asynchronous in (False, True):
        learner = create(asynchronous=asynchronous)
        with closing(in_process(1, horizon=5)) as venv:
            learner.learn(venv, 64, Hooks())
        states.append(learner.state_dict()[0])
    ours, theirs = states
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_asynchronous_rollouts_count_all_steps():
    learner = create(asynchronous=True)
    with closing(in_process(4, horizon=5)) as venv:
        learner.learn(venv, 96, Hooks())
        learner.learn(venv, 160, Hooks())  # goes on with the steps that run
    steps = [*map(len, learner.replay.trajectories), *(len(episode.actions) for episode in learner.episodes)]
    assert learner.num_timesteps == 160 == sum(steps)
