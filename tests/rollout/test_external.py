"""Environments of other packages, with token observations and as the environment of a config."""

from contextlib import closing

import numpy as np
import pytest
import torch
from gymnasium import spaces
from picture_worlds import Arm, Missions, Pictures, Places
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.rollout import ContractError, embed_env, external, make_episodes
from pr2l.rollout.workers import Workers


class Means(Encoder):
    """One token: the mean of the frame and the length of the target in the context."""

    tokens, width = 1, 2

    def encode(self, frames, contexts, labels=None):
        rows = [[frame.mean(), len(context.get("target", ""))] for frame, context in zip(frames, contexts, strict=True)]
        return Tokens(torch.tensor(rows, dtype=torch.float32)[:, None], torch.ones(len(rows), 1, dtype=torch.bool))


def mission(observation, info):
    return {"target": observation["mission"].removeprefix("the ")}


def test_images_become_tokens():
    venv = embed_env(Pictures(), Means())
    assert venv.reset()["tokens"].tolist() == [[[0, 0]]]
    steps = [venv.step(np.ones(1, int)) for _ in range(3)]
    assert [step[0]["tokens"][0, 0, 0] for step in steps] == [1, 2, 0]
    info = steps[-1][3][0]
    assert info["terminal_observation"]["tokens"].tolist() == [[3, 0]]
    assert (info["episode"]["r"], info["episode"]["l"]) == (3, 3)  # from Stable-Baselines3's Monitor


def test_last_tokens_of_an_environment_that_reuses_its_array():
    """Episodes of one step, whose frame is 1 at the start and 2 at the end."""

    class Reusing(Pictures):
        frame = np.zeros((4, 5, 3), np.uint8)

        def step(self, action):
            observation, reward, *_ = super().step(action)
            return observation, reward, True, False, {}

        def _observation(self):
            self.frame[:] = self.time + 1
            return self.frame

    venv = embed_env(Reusing(), Means())
    venv.reset()
    for _ in range(4):
        observation, _, _, [info] = venv.step(np.ones(1, int))
        assert observation["tokens"][0, 0, 0] == 1 and info["terminal_observation"]["tokens"][0, 0] == 2
        assert (info["terminal_frame"] == 2).all()


def test_dict_observations_with_context_function():
    venv = embed_env(Missions(), Means(), frame="image", proprio="direction", context=mission)
    assert venv.observation_space["proprio"] == spaces.Box(0, 3, (1,), np.float32)
    observation = venv.reset()
    assert observation["tokens"].tolist() == [[[0, 3]]] and observation["proprio"].tolist() == [[2]]
    assert venv.contexts == [{"target": "key"}]


@pytest.mark.parametrize("make", [Arm, lambda: make_vec_env(Arm, 2)])
def test_images_of_several_cameras_are_side_by_side_in_the_frame(make):
    venv = embed_env(make(), Means(), frame=["front", "wrist"])
    venv.reset()
    for _ in range(2):
        venv.step(np.ones(venv.num_envs, int))
    assert venv.frames.shape[1:] == (6, 16, 3)
    assert (venv.frames[:, :, :8] == 2).all() and (venv.frames[:, :, 8:] == 20).all()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (["front", "small"], r"of equal size, but they are front uint8 \(6, 8, 3\), small uint8 \(3, 4, 3\)"),
        (["front", "wirst"], "frame='wirst' is not a key of the observations. Did you mean 'wrist'"),
        (None, r"several cameras with frame=\[KEY, KEY\]; it has front, wrist, small"),
    ],
)
def test_wrong_cameras_are_refused(frame, message):
    with pytest.raises(UserError, match=message):
        embed_env(Arm(), Means(), frame=frame)


@pytest.mark.parametrize("context", [None, {"target": "abc"}, lambda observation, info: {"target": "abc"}])
def test_vec_env_equals_its_environments(context):
    options = {"frame": "image", "proprio": "place", "context": context}
    single, several = embed_env(Places(), Means(), **options), embed_env(make_vec_env(Places, 2), Means(), **options)
    observation, observations = single.reset(), several.reset()
    for _ in range(7):
        for key in ("tokens", "mask", "proprio"):
            assert np.array_equal(np.concatenate([observation[key]] * 2), observations[key])
        assert several.contexts == single.contexts * 2
        observation, _, _, [expected_info] = single.step(np.ones(1, int))
        observations, _, dones, infos = several.step(np.ones(2, int))
        expected = expected_info.get("terminal_observation", {})
        assert bool(expected) == dones[0]
        for info in infos:
            terminal = info.get("terminal_observation", {})
            assert terminal.keys() == expected.keys()
            assert all(np.array_equal(terminal[key], expected[key]) for key in expected)


@pytest.mark.parametrize("make", [Pictures, lambda: make_vec_env(Pictures, 2)])
def test_ppo_of_stable_baselines3_learns(make):
    model = PPO("MultiInputPolicy", embed_env(make(), Means()), n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    model.learn(16)
    assert model.num_timesteps >= 16


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"frame": "imge"}, "frame='imge'.*Did you mean 'image'"),
        ({"frame": "direction"}, "'frame'.*Box\\(0.0, 3.0, \\(\\), float64\\)"),
        ({"proprio": "mission"}, "proprio='mission' must be a Box of numbers"),
        ({"context": {"target": 3}}, "info\\['context'\\] is {'target': 3}"),
    ],
)
def test_wrong_arguments_of_embed_env_raise(options, text):
    with pytest.raises(UserError, match=text):
        embed_env(Missions(), Means(), **options).reset()


def test_gray_frames_raise_with_the_conversion():
    class Gray(Pictures):
        observation_space = spaces.Box(0, 255, (4, 5), np.uint8)

    for env in (Gray(), make_vec_env(Gray, 2)):
        with pytest.raises(ContractError, match="np.repeat\\(frame\\[..., None\\], 3, axis=2\\)"):
            embed_env(env, Means())


def test_class_is_loaded_as_environment_module():
    module = external.load("picture_worlds:Missions")
    assert list(module.TASKS) == ["default"] and module.TASKS["default"].contexts == Missions.contexts
    assert external.load("picture_worlds:Pictures").TASKS["default"].contexts is None  # any context
    assert external.load("picture_worlds:Pictures") is external.load("picture_worlds:Pictures")
    options = module.Defaults(frame="image", proprio="direction", brightness=5)
    with closing(module.make("default", options)) as env:
        env.reset(seed=0)
        observation, *_, info = env.step(0)
        assert observation["frame"].max() == 5 and observation["proprio"].dtype == np.float32
        assert info["success"] is False and info["context"] == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("picture_wrolds:Pictures", "no module 'picture_wrolds'"),
        ("picture_worlds:Picture", "no class 'Picture'. Did you mean 'Pictures'"),
        ("picture_worlds.py:Pictures", "no module 'picture_worlds.py'.* such as my_module:MyEnv"),
        ("./picture_worlds.py:Pictures", "is not the name of a module. Write module:Class, such as my_module:MyEnv"),
        ("rollout/picture_worlds:Pictures", "'rollout/picture_worlds' is not the name of a module"),
        (":Pictures", "'' is not the name of a module"),
        ("picture_worlds:", "no class ''"),
    ],
)
def test_wrong_module_or_class_raises(name, text):
    with pytest.raises(UserError, match=text):
        external.load(name)


def test_wrong_option_raises():
    module = external.load("picture_worlds:Pictures")
    with pytest.raises(UserError, match="'birghtness'"):
        module.make("default", module.Defaults(birghtness=1))


def test_class_that_is_not_an_environment_raises():
    with pytest.raises(UserError, match="a dict.*gymnasium.Env"):
        external.load("builtins:dict").make()


def seed_of(number):
    return number


@pytest.fixture
def registered(monkeypatch):
    """Let the registry load "module:Class" names."""
    from pr2l.core import registry

    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: external.load(name) if ":" in name else load(kind, name))


def test_isolated_class_equals_class_in_this_process(registered):
    options = external.Defaults(brightness=3)
    make = "picture_worlds:Pictures", "default", options, "train", False, seed_of
    with closing(make_episodes(*make)) as local, closing(make_episodes(*make, isolated=True)) as isolated:
        results = [(local.reset(), isolated.reset()), *((local.step(1), isolated.step(1)) for _ in range(3))]
        for expected, result in results:
            assert np.array_equal(result[0]["frame"], expected[0]["frame"]) and result[1:] == expected[1:]
        assert type(isolated.unwrapped).__name__ == "Isolated"


def test_class_runs_in_workers():
    with closing(Workers([external.load("picture_worlds:Pictures").make], 1)) as venv:
        assert venv.reset()["frame"].shape == (1, 4, 5, 3)
