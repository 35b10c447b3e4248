"""NaN and infinity in labels and in VecEnvs of other libraries are found where they enter."""

import gymnasium as gym
import numpy as np
import pytest
from broken_world import Broken
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.rollout.contract import BadValueError, ContractCheck
from pr2l.rollout.external import Arrangement
from pr2l.rollout.vec_embed import VecArranged

NAN, INF = float("nan"), float("inf")


class Labelled(gym.Wrapper):
    """Adds a label at a distance that tests set."""

    distance: object = 2.0

    def reset(self, **arguments):
        observation, info = self.env.reset(**arguments)
        return observation, {**info, "labels": []}

    def step(self, action):
        *result, info = self.env.step(action)
        return *result, {**info, "labels": [{"name": "door", "box": (0, 0, 1, 1), "distance": self.distance}]}


@pytest.mark.parametrize("distance", [NAN, INF, np.float32(NAN)])
def test_distance_of_a_label_must_be_finite(distance):
    inner = Labelled(Broken())
    env = ContractCheck(inner, "toys/broken", labels=True)
    env.reset(seed=5)
    assert env.step(0)[-1]["labels"][0]["distance"] == 2.0
    inner.distance = distance
    with pytest.raises(BadValueError, match="step 2: the distance of the label 'door' is (nan|inf); it must be finite"):
        env.step(0)


def test_label_that_is_not_finite_cuts_the_episode_with_the_option():
    inner = Labelled(Broken())
    env = ContractCheck(inner, "toys/broken", labels=True, on_bad_value="truncate")
    first, _ = env.reset(seed=5)
    inner.distance = NAN
    with pytest.warns(UserWarning, match="the episode is cut"):
        observation, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["labels"]) == (0.0, False, True, [])
    assert np.array_equal(observation["frame"], first["frame"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("proprio NaN", r"proprio is float32 \[2, 2\] with 1 NaN and 0 infinite values"),
        ("proprio inf", r"proprio is float32 \[2, 2\] with 0 NaN and 1 infinite"),
        ("NaN reward", r"reward is float32 \[2\] with 1 NaN"),
    ],
)
def test_vec_env_of_another_library_is_checked(wrong, message):
    envs = [Broken(), Broken()]
    venv = DummyVecEnv([lambda env=env: env for env in envs])
    arranged = VecArranged(venv, Arrangement(venv.observation_space, None, None, None))
    arranged.reset()
    arranged.step(np.zeros(2, int))
    envs[1].break_at(wrong, 2)
    with pytest.raises(BadValueError, match=f"DummyVecEnv: {message}.*; it must be finite"):
        arranged.step(np.zeros(2, int))
