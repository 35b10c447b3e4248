"""AndroidWorld's own code, on the stand-in for the emulator, whose settings adb can change.

AndroidWorld has no package on PyPI, so these tests are skipped where `pr2l sim check android-world` does not find it.
"""

import json
import subprocess
import time
from contextlib import closing

import pytest
from fake_sdk import adb_shell, emulators, write_sdk
from processes import TIMEOUT

from pr2l.environments.android import environment as android
from pr2l.environments.android.slots import Slot
from pr2l.environments.android.tasks import TASKS
from pr2l.environments.base import UserError
from pr2l.environments.isolation.interpreters import interpreter

pytestmark = [pytest.mark.sims, pytest.mark.timeout(900)]

TABLE = """
import json
from android_world import registry, suite_utils
tasks = registry.TaskRegistry().get_registry("android_world")
suite = suite_utils.create_suite(tasks, n_task_combinations=1, seed=0)
limits = {name: suite_utils._allocate_step_budget(task.complexity) for name, (task,) in suite.items()}
print(json.dumps({name: [limits[name], list(task.app_names)] for name, (task,) in suite.items()}))
"""


@pytest.fixture(scope="module")
def python():
    """The interpreter with AndroidWorld."""
    try:
        path = str(interpreter("android-world"))
    except UserError:
        pytest.skip("`pr2l sim install android-world` has not been run")
    if subprocess.run([path, "-c", "import android_world"], capture_output=True).returncode:
        pytest.skip("AndroidWorld itself, from GitHub, is not installed")
    return path


@pytest.fixture
def make(python, tmp_path, monkeypatch):
    """make(task) -> the environment of a task on an emulator of its own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    write_sdk(tmp_path, python)
    options = {"sdk": str(tmp_path), "avd": "pixel", "frame_size": (160, 90), "settle": 0.0, "actions": "text"}

    def make(task, **more):
        return android.make(task, android.Defaults(**options, elements="none", **more))

    yield make
    deadline = time.monotonic() + TIMEOUT
    while emulators() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not emulators()


def test_table_of_tasks_is_that_of_android_world(python):
    done = subprocess.run([python, "-c", TABLE], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = {name: [task.horizon, list(task.apps)] for name, task in TASKS.items() if task.apps}
    assert ours == theirs and len(ours) == 116


def test_task_succeeds_if_the_agent_declares_the_end_of_what_is_done(make):
    with closing(make("SystemWifiTurnOff")) as env:
        _, info = env.reset(seed=0)
        assert info["context"] == {"goal": "Turn wifi off."} and not info["success"]
        assert adb_shell(Slot(0), "settings", "get", "global", "wifi_on") == "1"  # by AndroidWorld's initialize_task
        *result, info = env.step("complete()")
        assert (result[1:], info["success"]) == ([0.0, True, False], False)
        env.reset(seed=1)
        adb_shell(Slot(0), "svc", "wifi", "disable")
        ends = [env.step("tap(0.5, 0.5)")[1:4] for _ in range(10)]
        assert ends == [(0.0, False, False)] * 9 + [(0.0, False, True)]  # done, but not declared
        env.reset(seed=2)
        adb_shell(Slot(0), "svc", "wifi", "disable")
        *result, info = env.step("complete()")
        assert (result[1:], info["success"]) == ([1.0, True, False], True)


def test_seed_chooses_the_parameters(make):
    with closing(make("OpenAppTaskEval")) as env:
        goals = [env.reset(seed=seed)[1]["context"]["goal"] for seed in (0, 1, 2, 0, 1, 2)]
    assert goals[:3] == goals[3:] and 1 < len(set(goals)) <= 3


def test_task_of_two_parts_has_a_score_for_each(make):
    with closing(make("TurnOffWifiAndTurnOnBluetooth")) as env:
        scores = []
        for commands in (
            [],
            [("svc", "wifi", "disable")],
            [("svc", "wifi", "disable"), ("svc", "bluetooth", "enable")],
        ):
            env.reset(seed=0)
            for command in commands:
                adb_shell(Slot(0), *command)
            *result, info = env.step("complete()")
            scores.append((result[1], info["success"]))
    assert scores == [(0.0, False), (0.5, False), (1.0, True)]
