"""Episodes are their seed and their actions: numbered, accounted for, and played again exactly."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from pr2l.episodes import SeededEpisodes, evaluation_seed, training_seed


class DiceWorld(gym.Env):
    """Shows a die per step; the action is added up with it, and the episode ends when the sum reaches 30."""

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


def test_episodes_are_seeded_by_their_number_whatever_the_caller_asks():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset(seed=3)
    assert env.unwrapped.seed == 100
    env.reset()
    assert env.unwrapped.seed == 101


def test_the_last_step_accounts_for_the_episode():
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
        }
        env.reset()
    assert "episode" not in env.step(0)[-1]


def test_a_restored_episode_goes_on_exactly():
    first, second = (SeededEpisodes(DiceWorld(), seeds) for _ in range(2))
    first.reset()
    first.reset()
    play(first, [0, 2, np.int64(1)])
    observation, info = second.restore(json.loads(json.dumps(first.state())))
    assert observation["frame"][0, 0, 0] == first.unwrapped.die
    assert info["success"] is False
    ours, theirs = play(first, [3] * 6), play(second, [3] * 6)
    for mine, its in zip(ours, theirs, strict=True):
        assert np.array_equal(mine[0]["frame"], its[0]["frame"])
        assert mine[1:] == its[1:]
    assert any("episode" in step[-1] for step in ours)


def test_an_episode_that_has_not_begun_is_restored_to_its_reset():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    again = SeededEpisodes(DiceWorld(), seeds)
    observation, _ = again.restore(env.state())
    assert observation["frame"][0, 0, 0] == env.unwrapped.die


def test_a_simulator_that_is_not_deterministic_is_noticed():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    play(env, [0, 0])
    state = {**env.state(), "observation": "of another frame"}
    with pytest.warns(UserWarning, match="shows another observation: the simulator is not deterministic"):
        SeededEpisodes(DiceWorld(), seeds).restore(state)


def test_an_episode_that_ends_early_when_played_again_gives_way_to_the_next():
    env = SeededEpisodes(DiceWorld(), seeds)
    with pytest.warns(UserWarning, match="ended after .* of 40 actions"):
        env.restore({"episode": 4, "actions": [3] * 40, "observation": ""})
    assert env.unwrapped.seed == 105


def test_no_two_episodes_share_a_seed():
    training = {
        training_seed(run, env, episode) for run in range(3) for env in range(8) for episode in range(100)
    }
    evaluation = {evaluation_seed(number) for number in range(1000)}
    assert (len(training), len(evaluation)) == (2400, 1000)
    assert not training & evaluation
    assert all(0 <= seed < 2**32 for seed in training | evaluation)


def test_seeds_do_not_change_between_releases():
    """Results are only comparable on the same evaluation episodes."""
    assert [evaluation_seed(0), evaluation_seed(1)] == [3953331965, 3613627650]
    assert training_seed(0, 0, 0) == 3678467582
