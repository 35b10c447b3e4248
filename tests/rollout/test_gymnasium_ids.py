"""Every task of every environment has a Gymnasium id, and costs nothing until it is asked for."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import pr2l
from pr2l.core import registry

IDS = [
    (environment, task)
    for environment in registry.names("environments")
    for task in registry.load("environments", environment).TASKS
]


@pytest.mark.parametrize(("environment", "task"), IDS)
def test_every_task_has_an_id(environment, task):
    spec = gym.spec(f"{pr2l.__name__}/{environment}-{task}-v0")
    assert (spec.kwargs["environment"], spec.kwargs["task"]) == (environment, task)
    assert spec.id in gym.registry


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Gymnasium says of any environment that it did not make
@pytest.mark.parametrize("task", registry.load("environments", "doom").TASKS)
def test_doom_passes_gymnasiums_checker(task):
    env = gym.make(f"pr2l/doom-{task}-v0", render_mode="rgb_array", disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()


def test_an_id_takes_the_environments_options():
    with gym.make("pr2l/doom-fetch-v0", split="evaluation", labels=True, rooms=4, frame_skip=8) as env:
        assert env.unwrapped.options.frame_skip == 8
        assert "labels" in env.reset(seed=0)[1]
        assert env.render().dtype == np.uint8
    with pytest.raises(ValueError, match="'human' is no render mode of doom"):
        gym.make("pr2l/doom-fetch-v0", render_mode="human")


def test_a_plug_in_from_outside_has_ids_too(write_plugin):
    write_plugin("environments", "toys", "from toy_world import *")
    with gym.make("pr2l/toys-colours-v0") as env:
        assert env.reset(seed=0)[0]["frame"].shape == (6, 8, 3)


def test_a_wrong_task_and_a_missing_version_are_met_as_gymnasium_meets_them():
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `doom-fetch`"):
        gym.make("pr2l/doom-fetsh-v0")
    with pytest.raises(gym.error.UnregisteredEnv):
        gym.make("pr2l/nowhere-v0")
    with pytest.warns(UserWarning, match="latest versioned"):
        gym.make("pr2l/doom-fetch").close()


@pytest.mark.parametrize("first", ["pr2l, gymnasium", "gymnasium, pr2l"])
def test_importing_pr2l_registers_without_importing_a_simulator(first):
    program = (
        f"import {first}, sys; assert not {{'vizdoom', 'torch', 'pr2l.environments.doom'}} & sys.modules.keys();"
        "gymnasium.make('CartPole-v1'); assert 'vizdoom' not in sys.modules;"
        "from gymnasium import registry; registry['pr2l/doom-fetch-v0' if registry.get('pr2l/doom-fetch-v0') else '']"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
