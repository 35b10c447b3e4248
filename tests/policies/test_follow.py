"""Following in the world of tokens whose first one is the right action: perfect from the first step on."""

import numpy as np
import pytest
from token_world import created_for, token_worlds

from pr2l.policies import follow
from pr2l.policies.base import Hooks


class Recorder(Hooks):
    """Returns of the episodes, and the steps before each rollout."""

    def __init__(self):
        self.returns, self.rollouts = [], []

    def on_update_start(self, learner):
        self.rollouts.append(learner.num_timesteps)

    def on_step(self, infos):
        self.returns += [info["episode"]["r"] for info in infos if "episode" in info]


def worlds(kinds=3):
    return token_worlds(kinds=kinds, tokens=1, width=3)


def create(kinds=3, **options):
    defaults = follow.Defaults(n_steps=4, **options)
    return follow.create(*created_for(worlds(kinds)), None, defaults, defaults, seed=0)


def test_it_does_what_the_token_says():
    learner, recorder, venv = create(), Recorder(), worlds()
    learner.learn(venv, 40, recorder)
    assert set(recorder.returns) == {4.0} and learner.num_timesteps >= 40
    assert recorder.rollouts == list(range(0, learner.num_timesteps, 4 * venv.num_envs))


def test_without_a_token_it_does_the_other_action():
    tokens = np.array([[[0, 0, 1]], [[0, 1, 0]], [[0, 0, 0]]], np.float16)
    observation = {"tokens": tokens, "mask": np.array([[1], [1], [0]], np.uint8)}
    assert create(default_action=1).act(observation).actions.tolist() == [2, 1, 1]


def test_it_goes_on_from_its_state():
    learner, venv, recorder = create(), worlds(), Recorder()
    learner.learn(venv, 8, recorder)
    other = create()
    other.load_state_dict(*learner.state_dict())
    assert other.num_timesteps == learner.num_timesteps == 16
    other.learn(venv, 160, recorder)
    assert set(recorder.returns) == {4.0} and len(recorder.returns) == 40  # so it went on without a reset


def test_tokens_that_are_no_actions_are_refused():
    with pytest.raises(ValueError, match="a number for each of 2 actions, but is given 1 of 3; use encoder answer_act"):
        create(kinds=2)
    with pytest.raises(ValueError, match="default_action=3: use 0 to 2"):
        create(default_action=3)
