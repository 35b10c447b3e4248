"""A simulator in its own interpreter shows what it shows in ours, and whatever it does, this process goes on."""

import ast
import itertools
import json
import os
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

from pr2l.environments.doom import environment as doom
from pr2l.environments.isolation import isolated, wire, worker
from pr2l.environments.isolation.interpreters import interpreter
from pr2l.environments.isolation.isolated import Isolated, Timeouts

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PATIENT = Timeouts(step=TIMEOUT, close=TIMEOUT)
HANGING = Timeouts(step=5)  # only where something hangs: on a busy machine, what does not can take seconds too


@pytest.fixture
def world():
    """world(task, labels=..., **options, and arguments of Isolated): a tests/remote_world.py of its own."""
    made = []

    def world(task="count", *, labels=False, **options):
        how = {"name": "far", "timeouts": PATIENT, "split": "train", "labels": labels}
        how |= {key: options.pop(key) for key in ("python", "env", "timeouts", "spaces", "log") if key in options}
        made.append(Isolated(str(TESTS / "remote_world.py"), task, options, **how))
        return made[-1]

    yield world
    for env in made:
        env.close()


def alive(pid):
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def gone(pids):
    return wait_until(lambda: not any(map(alive, pids)))


def plain(value):
    """A step or a reset with arrays as comparable values."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else (type(value), value)


def test_what_the_worker_shows_arrives(world):
    env = world(labels=True)
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
    assert plain(info) == plain(expected)
    for step in range(1, 6):
        observation, reward, terminated, truncated, info = env.step(np.int64(2))
        assert (observation["frame"] == 40 + step).all() and observation["frame"].dtype == np.uint8
        assert plain(observation["proprio"]) == plain(np.array([step / 10, 1], np.float32))
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
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(np.array([0, -5]), np.array([1, 5]), dtype=np.int64),
    ],
    ids=str,
)
def test_a_space_that_is_described_comes_back(space):
    described = json.loads(json.dumps(worker.plain(space), default=lambda array: array.tolist()))
    frame = spaces.Box(0, 255, (2, 2, 3), np.uint8)
    made = {"observation": {"frame": worker.plain(frame)}, "action": described}
    assert isolated.gymnasium_spaces(made) == (spaces.Dict(frame=frame), space)


def test_actions_of_several_parts_cross(world):
    env = world(kinds=3)
    assert env.action_space == spaces.MultiDiscrete([4, 4, 4])
    env.reset(seed=0)
    assert env.step(np.array([1, 2, 3]))[1] == 6.1


def test_an_observation_is_the_callers_own(world):
    env = world()
    first, _ = env.reset(seed=7)
    second = env.step(0)[0]
    second["frame"][:] = 0
    assert (first["frame"] == 7).all() and (env.render() == 8).all()
    env._worker.ask(TIMEOUT, TIMEOUT, "step", [0])  # as one whose answer Ctrl-C broke off
    assert (env.render() == 8).all()


def test_known_spaces_leave_the_start_to_the_first_reset(world):
    shown = world().observation_space, spaces.Discrete(4)
    env = world(spaces=shown)
    assert env._worker is None
    env.reset(seed=0)
    wrong = world(spaces=(shown[0], spaces.Discrete(5)), timeouts=Timeouts(restarts=0))
    with pytest.raises(RuntimeError, match=r"its spaces are .*Discrete\(4\).*not .*Discrete\(5\)"):
        wrong.reset(seed=0)


def test_gymnasium_accepts_it(world):
    check_env(world(labels=True), skip_render_check=True)


@pytest.mark.parametrize("task", doom.TASKS)
def test_doom_is_doom_bit_for_bit(task):
    options = doom.Defaults(rooms=4)
    ours = doom.make(task, options, labels=True)
    values = options.model_dump(mode="json")
    theirs = Isolated("environments.doom", task, values, split="train", labels=True, name="doom")
    assert (theirs.observation_space, theirs.action_space) == (ours.observation_space, ours.action_space)
    actions = np.random.default_rng(0).integers(ours.action_space.n, size=12)
    for seed in (3, None):
        assert plain(ours.reset(seed=seed)) == plain(theirs.reset(seed=seed))
        for action in actions:
            assert theirs.call("oracle_action") == doom.oracle(task)(ours)
            assert plain(ours.step(action)) == plain(theirs.step(action))
    with pytest.raises(ValueError, match="needs Doom in this process"):
        doom.oracle(task)(theirs)
    ours.close()
    theirs.close()


def test_what_the_user_must_mend_is_said_as_the_module_says_it(world):
    with pytest.raises(ValueError, match="far: 'cuont' is not a task of remote_world: count"):
        world("cuont")
    with pytest.raises(ValueError, match="far: ImportError: No module named 'simulator'"):
        world("absent")
    with pytest.raises(ValueError, match="/absent/python cannot be started"):
        world(python="/absent/python")
    env = world()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="^remote_world has no 'sing'$"):
        env.call("sing")
    assert env.restarts == 0 and not env.step(0)[3]


def test_an_option_that_a_module_of_ours_refuses_is_the_users_to_mend():
    with pytest.raises(ValueError, match="frame_skp"):
        Isolated("environments.doom", "fetch", {"frame_skp": 2}, split="train", labels=False, name="doom")


FAILURES = {
    "kill": "its process has died: killed by SIGKILL",
    "error": "RuntimeError: the engine has failed",
    "nonsense": "it answered nonsense: the stream holds b'Segm' where a message should begin",
    "loop": "step gave no answer in [0-9]+ s; its heartbeat went on",
    "sleep": "step gave no answer in [0-9]+ s; its heartbeat went on",
    "stop": "step gave no answer in [0-9]+ s; there was no heartbeat for the last [0-9]+ s",
}


@pytest.mark.parametrize(("fail", "reason"), FAILURES.items())
def test_a_failure_cuts_the_episode_and_the_next_has_a_fresh_worker(world, fail, reason, monkeypatch):
    monkeypatch.setattr(isolated, "BEAT", 1.6)  # a beat may then be as late as the time-out allows
    env = world(fail=fail, at=3, on=20, labels=True)
    env.reset(seed=20)
    [before, _] = env.call("pids")
    child = env.call("spawn")
    env.step(1)
    last, _, _, _, told = env.step(1)
    env.timeouts = HANGING if reason.startswith("step") else PATIENT
    with pytest.warns(UserWarning, match=reason):
        observation, reward, terminated, truncated, info = env.step(1)
    env.timeouts = PATIENT
    assert plain(observation) == plain(last)
    assert (reward, terminated, truncated) == (0.0, False, True)
    cut = info.pop("cut")
    assert plain(info) == plain(told)
    assert reason.startswith("step") or reason in cut
    assert gone([before, child])
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    assert (env.reset(seed=21)[0]["frame"] == 21).all()
    assert [env.step(1)[2] for _ in range(5)] == [False] * 4 + [True]
    assert env.call("pids")[0] != before and env.restarts == 1


def test_what_breaks_the_environment_contract_is_passed_on_as_it_is(world):
    env = world(fail="shape", at=2)
    env.reset(seed=0)
    env.step(0)
    observation, *_, info = env.step(0)  # pr2l.rollout.contract says what is wrong with it
    assert observation["frame"].shape == (9, 9, 3) and "cut" not in info and env.restarts == 0


def test_silence_in_a_call_is_not_borne_as_long_as_slowness(world):
    env = world(fail="stop", at=1)
    env.reset(seed=0)
    env.timeouts = Timeouts(step=1000, silence=3)
    with pytest.warns(UserWarning, match="no answer in [0-9]+ s; there was no heartbeat for the last [0-9]+ s"):
        assert env.step(0)[3]


def test_a_failure_quotes_the_last_lines_of_the_log(world):
    env = world(fail="error")
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="The last lines of its log:\n(.*\n)*the engine says why"):
        for _ in range(3):
            env.step(0)


def test_a_call_that_fails_costs_the_episode_only(world):
    env = world()
    env.reset(seed=0)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="far: fail failed: its process has"):
        env.call("fail", "kill")
    assert env.step(0)[3] and env.restarts == 1
    env.reset(seed=1)
    assert not env.step(0)[3]


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_a_whole_step_between_two_failures_begins_the_count_anew(world):
    env = world(fail="error", at=2, timeouts=PATIENT.model_copy(update={"restarts": 1}))
    for _ in range(3):
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(2)] == [False, True]
    assert env.restarts == 3


def test_a_log_that_has_grown_long_is_begun_anew(world, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "LOG_LIMIT", 10)
    log = tmp_path / "far.log"
    log.write_text("what a simulator prints")
    env = world(log=log)
    env.reset(seed=0)
    env.close()
    assert log.read_text() == "closed\n"


@pytest.mark.filterwarnings("ignore:far is replaced")
def test_failures_without_a_whole_step_between_are_borne_a_few_times_only(world):
    env = world(fail="error", at=1, timeouts=Timeouts(restarts=2))
    for _ in range(2):
        env.reset(seed=0)
        assert env.step(0)[3]
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="far failed 3 times in a row, at last: RuntimeError: .*\n(.*\n)*the engine"):
        env.step(0)
    with pytest.raises(RuntimeError, match="far failed 2 times in a row, at last: its process has died: exit code 3"):
        world(fail="reset", timeouts=Timeouts(restarts=1)).reset(seed=0)
    with pytest.raises(RuntimeError, match="far failed 1 times in a row, at last: RuntimeError: no engine"):
        world(fail="make", timeouts=Timeouts(restarts=0))


def test_a_worker_that_has_grown_is_replaced_between_two_episodes(world):
    limit = 180  # MB; the hoard is 200
    env = world(fail="grow", on=0, timeouts=Timeouts(memory=limit))
    env.reset(seed=0)
    [before, _] = env.call("pids")
    assert env._worker.memory() < limit
    assert [env.step(0)[2:4] for _ in range(5)] == [(False, False)] * 4 + [(True, False)]
    with pytest.warns(UserWarning, match=f"far is replaced: it uses [0-9]+ MB, more than timeouts.memory={limit}"):
        env.reset(seed=1)
    assert env.call("pids")[0] != before and env.restarts == 1
    env.reset(seed=2)
    assert env.restarts == 1


def test_a_worker_that_grows_in_an_episode_without_end_is_cut_there(world, monkeypatch):
    looks = []
    memory = isolated.WorkerProcess.memory
    monkeypatch.setattr(isolated, "MEMORY_INTERVAL", 1000)
    monkeypatch.setattr(isolated.WorkerProcess, "memory", lambda far: looks.append(far) or memory(far))
    env = world(fail="grow", on=0, horizon=10**9, timeouts=PATIENT.model_copy(update={"memory": 180}))
    env.reset(seed=0)
    assert not any(env.step(0)[3] for _ in range(20))  # it grows in the third, but in the first it was looked at
    assert len(looks) == 1
    monkeypatch.setattr(isolated, "MEMORY_INTERVAL", 0)
    with pytest.warns(UserWarning, match="far is replaced: it uses [0-9]+ MB, more than timeouts.memory=180"):
        _, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["success"]) == (0, False, True, False)
    assert info["cut"].endswith("memory=180") and env.restarts == 1
    env.reset(seed=1)
    assert not any(env.step(0)[3] for _ in range(5))


@pytest.mark.parametrize("hangs", [False, True])
def test_a_guard_that_is_killed_counts_as_its_worker(world, hangs):
    env = world()
    env.reset(seed=0)
    worker, guard = env.call("pids")
    child = None if hangs else env.call("spawn")  # which nobody is left to find where the worker hangs
    if hangs:
        os.kill(worker, signal.SIGSTOP)
        assert wait_until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
    os.kill(guard, signal.SIGKILL)
    assert hangs or gone([worker, child])
    env.timeouts = HANGING
    with pytest.warns(UserWarning, match="no answer in" if hangs else "its process has died: killed by SIGKILL"):
        assert env.step(0)[3]
    env.timeouts = PATIENT
    assert gone([worker]) and env.restarts == 1
    env.reset(seed=1)
    assert not env.step(0)[3]


def test_sides_of_two_versions_do_not_talk(world, monkeypatch):
    monkeypatch.setattr(wire, "VERSION", 2)
    with pytest.raises(RuntimeError, match="the other process speaks version 2, this one 1"):
        world(timeouts=Timeouts(restarts=0))


def test_worlds_side_by_side_do_not_meet(world):
    envs = [world() for _ in range(3)]
    for number, env in enumerate(envs):
        env.reset(seed=50 * number)
    assert len({env.call("pids")[0] for env in envs}) == 3
    assert [env.step(number)[1] for number, env in enumerate(envs)] == [0.1, 1.1, 2.1]
    envs[1].close()
    assert [int(env.step(0)[0]["frame"][0, 0, 0]) for env in (envs[0], envs[2])] == [2, 102]


def test_close_ends_the_worker_with_what_it_started_and_a_reset_starts_another(world, tmp_path):
    log = tmp_path / "far.log"
    env = world(log=log)
    env.reset(seed=0)
    pids = [env.call("pids")[0], env.call("spawn")]
    env.close()
    env.close()
    assert gone(pids) and log.read_text() == "closed\n"
    env.reset(seed=0)
    env.close()
    assert log.read_text() == "closed\nclosed\n"


def test_a_world_that_is_let_go_of_ends(world):
    env = Isolated(str(TESTS / "remote_world.py"), "count", {}, split="train", labels=False, name="far")
    [pid, _] = env.call("pids")
    del env
    assert gone([pid])


def test_variables_reach_the_simulator_and_ours_of_python_do_not(world, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/of/another/interpreter")
    path, _, variable = world(env={"FAR_WORLD": "here"}).call("path")
    assert variable == "here" and str(ROOT / "environments") not in path
    foreign = Path(sys.executable).with_name("python")
    path, *_ = world(python=f"{foreign.parent}/../bin/{foreign.name}").call("path")
    assert "/of/another/interpreter" not in path


NEAR = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]
from pr2l.environments.isolation import wire
from pr2l.environments.isolation.isolated import Isolated
options = {{"fail": sys.argv[1]}}
env = Isolated({str(TESTS / "remote_world.py")!r}, "count", options, split="train", labels=False, name="far")
env.reset(seed=0)
print(env.call("pids")[0], env.call("spawn"), flush=True)
"""


@pytest.fixture
def near():
    """near(program, fail): a process that runs NEAR and then a program; and the processes that it has started."""
    started = []

    def near(program, fail):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", NEAR + program, fail], start_new_session=True, **pipes))
        pids = [int(word) for word in started[-1].stdout.readline().split()]
        assert pids, started[-1].stderr.read()
        return started[-1], [*pids, *(each.pid for each in psutil.Process(started[-1].pid).children(recursive=True))]

    yield near
    for process in started:
        with process:
            process.kill()


def test_nothing_outlives_a_near_side_that_is_killed(near):
    process, pids = near("signal.pause()", "none")
    assert len(set(pids)) == 3  # the worker, its guard and what the simulator has started
    process.send_signal(signal.SIGKILL)
    assert gone(pids)


@pytest.mark.parametrize("fail", ["stop", pytest.param("loop", marks=pytest.mark.slow)])  # each takes ten seconds
def test_nothing_that_hangs_outlives_a_near_side_that_is_killed(near, fail):
    process, pids = near("print([env.step(0) for _ in range(3)])", fail)
    time.sleep(1)  # for the third step to begin, or else the test asks for less
    process.send_signal(signal.SIGKILL)
    assert gone(pids)


def test_ctrl_c_is_for_the_near_side_and_an_answer_that_it_broke_off_is_not_taken_for_the_next(near, tmp_path):
    called, go_on = tmp_path / "called", tmp_path / "go on"
    program = f"""
try:
    env.call("wait", {str(called)!r}, {str(go_on)!r})
except KeyboardInterrupt:
    open({str(go_on)!r}, "w").close()
    print(env.call("oracle_action"), env.step(1)[1], env.restarts)
env.close()
"""
    process, pids = near(program, "none")
    assert wait_until(called.exists)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err) == ("0 1.1 0\n", "")
    assert gone(pids)


def far_files():
    folder = ROOT / "environments"
    return [folder / "isolation" / name for name in ("worker.py", "wire.py")] + sorted(folder.glob("*/remote.py"))


@pytest.mark.parametrize("file", far_files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_far_side_is_written_for_python_3_9(file):
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    assert "from __future__ import annotations" in file.read_text(encoding="utf-8")


def old_python():
    """A Python 3.9 or 3.10 on this machine that has NumPy, or None."""
    for name in ("python3.9", "python3.10"):
        found = shutil.which(name)
        if found and not subprocess.run([found, "-c", "import numpy"], capture_output=True).returncode:
            return found
    return None


@pytest.mark.skipif(old_python() is None, reason="needs a Python 3.9 or 3.10 with NumPy on the PATH")
def test_an_older_interpreter_serves(world):
    env = world(python=old_python(), labels=True)
    assert env.call("path")[1] in ((3, 9), (3, 10))
    env.reset(seed=1)
    assert (env.step(3)[0]["frame"] == 2).all()


def test_an_interpreter_that_is_not_there_names_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path))
    with pytest.raises(ValueError, match=f"is no {tmp_path}/minedojo/bin/python.*run `pr2l sim install minedojo`"):
        interpreter("minedojo")
    with pytest.raises(ValueError, match="/absent is no Python interpreter"):
        interpreter("minedojo", "/absent")
    made = tmp_path / "minedojo" / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.symlink_to(sys.executable)
    assert interpreter("minedojo") == made
    assert interpreter("minedojo", sys.executable) == Path(sys.executable)


def test_a_step_costs_little(world):
    """Less than a millisecond where nothing else wants the core, which a tenth of the steps finds on any machine."""
    env = world(size=128, horizon=10**9)
    env.reset(seed=0)
    times = []
    for _ in range(300):
        begun = time.perf_counter()
        env.step(0)
        times.append(time.perf_counter() - begun)
    assert np.percentile(times, 10) < 0.001


def test_the_numbers_of_calls_go_on(world):
    """Answers are told apart by them; none is used twice by a worker."""
    env = world()
    env.reset(seed=0)
    numbers = []
    for _, step in zip(range(3), itertools.repeat(env.step), strict=False):
        step(0)
        numbers.append(env._worker._number)
    assert numbers == [3, 4, 5]
