"""Numbered and seeded episodes: statistics, restoration from seed and actions, repetition after failures."""

import json
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pr2l.core.errors import UserError
from pr2l.environments.doom import environment as doom
from pr2l.environments.isolation.isolated import Isolated, Timeouts
from pr2l.rollout.episodes import SeededEpisodes, evaluation_seed, make_episodes, training_seed


class DiceWorld(gym.Env):
    """The frame is a die. Die and action are added up, and the episode ends when the sum reaches 30."""

    observation_space = spaces.Dict({"frame": spaces.Box(0, 255, (1, 1, 3), np.uint8)})
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.sum = seed, 0
        return self._roll()

    def step(self, action):
        self.sum += self.die + action
        observation, info = self._roll()
        return observation, float(self.die), self.sum >= 30, False, {"success": self.sum == 30, **info}

    def _roll(self):
        self.die = int(self.np_random.integers(1, 7))
        return {"frame": np.full((1, 1, 3), self.die, np.uint8)}, {"context": {}}


def seeds(number):
    return 100 + number


def play(env, actions):
    return [env.step(action) for action in actions]


def assert_same_steps(steps, expected_steps):
    for step, expected in zip(steps, expected_steps, strict=True):
        assert np.array_equal(step[0]["frame"], expected[0]["frame"])
        assert step[1:] == expected[1:]


def test_seed_of_an_episode_depends_on_its_number_only():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset(seed=3)
    assert env.unwrapped.seed == 100
    env.reset()
    assert env.unwrapped.seed == 101


def test_rewind_starts_with_the_first_episode_also_before_a_repetition():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    env.reset()
    env._again = True
    env.rewind()
    env.reset()
    assert env.unwrapped.seed == 100 and not env._again


def test_last_info_has_the_statistics_of_the_episode():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    for _ in range(2):
        rewards, done = [], False
        while not done:
            _, reward, done, _, info = env.step(3)
            rewards.append(reward)
        assert info["episode"] == {
            "r": sum(rewards),
            "l": len(rewards),
            "success": info["success"],
            "number": env.unwrapped.seed - 100,
            "context": {},
            "measures": {},
        }
        env.reset()
    assert "episode" not in env.step(0)[-1]


def test_restored_episode_continues_exactly():
    first, second = (SeededEpisodes(DiceWorld(), seeds) for _ in range(2))
    first.reset()
    first.reset()
    play(first, [0, 2, np.int64(1)])
    observation, info = second.restore(json.loads(json.dumps(first.state())))
    assert observation["frame"][0, 0, 0] == first.unwrapped.die
    assert info["success"] is False
    expected = play(first, [3] * 6)
    assert_same_steps(play(second, [3] * 6), expected)
    assert any("episode" in step[-1] for step in expected)


def test_episode_without_steps_is_restored_to_its_reset():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    again = SeededEpisodes(DiceWorld(), seeds)
    observation, _ = again.restore(env.state())
    assert observation["frame"][0, 0, 0] == env.unwrapped.die


def test_restore_warns_if_the_simulator_is_not_deterministic():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    play(env, [0, 0])
    state = {**env.state(), "observation": "of another frame"}
    with pytest.warns(UserWarning, match="the simulator is not deterministic"):
        SeededEpisodes(DiceWorld(), seeds).restore(state)


def test_restore_goes_to_the_next_episode_if_the_replay_ends_early():
    env = SeededEpisodes(DiceWorld(), seeds)
    with pytest.warns(UserWarning, match="ended after .* of 40 actions"):
        env.restore({"episode": 4, "actions": [3] * 40, "observation": ""})
    assert env.unwrapped.seed == 105


class Summing(DiceWorld):
    """The frame is the sum of the numbers in the action, which must be in the space with its dtype."""

    def __init__(self, space):
        self.action_space = space

    def step(self, action):
        assert self.action_space.contains(action), action
        numbers = [np.asarray(part, np.float64).sum() for part in gym.spaces.flatten(self.action_space, action)]
        self.die = int(1000 * np.sum(numbers)) % 256
        observation = {"frame": np.full((1, 1, 3), self.die, np.uint8)}
        return observation, 0.0, False, False, {"success": False, "context": {}}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-1, 1, (2, 3), np.float64),
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.Discrete(4),
        spaces.Dict(move=spaces.Box(-1, 1, (2,), np.float32), jump=spaces.Discrete(2)),
        spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1, 1, (1,), np.float64)]),
    ],
    ids=str,
)
def test_actions_of_all_spaces_are_replayed_exactly(space):
    space.seed(0)
    env, again = (SeededEpisodes(Summing(space), seeds) for _ in range(2))
    env.reset()
    play(env, [space.sample() for _ in range(5)])
    state = json.loads(json.dumps(env.state(), allow_nan=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as one about another observation
        observation, _ = again.restore(state)
    assert observation["frame"][0, 0, 0] == env.unwrapped.die and again.state() == env.state()


def test_environment_gets_actions_in_the_dtype_of_its_space():
    env = SeededEpisodes(Summing(spaces.Box(-1, 1, (2,), np.float64)), seeds)
    env.reset()
    env.step(np.array([0.1, 0.2], np.float32))  # the dtype of Stable-Baselines3


def test_wrong_action_raises_before_the_step():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    with pytest.raises(UserError, match="0.5 .* integer from 0 to 3"):
        env.step(0.5)
    assert env.state()["actions"] == [] and env.unwrapped.sum == 0


class FailingDice(DiceWorld):
    """The simulator fails in the second step of the first attempts at an episode, and returns what Isolated does."""

    def __init__(self, failures):
        self.failures, self.restarts = dict(failures), 0  # seed -> number of attempts that fail

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        if self.steps == 2 and self.failures.get(self.seed, 0):
            self.failures[self.seed] -= 1
            self.restarts += 1
            frame = {"frame": np.full((1, 1, 3), self.die, np.uint8)}
            return frame, 0.0, False, True, {"context": {}, "success": False, "cut": "killed"}
        return super().step(action)


def test_cut_episode_is_repeated_once():
    env = SeededEpisodes(FailingDice({100: 1, 101: 2}), seeds)
    ended = []
    while len(ended) < 5:
        env.reset()
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(3)
            done = terminated or truncated
        ended.append(info["episode"])
    assert [episode["number"] for episode in ended] == [0, 0, 1, 1, 2]
    assert [(episode.get("again"), episode.get("cut")) for episode in ended] == [
        (True, None), (None, None), (True, None), (None, "killed"), (None, None)
    ]  # fmt: skip
    assert [episode["l"] == 2 for episode in ended] == [True, False, True, True, False]
    assert env.restarts == 3
    assert SeededEpisodes(DiceWorld(), seeds).restarts == 0


@pytest.mark.parametrize("failures", [1, 2])
def test_restored_second_attempt_is_not_repeated(failures):
    env = SeededEpisodes(FailingDice({100: failures}), seeds)
    env.reset()
    play(env, [3, 3])  # the first attempt is cut
    env.reset()
    env.step(3)
    state = json.loads(json.dumps(env.state()))
    again = SeededEpisodes(FailingDice({100: failures - 1}), seeds)
    again.restore(state)
    first, *_ = (info["episode"] for *_, info in play(again, [3] * 9) if "episode" in info)
    assert first.get("cut") == (None if failures == 1 else "killed") and "again" not in first


def test_state_of_an_earlier_version_is_restored():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    state = env.state()
    del state["again"]
    SeededEpisodes(DiceWorld(), seeds).restore(state)


def test_restore_repeats_the_replay_if_the_simulator_fails():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    play(env, [1, 1])
    again = SeededEpisodes(FailingDice({100: 2}), seeds)
    observation, _ = again.restore(env.state())
    assert observation["frame"][0, 0, 0] == env.unwrapped.die and again.state() == env.state()


def test_second_attempt_equals_the_episode():
    uncut, repeated = SeededEpisodes(DiceWorld(), seeds), SeededEpisodes(FailingDice({100: 1}), seeds)
    uncut.reset()
    repeated.reset()
    play(repeated, [1, 1])
    repeated.reset()
    assert_same_steps(play(repeated, [1] * 3), play(uncut, [1] * 3))


def test_isolated_doom_is_restored_from_seed_and_actions():
    make = partial(make_episodes, "doom", "fetch", doom.Defaults(rooms=4), "train", False, seeds)
    with closing(make(isolated=True)) as first, closing(make()) as second:
        first.reset()
        play(first, [0, 2, 1])
        assert isinstance(first.unwrapped, Isolated) and first.restarts == 0
        observation, _ = second.restore(json.loads(json.dumps(first.state())))
        expected = first.step(2)
        assert_same_steps([second.step(2)], [expected])
        with closing(make(isolated=True)) as third:
            assert np.array_equal(third.restore(first.state())[0]["frame"], expected[0]["frame"])


def test_isolated_environment_is_not_isolated_again(write_plugin):
    source = "from pr2l.environments.isolation.isolated import Isolated, Timeouts\nfrom toy_world import Defaults\n"
    far = Path(__file__).parents[1] / "remote_world.py"
    call = f"Isolated({str(far)!r}, 'count', {{}}, split=split, labels=labels, name='far', timeouts=Timeouts(step=7))"
    write_plugin("environments", "far", f"{source}def make(task, options, *, split, labels): return {call}\n")
    with closing(make_episodes("far", "count", None, "train", False, seeds, True, {"restarts": 5})) as env:
        assert env.unwrapped.action_space == spaces.Discrete(4)
        assert env.unwrapped.timeouts == Timeouts(step=7, restarts=5)


def test_timeouts_reach_an_isolated_environment():
    make = partial(make_episodes, "doom", "fetch", doom.Defaults(), "train", False, seeds)
    with closing(make(isolated=True, timeouts={"step": 7, "memory": 500})) as env:
        assert env.unwrapped.timeouts == Timeouts(step=7, memory=500)
    make(timeouts={"step": 7}).close()  # the vector environment uses this timeout
    with pytest.raises(UserError, match="timeouts.memory .*isolated=true"):
        make(timeouts={"step": 7, "memory": 500})


def test_seeds_of_all_episodes_differ():
    training = {training_seed(run, env, episode) for run in range(3) for env in range(8) for episode in range(100)}
    evaluation = {evaluation_seed(number) for number in range(1000)}
    assert (len(training), len(evaluation)) == (2400, 1000)
    assert not training & evaluation
    assert all(0 <= seed < 2**32 for seed in training | evaluation)


def test_seeds_do_not_change_between_releases():
    """Results are only comparable on the same evaluation episodes."""
    assert [evaluation_seed(0), evaluation_seed(1)] == [3953331965, 3613627650]
    assert training_seed(0, 0, 0) == 3678467582
