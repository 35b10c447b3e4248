"""Isolated environments equal those in this process, and failures of their workers only end an episode."""

import ast
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from processes import TIMEOUT

from pr2l.environments.base import UserError
from pr2l.environments.doom import environment as doom
from pr2l.environments.isolation import isolated, wire, worker
from pr2l.environments.isolation.interpreters import interpreter
from pr2l.environments.isolation.isolated import Isolated, Timeouts

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PATIENT = Timeouts(step=TIMEOUT, close=TIMEOUT)
HANGING = Timeouts(step=3)  # only for a step that hangs; on a machine with other load, other steps can take as long


@pytest.fixture
def world():
    """world(task, labels=..., **options, and arguments of Isolated) -> a new environment of tests/remote_world.py."""
    envs = []

    def world(task="count", *, labels=False, **options):
        arguments = {"name": "far", "timeouts": PATIENT, "split": "train", "labels": labels}
        names = ("python", "env", "timeouts", "spaces", "log")
        arguments |= {name: options.pop(name) for name in names if name in options}
        envs.append(Isolated(str(TESTS / "remote_world.py"), task, options, **arguments))
        return envs[-1]

    yield world
    for env in envs:
        env.close()


@pytest.fixture(scope="module")
def shared_world():
    """An environment with labels for tests in which the worker does not fail."""
    remote = str(TESTS / "remote_world.py")
    env = Isolated(remote, "count", {}, split="train", labels=True, name="far", timeouts=PATIENT)
    yield env
    env.close()


def alive(pid):
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result


def wait_until_ended(pids):
    return wait_until(lambda: not any(map(alive, pids)))


def comparable(value):
    """Replace the arrays in the result of a step or reset by tuples."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items()}
    return type(value)(map(comparable, value)) if isinstance(value, list | tuple) else (type(value), value)


def test_observations_and_infos_of_the_worker_arrive(shared_world):
    env = shared_world
    box = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert env.observation_space == spaces.Dict(frame=box, proprio=spaces.Box(0, 1, (2,), np.float32))
    assert (env.action_space, env.metadata["render_fps"]) == (spaces.Discrete(4), 7)
    observation, info = env.reset(seed=40)
    expected = {
        "context": {"target": "one"},
        "success": False,
        "labels": [{"name": "one", "box": (0, 0, 1, 1), "distance": 0.1}],
        "segmentation": np.arange(64, dtype=np.uint8).reshape(8, 8),
    }
    assert comparable(info) == comparable(expected)
    for step in range(1, 6):
        observation, reward, terminated, truncated, info = env.step(np.int64(2))
        assert (observation["frame"] == 40 + step).all() and observation["frame"].dtype == np.uint8
        assert comparable(observation["proprio"]) == comparable(np.array([step / 10, 1], np.float32))
        assert (reward, terminated, truncated, info["success"]) == (2 + step / 10, step == 5, False, step == 5)
    assert (env.render() == 45).all()
    assert env.restarts == 0


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 3]),
        spaces.Text(9, min_length=0, charset="xé ("),
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(np.array([0, -5]), np.array([1, 5]), dtype=np.int64),
    ],
    ids=str,
)
def test_space_equals_its_description(space):
    description = json.loads(json.dumps(worker.plain(space), default=lambda array: array.tolist()))
    frame = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    message = {"observation": {"frame": worker.plain(frame)}, "action": description}
    assert isolated.gymnasium_spaces(message) == (spaces.Dict(frame=frame), space)


def test_multidiscrete_actions_reach_the_worker(world):
    env = world(kinds=3)
    assert env.action_space == spaces.MultiDiscrete([4, 4, 4])
    env.reset(seed=0)
    assert env.step(np.array([1, 2, 3]))[1] == 6.1


def test_steps_of_two_worlds_run_at_once(world, tmp_path):
    """Each step waits for a file that the other one's step makes."""
    envs = [world(meet=[str(tmp_path / name) for name in order]) for order in ("ab", "ba")]
    for env in envs:
        env.reset(seed=3)
    for env, action in zip(envs, (1, 2), strict=True):
        env.begin_step(action)
    assert [env.step(action)[1] for env, action in zip(envs, (1, 2), strict=True)] == [1.1, 2.1]
    assert [env.step(3)[1] for env in envs] == [3.2, 3.2]  # without begin_step


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_step_that_was_begun_ends_like_any_other(world):
    env = world(fail="kill", at=2)
    env.reset(seed=3)
    env.begin_step(1)
    env.reset(seed=4)  # abandons it
    assert env.step(2)[1] == 2.1
    env.begin_step(2)
    assert "killed by SIGKILL" in env.step(2)[4]["cut"]
    env.begin_step(1)  # no episode is running
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(1)
    env.reset(seed=5)
    for pid in env.call("pids"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: env._worker.process.poll() is not None)
    env.begin_step(1)
    *_, truncated, info = env.step(1)
    assert truncated and "ended" in info["cut"] and env.restarts == 2
    assert env.reset(seed=6)[0]["frame"][0, 0, 0] == 6


def test_text_actions_reach_the_worker(world):
    env = world(words=True)
    assert env.action_space == spaces.Text(80, min_length=0, charset="abc")
    env.reset(seed=0)
    assert env.step('tap("ü")')[1] == 8.1
    assert env.step(np.str_(""))[1] == 0.2


def test_observations_are_copies(shared_world):
    env = shared_world
    first, _ = env.reset(seed=7)
    second = env.step(0)[0]
    second["frame"][:] = 0
    assert (first["frame"] == 7).all() and (env.render() == 8).all()
    env._worker.send(TIMEOUT, "step", [0])
    env._worker.receive(TIMEOUT, TIMEOUT, "step")  # as if Ctrl-C had interrupted the wait for the answer
    assert (env.render() == 8).all()


def test_worker_starts_at_the_first_reset_if_the_spaces_are_known(world, shared_world):
    env = world(spaces=(shared_world.observation_space, spaces.Discrete(4)))
    assert env._worker is None
    env.reset(seed=0)
    wrong = world(spaces=(shared_world.observation_space, spaces.Discrete(5)), timeouts=Timeouts(restarts=0))
    with pytest.raises(RuntimeError, match=r"Discrete\(4\).*not .*Discrete\(5\)"):
        wrong.reset(seed=0)


def test_env_passes_gymnasium_checker(shared_world):
    check_env(shared_world, skip_render_check=True)


FAST_TASKS = ("fetch", "hunt", "defend_the_center")
SLOW_TASKS = [pytest.param(task, marks=pytest.mark.slow) for task in doom.TASKS if task not in FAST_TASKS]


@pytest.mark.parametrize("task", [*FAST_TASKS, *SLOW_TASKS])
def test_isolated_doom_equals_doom_in_this_process(task):
    options = doom.Defaults(rooms=4)
    ours = doom.make(task, options, labels=True)
    values = options.model_dump(mode="json")
    theirs = Isolated("environments.doom", task, values, split="train", labels=True, name="doom")
    assert (theirs.observation_space, theirs.action_space) == (ours.observation_space, ours.action_space)
    actions = np.random.default_rng(0).integers(ours.action_space.n, size=12)
    for seed in (3, None):
        assert comparable(ours.reset(seed=seed)) == comparable(theirs.reset(seed=seed))
        for action in actions:
            assert theirs.call("oracle_action") == doom.oracle(task)(ours)
            assert comparable(ours.step(action)) == comparable(theirs.step(action))
    with pytest.raises(ValueError, match="needs Doom in this process"):
        doom.oracle(task)(theirs)
    ours.close()
    theirs.close()


def test_wrong_arguments_raise_the_errors_of_the_module(world):
    with pytest.raises(UserError, match="far: 'cuont' is not a task"):
        world("cuont")
    with pytest.raises(UserError, match="far: ImportError: No module named 'simulator'"):
        world("absent")
    with pytest.raises(UserError, match="/absent/python cannot be started"):
        world(python="/absent/python")
    env = world()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(UserError, match="^remote_world has no 'sing'$"):
        env.call("sing")
    assert env.restarts == 0 and not env.step(0)[3]


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_value_errors_of_make_and_call_are_failures_of_the_simulator(world):
    env = world()
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="far: fail failed: ValueError: the engine's value is wrong"):
        env.call("fail", "value")
    with pytest.raises(RuntimeError, match="failed 2 times in a row, (.*\n)*Traceback(.*\n)*ValueError: no value"):
        world(fail="make_value", timeouts=Timeouts(restarts=1))


def test_space_that_cannot_be_isolated_is_a_user_error():
    with pytest.raises(ValueError, match="Sequence space cannot be isolated") as error:
        worker.plain(spaces.Sequence(spaces.Discrete(2)))
    assert worker.is_user_error(error.value)  # of environments.base, as in a worker


def test_shared_memory_is_reserved_before_the_first_frame(world):
    env = world(size=256)
    assert os.fstat(env._worker._memory.fileno()).st_blocks * 512 >= 256 * 256 * 3


def test_too_little_shared_memory_is_a_user_error(world):
    """The system refuses files over a limit, as it refuses memory if there is too little."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"far: its frames need 3145.7 kB of shared memory.*num_envs"):
            world(size=1024)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_unknown_option_is_a_user_error():
    with pytest.raises(UserError, match="frame_skp"):
        Isolated("environments.doom", "fetch", {"frame_skp": 2}, split="train", labels=False, name="doom")


FAILURES = {
    "kill": "its process has ended: killed by SIGKILL",
    "error": "RuntimeError: the engine has failed",
    "nonsense": "it sent an invalid message: expected the start of a message, got b'Segm'",
    "sleep": "step gave no answer in [0-9]+ s; its heartbeat went on",
    "stop": "step gave no answer in [0-9]+ s; there was no heartbeat for the last [0-9]+ s",
}


@pytest.mark.parametrize(
    ("fail", "reason"), [*FAILURES.items(), pytest.param("loop", FAILURES["sleep"], marks=pytest.mark.slow)]
)
def test_failure_truncates_the_episode_and_the_next_reset_starts_a_worker(world, fail, reason, monkeypatch):
    monkeypatch.setattr(isolated, "BEAT", 0.95)  # a heartbeat may then be as late as the timeout allows
    env = world(fail=fail, at=3, on=20, labels=True)
    env.reset(seed=20)
    [before, _] = env.call("pids")
    child = env.call("spawn")
    env.step(1)
    last, _, _, _, last_info = env.step(1)
    env.timeouts = HANGING if reason.startswith("step") else PATIENT
    with pytest.warns(UserWarning, match=reason):
        observation, reward, terminated, truncated, info = env.step(1)
    env.timeouts = PATIENT
    assert comparable(observation) == comparable(last)
    assert (reward, terminated, truncated) == (0.0, False, True)
    cut = info.pop("cut")
    assert comparable(info) == comparable(last_info)
    assert reason.startswith("step") or reason in cut
    assert wait_until_ended([before, child])
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    assert (env.reset(seed=21)[0]["frame"] == 21).all()
    assert [env.step(1)[2] for _ in range(5)] == [False] * 4 + [True]
    assert env.call("pids")[0] != before and env.restarts == 1


def test_contract_violations_are_passed_on(world):
    env = world(fail="shape", at=2)
    env.reset(seed=0)
    env.step(0)
    observation, *_, info = env.step(0)  # pr2l.rollout.contract checks it
    assert observation["frame"].shape == (9, 9, 3) and "cut" not in info and env.restarts == 0


def test_silence_timeout_is_separate_from_step_timeout(world):
    env = world(fail="stop", at=1)
    env.reset(seed=0)
    env.timeouts = Timeouts(step=1000, silence=1.5)
    with pytest.warns(UserWarning, match="no answer in [0-9]+ s; there was no heartbeat for the last [0-9]+ s"):
        assert env.step(0)[3]


def test_failure_warning_quotes_the_log(world):
    env = world(fail="error")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="The last lines of its log:\n(.*\n)*output of the engine"):
        for _ in range(3):
            env.step(0)


def test_failed_call_ends_the_episode_only(world):
    env = world()
    env.reset(seed=0)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="far: fail failed: its process has"):
        env.call("fail", "kill")
    assert env.step(0)[3] and env.restarts == 1
    env.reset(seed=1)
    assert not env.step(0)[3]


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_successful_step_resets_the_count_of_failures(world):
    env = world(fail="error", at=2, timeouts=PATIENT.model_copy(update={"restarts": 1}))
    for _ in range(3):
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(2)] == [False, True]
    assert env.restarts == 3


def test_log_over_the_limit_is_emptied(world, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "LOG_LIMIT", 10)
    log = tmp_path / "far.log"
    log.write_text("output of a simulator")
    env = world(log=log)
    env.reset(seed=0)
    env.close()
    assert log.read_text() == "closed\n"


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_too_many_failures_in_a_row_raise(world):
    env = world(fail="error", at=1, timeouts=Timeouts(restarts=2))
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(0)[3]
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="failed 3 times in a row, .*\n(.*\n)*output of the engine"):
        env.step(0)
    with pytest.raises(RuntimeError, match="failed 2 times in a row, .*exit code 3"):
        world(fail="reset", timeouts=Timeouts(restarts=1)).reset(seed=0)
    with pytest.raises(RuntimeError, match="failed 1 times in a row, .*no engine"):
        world(fail="make", timeouts=Timeouts(restarts=0))


def test_worker_over_the_memory_limit_is_replaced_at_reset(world):
    limit = 180  # MB; fail="grow" allocates 200 MB
    env = world(fail="grow", on=0, timeouts=Timeouts(memory=limit))
    env.reset(seed=0)
    [before, _] = env.call("pids")
    assert env._worker.memory() < limit
    assert [env.step(0)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(True, False)]
    with pytest.warns(UserWarning, match=f"it uses [0-9]+ MB of memory, more than timeouts.memory={limit}"):
        env.reset(seed=1)
    assert env.call("pids")[0] != before and env.restarts == 1
    env.reset(seed=2)
    assert env.restarts == 1


def test_worker_over_the_memory_limit_is_replaced_during_a_long_episode(world, monkeypatch):
    checks = []
    memory = isolated.WorkerProcess.memory
    monkeypatch.setattr(isolated, "MEMORY_INTERVAL", 1000)
    monkeypatch.setattr(isolated.WorkerProcess, "memory", lambda worker: checks.append(worker) or memory(worker))
    env = world(fail="grow", on=0, horizon=10**9, timeouts=PATIENT.model_copy(update={"memory": 180}))
    env.reset(seed=0)
    assert not any(env.step(0)[3] for _ in range(20))  # it grows in the third step; the memory was checked in the first
    assert len(checks) == 1
    monkeypatch.setattr(isolated, "MEMORY_INTERVAL", 0)
    with pytest.warns(UserWarning, match="far is replaced: it uses [0-9]+ MB of memory, more than timeouts.memory=180"):
        _, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["success"]) == (0, False, True, False)
    assert info["cut"].endswith("memory=180") and env.restarts == 1
    env.reset(seed=1)
    assert not any(env.step(0)[3] for _ in range(5))


@pytest.mark.parametrize("hangs", [False, True])
def test_killed_guard_counts_as_failed_worker(world, hangs):
    env = world()
    env.reset(seed=0)
    worker, guard = env.call("pids")
    child = None if hangs else env.call("spawn")  # if the worker hangs too, no process is left to kill the child
    if hangs:
        os.kill(worker, signal.SIGSTOP)
        assert wait_until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
    os.kill(guard, signal.SIGKILL)
    assert hangs or wait_until_ended([worker, child])
    env.timeouts = HANGING
    with pytest.warns(UserWarning, match="no answer in" if hangs else "its process has ended: killed by SIGKILL"):
        assert env.step(0)[3]
    env.timeouts = PATIENT
    assert wait_until_ended([worker]) and env.restarts == 1
    env.reset(seed=1)
    assert not env.step(0)[3]


def test_other_wire_version_raises(world, monkeypatch):
    monkeypatch.setattr(wire, "VERSION", 2)
    with pytest.raises(RuntimeError, match="version 2 of the protocol, this one version 1"):
        world(timeouts=Timeouts(restarts=0))


def test_environments_have_separate_workers(world):
    envs = [world() for _ in range(3)]
    for number, env in enumerate(envs):
        env.reset(seed=50 * number)
    assert len({env.call("pids")[0] for env in envs}) == 3
    assert [env.step(number)[1] for number, env in enumerate(envs)] == [0.1, 1.1, 2.1]
    envs[1].close()
    assert [int(env.step(0)[0]["frame"][0, 0, 0]) for env in (envs[0], envs[2])] == [2, 102]


def test_close_ends_the_worker_and_its_children_and_reset_starts_a_new_one(world, tmp_path):
    log = tmp_path / "far.log"
    env = world(log=log)
    env.reset(seed=0)
    pids = [env.call("pids")[0], env.call("spawn")]
    env.close()
    env.close()
    assert wait_until_ended(pids) and log.read_text() == "closed\n"
    env.reset(seed=0)
    env.close()
    assert log.read_text() == "closed\nclosed\n"


def test_deleted_environment_ends_its_worker():
    env = Isolated(str(TESTS / "remote_world.py"), "count", {}, split="train", labels=False, name="far")
    [pid, _] = env.call("pids")
    del env
    assert wait_until_ended([pid])


def test_worker_gets_environment_variables_but_not_pythonpath(world, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/another/interpreter")
    path, _, variable = world(env={"FAR_WORLD": "here"}).call("path")
    assert variable == "here" and str(ROOT / "environments") not in path
    other = Path(sys.executable).with_name("python")
    path, *_ = world(python=f"{other.parent}/../bin/{other.name}").call("path")
    assert "/of/another/interpreter" not in path


QUICK_WORKER = f"""
import sys
sys.path.insert(0, {str(ROOT / "environments" / "isolation")!r})
import worker
worker.CLOSING_TIME = 1.0
worker.main(sys.argv[1:])
"""
PARENT = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]
from pr2l.environments.isolation import isolated
from pr2l.environments.isolation.isolated import Isolated
options = {{"fail": sys.argv[1]}}
isolated.WORKER = sys.argv[2]
env = Isolated({str(TESTS / "remote_world.py")!r}, "count", options, split="train", labels=False, name="far")
env.reset(seed=0)
print(env.call("pids")[0], env.call("spawn"), flush=True)
"""


@pytest.fixture
def start_parent(tmp_path):
    """start_parent(program, fail) -> a process that runs PARENT and then a program, and the pids of its children.

    Its worker has a second, not ten, to close the simulator after the parent has died.
    """
    processes = []
    (tmp_path / "quick_worker.py").write_text(QUICK_WORKER)

    def start(program, fail):
        command = [sys.executable, "-c", PARENT + program, fail, str(tmp_path / "quick_worker.py")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, start_new_session=True, **pipes)
        processes.append(process)
        pids = [int(word) for word in process.stdout.readline().split()]
        assert pids, process.stderr.read()
        return process, [*pids, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]

    yield start
    for process in processes:
        with process:
            process.kill()


def test_worker_and_its_children_end_when_the_parent_is_killed(start_parent):
    process, pids = start_parent("signal.pause()", "none")
    assert len(set(pids)) == 3  # the worker, its guard and the child of the simulator
    process.send_signal(signal.SIGKILL)
    assert wait_until_ended(pids)


@pytest.mark.parametrize("fail", ["stop", pytest.param("loop", marks=pytest.mark.slow)])
def test_hanging_worker_ends_when_the_parent_is_killed(start_parent, fail):
    process, pids = start_parent("print([env.step(0) for _ in range(3)])", fail)
    time.sleep(1)  # so that the third step has begun; otherwise the test is weaker
    process.send_signal(signal.SIGKILL)
    assert wait_until_ended(pids)


def test_call_after_ctrl_c_gets_its_own_answer(start_parent, tmp_path):
    called, resume = tmp_path / "called", tmp_path / "resume"
    program = f"""
try:
    env.call("wait", {str(called)!r}, {str(resume)!r})
except KeyboardInterrupt:
    open({str(resume)!r}, "w").close()
    print(env.call("oracle_action"), env.step(1)[1], env.restarts)
env.close()
"""
    process, pids = start_parent(program, "none")
    assert wait_until(called.exists)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err) == ("0 1.1 0\n", "")
    assert wait_until_ended(pids)


def remote_files():
    folder = ROOT / "environments"
    return [folder / "isolation" / name for name in ("worker.py", "wire.py")] + sorted(folder.glob("*/remote.py"))


@pytest.mark.parametrize("file", remote_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_remote_files_are_valid_python_3_9(file):
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    assert "from __future__ import annotations" in file.read_text(encoding="utf-8")


def old_python():
    """Return a Python 3.9 or 3.10 on the PATH that has NumPy, or None."""
    for name in ("python3.9", "python3.10"):
        python = shutil.which(name)
        if python and not subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode:
            return python
    return None


@pytest.mark.skipif(old_python() is None, reason="needs a Python 3.9 or 3.10 with NumPy on the PATH")
def test_worker_runs_on_older_python(world):
    env = world(python=old_python(), labels=True)
    assert env.call("path")[1] in ((3, 9), (3, 10))
    env.reset(seed=1)
    assert (env.step(3)[0]["frame"] == 2).all()


def test_missing_interpreter_raises_with_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}/minedojo/bin/python.*`pr2l sim install minedojo`"):
        interpreter("minedojo")
    with pytest.raises(ValueError, match="/absent is not a Python interpreter"):
        interpreter("minedojo", "/absent")
    python = tmp_path / "minedojo" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert interpreter("minedojo") == python
    assert interpreter("minedojo", sys.executable) == Path(sys.executable)


def test_step_takes_less_than_a_millisecond(world):
    """The fastest tenth of the steps is measured, so that other load on the machine does not matter."""
    env = world(size=128, horizon=10**9)
    env.reset(seed=0)
    times = []
    for _ in range(300):
        start = time.perf_counter()
        env.step(0)
        times.append(time.perf_counter() - start)
    assert np.percentile(times, 10) < 0.001


def test_calls_have_consecutive_numbers(shared_world):
    """The number assigns an answer to its call."""
    shared_world.reset(seed=0)
    first, numbers = shared_world._worker._number, []
    for _ in range(3):
        shared_world.step(0)
        numbers.append(shared_world._worker._number - first)
    assert numbers == [1, 2, 3]
