"""Anybody's Gymnasium environment, as token observations and as the environment of a config."""

from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.rollout import ContractError, embed_env, external, make_episodes
from pr2l.rollout.workers import Workers


class Pictures(gym.Env):
    """A picture of the step's number, and no more: no context, no success. Episodes last 3 steps."""

    observation_space = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, brightness=1):
        self.brightness = brightness

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def step(self, action):
        self.time += 1
        return self._look(), float(action), self.time == 3, False, {}

    def _look(self):
        return np.full((4, 5, 3), self.brightness * self.time, np.uint8)


class Missions(Pictures):
    """As MiniGrid arranges things: an image, a direction and a text in a Dict."""

    contexts = ({"target": "key"}, {"target": "door"})
    observation_space = spaces.Dict(
        image=Pictures.observation_space, direction=spaces.Box(0, 3, (), np.float64), mission=spaces.Text(20)
    )

    def _look(self):
        return {"image": super()._look(), "direction": np.array(2.0), "mission": "the key"}


class Steps(Pictures):
    """The parts that a VecEnv can stack."""

    observation_space = spaces.Dict(image=Pictures.observation_space, place=spaces.Box(0, 9, (1, 2), np.float64))

    def _look(self):
        return {"image": super()._look(), "place": np.full((1, 2), self.time)}


class Means(Encoder):
    """One token: the frame's mean and the length of the context's target."""

    tokens, width = 1, 2

    def encode(self, frames, contexts, labels=None):
        rows = [[frame.mean(), len(context.get("target", ""))] for frame, context in zip(frames, contexts, strict=True)]
        return Tokens(torch.tensor(rows, dtype=torch.float32)[:, None], torch.ones(len(rows), 1, dtype=torch.bool))


def mission(observation, info):
    return {"target": observation["mission"].removeprefix("the ")}


def test_an_environment_of_pictures_becomes_tokens():
    venv = embed_env(Pictures(), Means())
    assert venv.reset()["tokens"].tolist() == [[[0, 0]]]
    steps = [venv.step(np.ones(1, int)) for _ in range(3)]
    assert [step[0]["tokens"][0, 0, 0] for step in steps] == [1, 2, 0]
    info = steps[-1][3][0]
    assert info["terminal_observation"]["tokens"].tolist() == [[3, 0]]
    assert (info["episode"]["r"], info["episode"]["l"]) == (3, 3)  # of Stable-Baselines3's Monitor


def test_parts_of_a_dict_and_a_context_from_a_function():
    venv = embed_env(Missions(), Means(), frame="image", proprio="direction", context=mission)
    assert venv.observation_space["proprio"] == spaces.Box(0, 3, (1,), np.float32)
    observation = venv.reset()
    assert observation["tokens"].tolist() == [[[0, 3]]] and observation["proprio"].tolist() == [[2]]
    assert venv.contexts == [{"target": "key"}]


@pytest.mark.parametrize("context", [None, {"target": "abc"}, lambda observation, info: {"target": "abc"}])
def test_a_vecenv_gives_what_its_environments_give(context):
    options = {"frame": "image", "proprio": "place", "context": context}
    single, several = embed_env(Steps(), Means(), **options), embed_env(make_vec_env(Steps, 2), Means(), **options)
    one, two = single.reset(), several.reset()
    for _ in range(7):
        for key in ("tokens", "mask", "proprio"):
            assert np.array_equal(np.concatenate([one[key]] * 2), two[key])
        assert several.contexts == single.contexts * 2
        one, _, _, infos = single.step(np.ones(1, int))
        two, _, dones, others = several.step(np.ones(2, int))
        for other in others:
            ours, its = infos[0].get("terminal_observation", {}), other.get("terminal_observation", {})
            assert ours.keys() == its.keys() and all(np.array_equal(ours[key], its[key]) for key in ours)
            assert bool(ours) == dones[0]


@pytest.mark.parametrize("make", [Pictures, lambda: make_vec_env(Pictures, 2)])
def test_plain_ppo_learns_on_it(make):
    model = PPO("MultiInputPolicy", embed_env(make(), Means()), n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    model.learn(16)
    assert model.num_timesteps >= 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frame": "imge"}, "frame='imge' is no part of the observations. Did you mean 'image'"),
        ({"frame": "direction"}, "observation_space\\['frame'\\] is Box\\(0.0, 3.0, \\(\\), float64\\)"),
        ({"proprio": "mission"}, "proprio='mission' must be a Box of numbers"),
        ({"context": {"target": 3}}, "info\\['context'\\] is {'target': 3}"),
    ],
)
def test_what_cannot_be_arranged_is_said(options, text):
    with pytest.raises(UserError, match=text):
        embed_env(Missions(), Means(), **options).reset()


def test_frames_of_another_kind_are_refused_with_the_conversion():
    class Gray(Pictures):
        observation_space = spaces.Box(0, 255, (4, 5), np.uint8)

    for env in (Gray(), make_vec_env(Gray, 2)):
        with pytest.raises(ContractError, match="np.repeat\\(frame\\[..., None\\], 3, axis=2\\)"):
            embed_env(env, Means())


def test_a_class_is_an_environment_module():
    module = external.load("test_external:Missions")
    assert list(module.TASKS) == ["default"] and module.TASKS["default"].contexts == Missions.contexts
    assert external.load("test_external:Pictures").TASKS["default"].contexts is None  # open
    assert external.load("test_external:Pictures") is external.load("test_external:Pictures")
    options = module.Defaults(frame="image", proprio="direction", brightness=5)
    with closing(module.make("default", options)) as env:
        env.reset(seed=0)
        observation, *_, info = env.step(0)
        assert observation["frame"].max() == 5 and observation["proprio"].dtype == np.float32
        assert info["success"] is False and info["context"] == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test_extrenal:Pictures", "there is no module 'test_extrenal'"),
        ("test_external:Picture", "has no class 'Picture'. Did you mean 'Pictures'"),
    ],
)
def test_a_wrong_name_is_said(name, text):
    with pytest.raises(UserError, match=text):
        external.load(name)


def test_wrong_keyword_arguments_are_said():
    module = external.load("test_external:Pictures")
    with pytest.raises(UserError, match="unexpected keyword argument 'birghtness'"):
        module.make("default", module.Defaults(birghtness=1))


def test_what_makes_no_environment_is_refused():
    with pytest.raises(UserError, match="makes a dict; it must make a gymnasium.Env"):
        external.load("builtins:dict").make()


def seed_of(number):
    return number


@pytest.fixture
def registered(monkeypatch):
    """As the registry loads "module:Class"."""
    from pr2l.core import registry

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: external.load(name) if ":" in name else load(kind, name))


def test_the_class_plays_the_same_isolated(registered):
    options = external.Defaults(brightness=3)
    make = "test_external:Pictures", "default", options, "train", False, seed_of
    with closing(make_episodes(*make)) as ours, closing(make_episodes(*make, isolated=True)) as theirs:
        for one, other in [(ours.reset(), theirs.reset()), *((ours.step(1), theirs.step(1)) for _ in range(3))]:
            assert np.array_equal(one[0]["frame"], other[0]["frame"]) and one[1:] == other[1:]
        assert theirs.unwrapped is not theirs and type(theirs.unwrapped).__name__ == "Isolated"


def test_the_class_plays_in_workers():
    with closing(Workers([external.load("test_external:Pictures").make], 1)) as venv:
        assert venv.reset()["frame"].shape == (1, 4, 5, 3)
