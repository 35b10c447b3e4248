"""What the command line prints for each type of exception."""

import errno
import os
import sys
from pathlib import Path

import pytest

from pr2l.cli import entry
from pr2l.core.errors import OURS, UserError, code_of, explain_os_error, is_user_error, owner_of
from pr2l.environments.base import UserError as EnvironmentsError
from pr2l.policies.base import UserError as PoliciesError

BROKEN_ENVIRONMENT = """
import gymnasium as gym
import numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (8, 8, 3), np.uint8))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"frame": np.zeros((8, 8, 3), np.uint8)}, {}

    def step(self, action):
        raise ValueError("too many values to unpack")
"""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command(error) -> (exit code or the exception that Python shows, stderr) of a command that raises `error`."""

    def run(error):
        def raise_error():
            raise error

        monkeypatch.setattr(entry, "app", raise_error)
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        try:
            entry.main()
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        except Exception as crash:
            sys.excepthook(type(crash), crash, crash.__traceback__)
            return crash, capsys.readouterr().err

    return run


@pytest.mark.parametrize("kind", [UserError, EnvironmentsError, PoliciesError])
def test_user_error_is_printed_unchanged(command, kind):
    assert command(kind("the file runs[/x] [bold]is[/bold] wrong")) == (
        2,
        "error: the file runs[/x] [bold]is[/bold] wrong\n",
    )


def test_any_other_exception_is_a_bug_of_pr2l_with_a_traceback(command):
    error = ValueError("a bug")
    code, err = command(error)
    assert code is error and "Traceback" in err and err.index("ValueError: a bug") < err.index("This is a bug of pr2l")


def test_traceback_names_the_plugin_that_raised_the_exception(command):
    error = KeyError("red")
    with pytest.raises(KeyError), code_of(OURS), code_of("the environment my_module:MyEnv"):
        raise error
    _, err = command(error)
    assert "KeyError: 'red'" in err
    assert "The code of the environment my_module:MyEnv raised this exception, not pr2l" in err
    assert "bug of pr2l" not in err


def test_user_error_raised_by_a_plugin_is_a_user_error():
    error = EnvironmentsError("no such map")
    with pytest.raises(EnvironmentsError), code_of("the environment my_module:MyEnv"):
        raise error
    assert is_user_error(error) and owner_of(error) is None


def error_of(action, *arguments):
    """Return the OSError that the system raises."""
    with pytest.raises(OSError) as error:
        action(*arguments)
    return error.value


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_disk_names_the_free_space_and_the_next_step(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full:
        code, err = command(error_of(full.write, b"x"))
    assert code == 2 and err.startswith("error: No space left on device (") and "Traceback" not in err
    assert f"GB are free in {tmp_path})" in err and "Free some space or name another folder" in err


@pytest.fixture
def read_only(tmp_path):
    """Return a folder in which this process may not make files; root may make files everywhere but in /sys."""
    if os.geteuid():
        tmp_path.chmod(0o500)
        yield tmp_path
        tmp_path.chmod(0o700)
    elif os.path.isdir("/sys/kernel"):
        yield Path("/sys")
    else:
        pytest.skip("root may write everywhere on this system")


def test_missing_permission_names_the_path_and_the_next_step(command, read_only):
    path = read_only / "runs[bold]" / "new"
    error = error_of(path.parent.mkdir)
    code, err = command(error)
    assert code == 2 and err.startswith(f"error: {path.parent}: {error.strerror} (") and "Traceback" not in err
    assert f"GB are free in {read_only})" in err
    assert "Name another folder, or change its permissions" in err


def test_run_in_a_read_only_folder_ends_with_a_message(read_only, monkeypatch):
    from pr2l.core.config import load_config
    from pr2l.training.runs import Run

    monkeypatch.chdir(read_only)
    with pytest.raises(OSError) as error:
        Run.create(load_config("smoke"), Path("runs"))
    assert explain_os_error(error.value).startswith(f"runs: {error.value.strerror} (")


def test_file_in_place_of_a_folder_is_named(command, tmp_path):
    file = tmp_path / "runs[bold]"
    file.touch()
    for path in (file, file / "new"):
        expected = f"error: {path}: {file} is a file, and a folder is needed. Name another folder, and run the command"
        code, err = command(error_of(path.mkdir))
        assert code == 2 and err.startswith(expected)
    code, err = command(error_of((tmp_path / ("x" * 300)).mkdir))
    assert code == 2 and "File name too long. Name another folder" in err


def test_folder_in_place_of_a_file_is_named(command, tmp_path):
    code, err = command(error_of(tmp_path.read_text))
    assert (code, err) == (
        2,
        f"error: {tmp_path}: it is a folder, and a file is needed. Name another file, or move the folder away\n",
    )


def test_progress_bars_of_pretrain_show_names_as_they_are(tmp_path, capsys):
    from pr2l.core.console import Console
    from pr2l.data.labelled_frames import Source
    from pr2l.pretraining import pretrain

    source = Source(environment="nowhere", tasks=("[/x]",), frames=2)
    with pytest.raises(UserError, match="'nowhere' is not among"), pretrain._progress(Console()) as bars:
        pretrain._frames("play", [source], tmp_path, bars)
    assert "play: [/x]" in capsys.readouterr().out


def test_existing_folder_is_not_a_user_error(command, tmp_path):
    error = error_of(tmp_path.mkdir)
    code, err = command(error)
    assert code is error and "This is a bug of pr2l" in err


def test_other_os_errors_and_those_of_an_environment_keep_their_traceback(command):
    assert explain_os_error(OSError(errno.EBADF, "Bad file descriptor")) == ""
    error = PermissionError(errno.EACCES, "Permission denied", "/root/map")
    with pytest.raises(PermissionError), code_of("the environment my_module:MyEnv"):
        raise error
    assert command(error)[0] is error


@pytest.mark.parametrize("workers", [0, 1])
def test_value_error_of_an_environment_is_a_bug_of_the_environment(workers, tmp_path, monkeypatch):
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
