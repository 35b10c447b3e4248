"""Episodes are their seed and their actions: numbered, accounted for, and played again exactly."""

import json
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


def test_rewound_they_begin_with_the_first_even_after_one_that_was_to_be_played_again():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    env.reset()
    env._again = True
    env.rewind()
    env.reset()
    assert env.unwrapped.seed == 100 and not env._again


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
            "context": {},
            "measures": {},
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


class Summing(DiceWorld):
    """Adds up the numbers of any action; an action of other types or another dtype than its space's is an error."""

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
def test_actions_of_every_space_are_replayed_bit_for_bit(space):
    space.seed(0)
    env, again = (SeededEpisodes(Summing(space), seeds) for _ in range(2))
    env.reset()
    play(env, [space.sample() for _ in range(5)])
    state = json.loads(json.dumps(env.state(), allow_nan=False))
    observation, _ = again.restore(state)  # warns, which is an error here, if the last frame is another
    assert observation["frame"][0, 0, 0] == env.unwrapped.die and again.state() == env.state()


def test_an_environment_gets_actions_of_its_space_as_a_replay_would_give_them():
    env = SeededEpisodes(Summing(spaces.Box(-1, 1, (2,), np.float64)), seeds)
    env.reset()
    env.step(np.array([0.1, 0.2], np.float32))  # as Stable-Baselines3 sends them


def test_a_wrong_action_is_refused_before_the_environment_takes_it():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    with pytest.raises(UserError, match="the action is 0.5 .* send an integer from 0 to 3"):
        env.step(0.5)
    assert env.state()["actions"] == [] and env.unwrapped.sum == 0


class CutDice(DiceWorld):
    """A simulator that fails in the second step of every attempt but the last of each seed, as Isolated shows it."""

    def __init__(self, failures):
        self.failures, self.restarts = dict(failures), 0  # seed -> attempts that fail

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


def test_a_cut_episode_is_played_again_once():
    env = SeededEpisodes(CutDice({100: 1, 101: 2}), seeds)
    ended = []
    while len(ended) < 5:
        env.reset()
        done = False
        while not done:
            *_, terminated, truncated, info = env.step(3)
            done = terminated or truncated
        ended.append(info["episode"])
    assert [one["number"] for one in ended] == [0, 0, 1, 1, 2]
    assert [(one.get("again"), one.get("cut")) for one in ended] == [
        (True, None), (None, None), (True, None), (None, "killed"), (None, None)
    ]  # fmt: skip
    assert [one["l"] == 2 for one in ended] == [True, False, True, True, False]
    assert env.restarts == 3
    assert SeededEpisodes(DiceWorld(), seeds).restarts == 0


@pytest.mark.parametrize("failures", [1, 2])
def test_a_restored_second_attempt_is_the_last(failures):
    env = SeededEpisodes(CutDice({100: failures}), seeds)
    env.reset()
    play(env, [3, 3])  # the first attempt is cut
    env.reset()
    env.step(3)
    state = json.loads(json.dumps(env.state()))
    again = SeededEpisodes(CutDice({100: failures - 1}), seeds)
    again.restore(state)
    first, *_ = (info["episode"] for *_, info in play(again, [3] * 9) if "episode" in info)
    assert first.get("cut") == (None if failures == 1 else "killed") and "again" not in first


def test_a_state_of_an_earlier_version_is_restored():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    state = env.state()
    del state["again"]
    SeededEpisodes(DiceWorld(), seeds).restore(state)


def test_a_simulator_that_fails_during_a_replay_is_replayed_anew():
    env = SeededEpisodes(DiceWorld(), seeds)
    env.reset()
    play(env, [1, 1])
    again = SeededEpisodes(CutDice({100: 2}), seeds)
    observation, _ = again.restore(env.state())
    assert observation["frame"][0, 0, 0] == env.unwrapped.die and again.state() == env.state()


def test_a_second_attempt_is_the_same_episode():
    whole, again = SeededEpisodes(DiceWorld(), seeds), SeededEpisodes(CutDice({100: 1}), seeds)
    whole.reset()
    again.reset()
    play(again, [1, 1])
    again.reset()
    for mine, its in zip(play(whole, [1] * 3), play(again, [1] * 3), strict=True):
        assert np.array_equal(mine[0]["frame"], its[0]["frame"])
        assert mine[1:] == its[1:]


def test_an_isolated_doom_is_restored_from_its_seed_and_actions():
    make = partial(make_episodes, "doom", "fetch", doom.Defaults(rooms=4), "train", False, seeds)
    with closing(make(isolated=True)) as first, closing(make()) as second:
        first.reset()
        play(first, [0, 2, 1])
        assert isinstance(first.unwrapped, Isolated) and first.restarts == 0
        observation, _ = second.restore(json.loads(json.dumps(first.state())))
        ours, theirs = first.step(2), second.step(2)
        assert np.array_equal(ours[0]["frame"], theirs[0]["frame"]) and ours[1:] == theirs[1:]
        with closing(make(isolated=True)) as third:
            assert np.array_equal(third.restore(first.state())[0]["frame"], ours[0]["frame"])


def test_what_is_isolated_by_itself_is_not_isolated_twice(write_plugin):
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
    make(timeouts={"step": 7}).close()  # which whatever steps it takes care of
    with pytest.raises(UserError, match="timeouts.memory is for isolated simulators; add isolated=true for doom"):
        make(timeouts={"step": 7, "memory": 500})


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
