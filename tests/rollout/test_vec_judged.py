"""Rewards from an evaluator, in environments whose frames tell the episode and the step."""

from contextlib import closing
from functools import partial

import numpy as np
import pytest
from diary_world import DiaryWorld, seeded_diary
from stable_baselines3.common.vec_env import DummyVecEnv
from test_vec_embed import Echo

from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.in_process import InProcessVecEnv
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.vec_judged import VecJudged
from pr2l.rollout.workers import Workers


class Verdicts:
    """Evaluator with fixed probabilities, one per episode, that records its questions."""

    def __init__(self, *probabilities):
        self.probabilities, self.questions = iter(probabilities), []

    def score(self, task, frames, actions, success=None):
        self.questions.append((task, [int(frame.max()) for frame in frames], actions, success))
        return next(self.probabilities)


def judged(evaluator, *lengths):
    venv = DummyVecEnv([partial(seeded_diary, length, record=True) for length in lengths])
    return VecJudged(venv, evaluator, "solve {target}")


def play(venv, *actions):
    """Return the rewards of each step, and the "episode" of each ended episode without its context."""
    venv.reset()
    rewards, episodes = [], []
    for action in actions:
        _, reward, _, infos = venv.step(np.full(venv.num_envs, action))
        rewards.append(reward.tolist())
        assert not any("record" in info for info in infos)
        episodes += [info["episode"] for info in infos if "episode" in info]
    return rewards, episodes


def test_the_evaluator_decides_the_reward_of_the_last_step():
    """The world gives 1 for each step and calls no episode a success."""
    evaluator = Verdicts(0.5, 0.49, None)
    rewards, episodes = play(judged(evaluator, 2), 0, 1, 0, 0, 1, 1)
    assert rewards == [[0], [1], [0], [0], [0], [0]]
    assert [episode["r"] for episode in episodes] == [1, 0, 0]
    assert [episode["agrees"] for episode in episodes] == [0, 1, 1]
    assert [episode["abstained"] for episode in episodes] == [0, 0, 1]
    assert [episode["success"] for episode in episodes] == [False] * 3


def test_the_evaluator_reads_instruction_frames_actions_and_success_of_the_whole_episode():
    evaluator = Verdicts(1, 1, 1)
    play(judged(evaluator, 2, 3), 0, 1, 1)
    assert evaluator.questions == [
        ("solve 0", [0, 1, 2], ["0", "1"], False),
        ("solve 0", [0, 1, 2, 3], ["0", "1", "1"], False),
    ]


@pytest.mark.parametrize(("text", "expected"), [("tap(0, 0)", "tap(0, 0)"), ("", ""), (7, "1"), (None, "1")])
def test_an_action_in_the_info_is_its_text(text, expected):
    class Named(DiaryWorld):
        def _observation(self):
            observation, info = super()._observation()
            return observation, {**info, "action": text}

    evaluator = Verdicts(1)
    venv = DummyVecEnv([lambda: SeededEpisodes(Named(1), seed_of=int, record=True)])
    play(VecJudged(venv, evaluator, "solve {target}"), 1)
    assert evaluator.questions[0][2] == [expected]


def test_episodes_that_a_failure_cut_get_no_reward_and_no_question():
    class Failing(DiaryWorld):
        def step(self, action):
            observation, _, _, _, info = super().step(action)
            return observation, 1.0, False, True, {**info, "cut": "the page is gone"}

    evaluator = Verdicts()
    venv = DummyVecEnv([lambda: SeededEpisodes(Failing(1), seed_of=int, record=True)])
    rewards, [episode] = play(VecJudged(venv, evaluator, "solve {target}"), 1)
    assert rewards == [[0]] and episode["r"] == 0 and "agrees" not in episode


def test_a_replayed_episode_is_judged_whole():
    evaluator = Verdicts(1)
    venv = VecEmbed(judged(evaluator, 3), Echo())
    venv.reset()
    venv.step(np.array([1]))
    [state] = venv.states()
    resumed = VecEmbed(judged(evaluator, 3), Echo())
    resumed.venv.venv.envs[0].unwrapped.episode = -1
    resumed.restore([state])
    resumed.step(np.array([0]))
    resumed.step(np.array([1]))
    assert evaluator.questions == [("solve 0", [0, 1, 2, 3], ["1", "0", "1"], False)]


def test_groups_of_worker_processes_are_judged():
    factories = [partial(seeded_diary, length, record=True) for length in (1, 2)]
    evaluator = Verdicts(1, 1, 1)
    with closing(VecEmbed(VecJudged(Workers(factories, 1, 2), evaluator, "solve {target}"), Echo())) as venv:
        assert play(venv, 0, 1)[0] == [[1, 0], [1, 1]]
    assert [question[:2] for question in sorted(evaluator.questions)] == [
        ("solve 0", [0, 1]), ("solve 0", [0, 1, 2]), ("solve 1", [10, 11]),
    ]  # fmt: skip


def test_steps_of_some_environments_are_judged():
    """Environment 1 ends its episode while environment 0 has made no step."""
    frames = InProcessVecEnv([partial(seeded_diary, length, record=True) for length in (2, 2)])
    with closing(VecEmbed(VecJudged(frames, Verdicts(0.9), "solve {target}"), Echo())) as venv:
        venv.reset()
        rewards = []
        for _ in range(2):
            venv.send([1], [0])
            rows, (_, reward, _, infos) = venv.receive()
            rewards.append((rows, reward.tolist()))
        assert rewards == [([1], [0]), ([1], [1])] and infos[0]["episode"]["agrees"] == 0
