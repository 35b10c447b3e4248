"""Following in the world of tokens whose first one is the right action: perfect from the first step on."""

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from token_world import token_worlds

from pr2l.policies import follow


class Books(BaseCallback):
    """Returns of the episodes, and the steps before each rollout."""

    def _on_training_start(self):
        self.returns, self.rollouts = [], []

    def _on_rollout_start(self):
        self.rollouts.append(self.model.num_timesteps)

    def _on_step(self):
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True


def create(kinds=3, **options):
    venv = token_worlds(kinds=kinds, tokens=1, width=3)
    defaults = follow.Defaults(n_steps=4, **options)
    return follow.create(venv, None, defaults, defaults, seed=0)


def test_it_does_what_the_token_says():
    model, books = create(), Books()
    follow.learn(model, follow.Defaults(n_steps=4), 40, books)
    envs = model.venv.num_envs
    assert set(books.returns) == {4.0} and model.num_timesteps == books.num_timesteps >= 40
    assert books.rollouts == list(range(0, model.num_timesteps, 4 * envs))


def test_without_a_token_it_does_the_other_action():
    tokens = np.array([[[0, 0, 1]], [[0, 1, 0]], [[0, 0, 0]]], np.float16)
    observation = {"tokens": tokens, "mask": np.array([[1], [1], [0]], np.uint8)}
    assert follow.act(create(otherwise=1), observation)[0].tolist() == [2, 1, 1]


def test_it_goes_on_from_its_state():
    model = create()
    follow.learn(model, follow.Defaults(n_steps=4), 8, Books())
    tensors, values = follow.state(model)
    other = create()
    follow.restore(other, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    assert other.num_timesteps == model.num_timesteps
    assert all(np.array_equal(other.observation[key], model.observation[key]) for key in ("tokens", "mask"))


def test_tokens_that_are_no_actions_are_refused():
    with pytest.raises(ValueError, match="a number for each of 2 actions, but is given 1 of 3; use encoder answer_act"):
        create(kinds=2)
    with pytest.raises(ValueError, match="otherwise=3: use 0 to 2"):
        create(otherwise=3)
