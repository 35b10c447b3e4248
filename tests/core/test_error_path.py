"""What the command line prints for each type of exception."""

import errno
import os
import sys

import pytest

from pr2l import cli
from pr2l.core.errors import OURS, UserError, code_of, explain_os_error, is_user_error, owner_of
from pr2l.environments.base import UserError as EnvironmentsError
from pr2l.policies.base import UserError as PoliciesError

BROKEN_ENVIRONMENT = '''
import gymnasium as gym
import numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (8, 8, 3), np.uint8))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"frame": np.zeros((8, 8, 3), np.uint8)}, {}

    def step(self, action):
        raise ValueError("too many values to unpack")
'''


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(error) -> (exit code or the exception that Python shows, stderr) of a command that raises `error`."""

    def run(error):
        def raise_error():
            raise error

        monkeypatch.setattr(cli, "app", raise_error)
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        except Exception as crash:
            sys.excepthook(type(crash), crash, crash.__traceback__)
            return crash, capsys.readouterr().err

    return run


@pytest.mark.parametrize("kind", [UserError, EnvironmentsError, PoliciesError])
def test_a_mistake_of_the_user_is_printed_as_it_is(command, kind):
    assert command(kind("the file runs[/x] [bold]is[/bold] wrong")) == (
        2,
        "error: the file runs[/x] [bold]is[/bold] wrong\n",
    )


def test_any_other_exception_is_a_bug_of_pr2l_with_a_traceback(command):
    error = ValueError("a bug")
    code, err = command(error)
    assert code is error and "Traceback" in err and err.index("ValueError: a bug") < err.index("This is a bug of pr2l")


def test_a_crash_in_code_of_others_says_whose_it_is(command):
    error = KeyError("red")
    with pytest.raises(KeyError), code_of(OURS), code_of("the environment my_module:MyEnv"):
        raise error
    _, err = command(error)
    assert "KeyError: 'red'" in err and "raised in the code of the environment my_module:MyEnv, not in pr2l" in err
    assert "bug of pr2l" not in err


def test_a_mistake_of_the_user_in_code_of_others_stays_one():
    error = EnvironmentsError("no such map")
    with pytest.raises(EnvironmentsError), code_of("the environment my_module:MyEnv"):
        raise error
    assert is_user_error(error) and owner_of(error) is None


@pytest.mark.parametrize(
    ("number", "next_step"),
    [
        (errno.ENOSPC, "Free some space or name another folder"),
        (errno.EDQUOT, "Free some space or name another folder"),
        (errno.EACCES, "Name another folder, or change its permissions"),
        (errno.EROFS, "Name another folder, or change its permissions"),
    ],
)
def test_a_full_disk_and_a_missing_permission_name_path_and_next_step(command, tmp_path, number, next_step):
    path = tmp_path / "runs[/x]" / "new" / "config.yaml"
    code, err = command(OSError(number, os.strerror(number), str(path)))
    assert code == 2 and next_step in err and "Traceback" not in err
    assert err.startswith(f"error: {path}: {os.strerror(number)} (") and f"GB are free in {tmp_path})" in err


def test_other_os_errors_and_those_of_an_environment_keep_their_traceback(command):
    assert explain_os_error(OSError(errno.EBADF, "Bad file descriptor")) == ""
    error = PermissionError(errno.EACCES, "Permission denied", "/root/map")
    with pytest.raises(PermissionError), code_of("the environment my_module:MyEnv"):
        raise error
    assert command(error)[0] is error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_value_error_of_an_environment_is_a_crash_of_that_environment(workers, tmp_path, monkeypatch):
    from pr2l.core.config import load_config
    from pr2l.rollout import build

    (tmp_path / "crashing_world.py").write_text(BROKEN_ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    words = ["environment=crashing_world:Broken", "task=default", "encoder=pixels", "network=mlp", "prompt=null"]
    config = load_config("smoke", [*words, "environment_options={}", "encoder_options={}", "network_options={}"])
    frames = build.environments(config.model_copy(update={"workers": workers, "num_envs": 1}), "train")
    try:
        frames.reset()
        with pytest.raises(ValueError, match="too many values") as crash:
            frames.step([0])
    finally:
        frames.close()
    assert owner_of(crash.value) == "the environment crashing_world.Broken" and not is_user_error(crash.value)
