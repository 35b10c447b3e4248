"""Gymnasium ids of all tasks, registered by `import pr2l` without importing an environment."""

import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import pr2l
from pr2l.core import registry
from pr2l.rollout import gymnasium_ids


@pytest.fixture(autouse=True)
def registered():
    """Remove the ids that a test has registered."""
    before = dict(gym.registry)
    yield
    for env_id in gym.registry.keys() - before:
        del gym.registry[env_id]


def ids_of(environment):
    return [env_id for env_id in gym.registry if env_id.startswith(f"{pr2l.__name__}/{environment}-")]


@pytest.mark.parametrize("environment", registry.names("environments"))
def test_tasks_have_gymnasium_ids(environment):
    tasks = registry.load("environments", environment).TASKS
    assert ids_of(environment) == [f"pr2l/{environment}-{task}-v0" for task in tasks]
    for env_id, task in zip(ids_of(environment), tasks, strict=True):
        spec = pickle.loads(pickle.dumps(gym.spec(env_id)))
        assert (spec.kwargs["environment"], spec.kwargs["task"]) == (environment, task)


def test_ids_are_in_the_registry_of_gymnasium(capsys):
    gym.pprint_registry()
    assert "pr2l/doom-fetch-v0" in capsys.readouterr().out
    assert type(gym.registry) is dict and gym.registry is gym.envs.registration.registry


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium warns about environments that it has not made
@pytest.mark.parametrize(
    "task",  # tests/environments/test_doom.py checks all tasks without rendering
    [
        task if task == "fetch" else pytest.param(task, marks=pytest.mark.slow)
        for task in registry.load("environments", "doom").TASKS
    ],
)
def test_doom_passes_gymnasium_checker(task):
    env = gym.make(f"pr2l/doom-{task}-v0", render_mode="rgb_array", disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()


def test_gym_make_takes_options_of_the_environment():
    with gym.make("pr2l/doom-fetch-v0", split="evaluation", labels=True, rooms=4, frame_skip=8) as env:
        assert env.unwrapped.options.frame_skip == 8
        assert "labels" in env.reset(seed=0)[1]
        assert env.render().dtype == np.uint8
    with pytest.raises(ValueError, match="'human'"):
        gym.make("pr2l/doom-fetch-v0", render_mode="human")


def test_plugin_has_gymnasium_ids(write_plugin):
    write_plugin("environments", "toys", "from toy_world import Defaults, kinds, make\nTASKS = {'colours': None}\n")
    gymnasium_ids.register()
    gymnasium_ids.register()  # without a warning that an id exists already
    with gym.make("pr2l/toys-colours-v0") as env:
        assert env.reset(seed=0)[0]["frame"].shape == (6, 8, 3)


@pytest.mark.parametrize("source", ["TASKS = dict(walk=None)", "def make(", "import a_package_that_is_not_there"])
def test_plugin_without_readable_tasks_has_no_ids(write_plugin, source):
    write_plugin("environments", "toys", source)
    gymnasium_ids.register()
    assert ids_of("toys") == [] and ids_of("doom")


def test_wrong_ids_raise_the_errors_of_gymnasium():
    with pytest.raises(gym.error.NameNotFound, match="Did you mean: `doom-fetch`"):
        gym.make("pr2l/doom-fetsh-v0")
    with pytest.raises(gym.error.UnregisteredEnv):
        gym.make("pr2l/nowhere-v0")
    with pytest.warns(UserWarning, match="latest versioned"):
        gym.make("pr2l/doom-fetch").close()


@pytest.mark.parametrize("first", ["pr2l, gymnasium", "gymnasium, pr2l"])
def test_import_registers_ids_without_importing_simulators(first):
    program = (
        f"from gymnasium import registry; import {first}, sys;"
        "assert not {'vizdoom', 'torch', 'pydantic', 'pr2l.environments.doom'} & sys.modules.keys();"
        "assert registry is gymnasium.registry and 'pr2l/doom-fetch-v0' in registry"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
