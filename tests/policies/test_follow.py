"""The algorithm `follow` takes the action that the token names, so it is optimal from the first step on."""

import numpy as np
import pytest
from token_world import spaces_and_count, token_worlds

from pr2l.policies import follow
from pr2l.policies.base import Hooks


class Recorder(Hooks):
    """Record the returns of the episodes, and the number of steps before each rollout."""

    def __init__(self):
        self.returns, self.rollouts = [], []

    def on_update_start(self, learner):
        self.rollouts.append(learner.num_timesteps)

    def on_step(self, infos):
        self.returns += [info["episode"]["r"] for info in infos if "episode" in info]


def worlds(num_actions=3):
    return token_worlds(num_actions=num_actions, tokens=1, width=3)


def create(num_actions=3, **options):
    defaults = follow.Defaults(n_steps=4, **options)
    return follow.create(*spaces_and_count(worlds(num_actions)), None, defaults, defaults, seed=0)


def test_follow_takes_the_action_of_the_token():
    learner, recorder, venv = create(), Recorder(), worlds()
    learner.learn(venv, 40, recorder)
    assert set(recorder.returns) == {4.0} and learner.num_timesteps >= 40
    assert recorder.rollouts == list(range(0, learner.num_timesteps, 4 * venv.num_envs))


def test_default_action_without_a_token():
    tokens = np.array([[[0, 0, 1]], [[0, 1, 0]], [[0, 0, 0]]], np.float16)
    observation = {"tokens": tokens, "mask": np.array([[1], [1], [0]], np.uint8)}
    assert create(default_action=1).act(observation).actions.tolist() == [2, 1, 1]


def test_resume_continues_without_a_reset():
    learner, venv, recorder = create(), worlds(), Recorder()
    learner.learn(venv, 8, recorder)
    other = create()
    other.load_state_dict(*learner.state_dict())
    assert other.num_timesteps == learner.num_timesteps == 16
    other.learn(venv, 160, recorder)
    assert set(recorder.returns) == {4.0} and len(recorder.returns) == 40  # no episode was cut off


def test_tokens_that_do_not_fit_the_actions_are_refused():
    with pytest.raises(ValueError, match="shape .1, 2.*returns .1, 3.; use encoder=answer_act"):
        create(num_actions=2)
    with pytest.raises(ValueError, match="default_action=3.*0 to 2"):
        create(default_action=3)
