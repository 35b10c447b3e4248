"""The environment contract is checked in this process, in workers and for isolated environments."""

from contextlib import closing
from functools import partial
from pathlib import Path

import broken_world
import cv2
import gymnasium as gym
import numpy as np
import pytest
from broken_world import BAD_VALUES, WRONG, WRONG_RESETS, Broken, broken_episodes
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.core.errors import UserError
from pr2l.environments.isolation.isolated import Isolated
from pr2l.rollout.contract import ContractCheck, ContractError, check_spaces
from pr2l.rollout.episodes import SeededEpisodes, make_episodes
from pr2l.rollout.workers import Workers

SPACE = spaces.Dict(frame=spaces.Box(0, 255, (6, 8, 3), np.uint8), proprio=spaces.Box(-1, 1, (2,), np.float32))


def seeds(number):
    return 70 + number


def episodes(**options):
    return SeededEpisodes(Broken(), seeds, "toys/broken", **options)


class InProcess:
    def __init__(self):
        self.env = broken_episodes()
        self.break_at, self.reset, self.step = self.env.unwrapped.break_at, self.env.reset, lambda: self.env.step(0)

    def close(self):
        self.env.close()


class InWorkers:
    def __init__(self):
        self.venv = Workers([broken_episodes], 1)
        self.reset, self.step = self.venv.reset, lambda: self.venv.step(np.zeros(1, int))

    def break_at(self, *arguments):
        self.venv.env_method("break_at", *arguments)

    def close(self):
        self.venv.close()


class InIsolation:
    def __init__(self):
        arguments = {"split": "train", "labels": False, "name": "toys", "spaces": (SPACE, spaces.Discrete(3))}
        env = Isolated(str(Path(broken_world.__file__)), "broken", {}, **arguments)
        self.env = SeededEpisodes(env, lambda number: 7, "toys/broken")
        self.env.reset()
        self.break_at = partial(self.env.unwrapped.call, "break_at")
        self.reset, self.step = self.env.reset, lambda: self.env.step(0)

    def close(self):
        self.env.close()


@pytest.fixture(scope="module", params=[InProcess, InWorkers, InIsolation], ids=lambda cls: cls.__name__)
def world(request):
    with closing(request.param()) as world:
        yield world


@pytest.mark.parametrize("wrong", WRONG)
def test_contract_violation_of_a_step_raises(world, wrong):
    world.break_at("", 0)
    world.reset()
    world.break_at(wrong, 2)
    world.step()
    with pytest.raises(ContractError) as error:
        world.step()
    assert str(error.value).startswith("toys/broken, episode seed 7, step 2: ")
    assert WRONG[wrong][1] in str(error.value) and "it must be " in str(error.value)


@pytest.mark.parametrize("wrong", WRONG_RESETS)
def test_contract_violation_of_a_reset_raises(world, wrong):
    world.break_at(wrong, 0)
    with pytest.raises(ContractError) as error:
        world.reset()
    assert str(error.value).startswith("toys/broken, episode seed 7, reset: ")
    assert WRONG_RESETS[wrong][1] in str(error.value)


def test_error_of_the_environment_is_not_changed():
    env = episodes()
    env.reset()
    env.unwrapped.break_at("own error", 1)
    with pytest.raises(ZeroDivisionError, match="^a mistake in the simulator's own code$"):
        env.step(0)


@pytest.mark.parametrize("wrong", BAD_VALUES)
def test_bad_value_truncates_and_repeats_the_episode_with_the_option(wrong):
    env = episodes(on_bad_value="truncate")
    first, _ = env.reset()
    env.unwrapped.break_at(wrong, 1)
    with pytest.warns(UserWarning, match="the episode is cut: toys/broken, episode seed 70, step 1: "):
        observation, reward, terminated, truncated, info = env.step(0)
    assert all(np.array_equal(observation[key], first[key]) for key in first)
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert info["episode"]["again"] and env.restarts == 1
    env.unwrapped.break_at("", 0)
    env.reset()
    *_, info = [env.step(0) for _ in range(6)][-1]
    assert (info["episode"]["number"], info["episode"]["r"], "cut" in info["episode"]) == (0, 6.0, False)


FRAMES = [wrong for wrong in WRONG if "frame" in wrong and "no " not in wrong] + ["channels first", "negative pixels"]


@pytest.mark.parametrize("wrong", [*FRAMES, "another shape"])
def test_conversion_in_the_error_message_works(wrong):
    class Converted(Broken):
        code = "frame"

        def step(self, action):
            observation, *rest = super().step(action)
            frame = eval(self.code, {"np": np, "cv2": cv2}, {"frame": observation["frame"]})
            return ({**observation, "frame": frame}, *rest)

    env = ContractCheck(Converted())
    env.reset()
    env.unwrapped.break_at(wrong, 1)
    with pytest.raises(ContractError, match="Convert it in the environment: ") as error:
        env.step(0)
    env.unwrapped.code = str(error.value).rpartition("environment: ")[2]
    env.reset()
    observation, *_ = env.step(0)
    assert observation["frame"].dtype == np.uint8 and observation["frame"].shape == (6, 8, 3)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([(6, 8), (6, 8, 1), (6, 8, 4), (3, 6, 8), (1, 6, 8), (9, 7, 3), (4, 9, 7), (5,), (2, 6, 8, 3)]),
    st.sampled_from([np.uint8, np.int64, np.float32, np.float64, bool, np.int8, object]),
)
def test_frames_outside_the_space_raise(shape, dtype):
    class Shaped(Broken):
        def step(self, action):
            observation, *rest = super().step(action)
            return ({**observation, "frame": np.ones(shape, dtype)}, *rest)

    env = ContractCheck(Shaped())
    env.reset()
    with pytest.raises(ContractError, match="frame is "):
        env.step(0)


def env_with(**parts):
    env = Broken()
    env.observation_space = spaces.Dict({**SPACE.spaces, **parts})
    return env


def env_with_actions(space):
    env = Broken()
    env.action_space = space
    return env


def env_without_frame():
    env = Broken()
    env.observation_space = spaces.Box(0, 255, (6, 8, 3), np.uint8)
    return env


@pytest.mark.parametrize(
    ("env", "text"),
    [
        (env_with(frame=spaces.Box(0, 1, (6, 8, 3), np.float32)), "(frame.clip(0, 1) * 255).round().astype(np.uint8)"),
        (env_with(frame=spaces.Box(0, 255, (3, 6, 8), np.uint8)), "frame.transpose(1, 2, 0)"),
        (env_with(frame=spaces.Discrete(3)), "must be Box(0, 255, (H, W, 3), np.uint8)"),
        (env_with(proprio=spaces.Box(-1, 1, (2,), np.float64)), "must be Box(..., (P,), np.float32)"),
        (env_without_frame(), "must be Dict(frame=Box"),
        (env_with_actions(spaces.Discrete(3, start=1)), "has start=1,"),
        (env_with_actions(spaces.Dict(move=spaces.MultiDiscrete([2, 2], start=[0, 1]))), "has start=[0, 1]"),
    ],
)
def test_spaces_that_violate_the_contract_raise(env, text):
    with pytest.raises(ContractError) as error:
        check_spaces(env, "name")
    assert str(error.value).startswith("name: ") and text in str(error.value)


@pytest.mark.parametrize("isolated", [False, True])
def test_make_episodes_checks_the_spaces(write_plugin, isolated):
    source = (
        "from toy_world import *\n"
        "import gymnasium\n"
        "def make(*arguments, **options):\n"
        "    env = Colours(Defaults(), 'train', False)\n"
        "    env.action_space = gymnasium.spaces.Discrete(3, start=1)\n"
        "    return env\n"
    )
    write_plugin("environments", "shifted", source)
    with pytest.raises(UserError, match="shifted/colours.*has start=1"):
        make_episodes("shifted", "colours", None, "train", False, seeds, isolated)


def test_missing_slots_of_the_prompt_and_missing_labels_raise():
    env = episodes(slots=["target"])
    with pytest.raises(ContractError, match="info\\['context'\\] has nothing; .* a string for 'target'"):
        env.reset()
    with pytest.raises(ContractError, match="info\\['labels'\\] is missing"):
        episodes(labels=True).reset()


def test_info_without_a_context_has_an_empty_one():
    class Plain(Broken):
        def reset(self, **arguments):
            return super().reset(**arguments)[0], {}

        def step(self, action):
            return (*super().step(action)[:4], {"success": False})

    env = SeededEpisodes(Plain(), seeds)
    assert env.reset()[1]["context"] == {}
    steps = [env.step(0)[-1] for _ in range(6)]
    assert [info["context"] for info in steps] == [{}] * 6 and steps[-1]["episode"]["context"] == {}


class Reusing(Broken):
    """Environment that returns the same frame array and the same info at every step."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        self.frame, self.info = getattr(self, "frame", np.zeros((6, 8, 3), np.uint8)), getattr(self, "info", {})
        self.frame[:] = 0
        self.info.update(context={"target": str(seed)}, success=False, measures={"steps": np.float32(0)})
        return {"frame": self.frame, "proprio": np.zeros(2, np.float32)}, self.info

    def step(self, action):
        self.steps += 1
        self.frame += 1
        self.info["measures"]["steps"] += np.float32(1)
        observation = {"frame": self.frame, "proprio": np.zeros(2, np.float32)}
        return observation, np.float32(1), self.steps == 3, False, self.info


def test_environment_may_reuse_arrays_and_infos():
    env = SeededEpisodes(Reusing(), seeds)
    results = []
    for _ in range(2):
        results.append(env.reset())
        results += [(step[0], step[-1]) for step in (env.step(0) for _ in range(3))]
    assert [observation["frame"][0, 0, 0] for observation, _ in results] == [0, 1, 2, 3] * 2
    assert ["episode" in info for _, info in results] == [False, False, False, True] * 2
    assert [info["context"]["target"] for _, info in results] == ["70"] * 4 + ["71"] * 4
    episode = results[3][1]["episode"]
    assert episode["measures"] == {"steps": 3.0} and type(episode["measures"]["steps"]) is float
    assert type(episode["r"]) is float and type(episode["success"]) is bool


def test_contract_check_is_a_gymnasium_environment():
    env = ContractCheck(Broken())
    assert isinstance(env, gym.Env) and env.observation_space == SPACE and env.unwrapped.action_space.n == 3


class Drawing(Broken):
    def draw_action(self, frame, action):
        frame[:] = 9
        return self.drawn(frame)


def test_drawn_action_has_the_shape_of_the_frame():
    env = Drawing()
    checked, frame = ContractCheck(env), np.zeros((6, 8, 3), np.uint8)
    env.drawn = lambda frame: frame
    assert (checked.draw_action(frame, 0) == 9).all() and not frame.any()
    for drawn in (lambda frame: frame[1:], lambda frame: frame / 255, lambda frame: None):
        env.drawn = drawn
        with pytest.raises(ContractError, match=r"draw_action returned .* must be uint8 \[6, 8, 3\], as the frame"):
            checked.draw_action(frame, 0)


def test_without_draw_action_the_frame_is_unchanged():
    frame = np.zeros((6, 8, 3), np.uint8)
    assert episodes().draw_action(frame, 2) is frame
    with pytest.raises(UserError, match="the action is 7"):
        episodes().draw_action(frame, 7)
