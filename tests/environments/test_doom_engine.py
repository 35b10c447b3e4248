"""Doom engine processes: none survives its program, none leaves files, and several live side by side."""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from processes import TIMEOUT

from pr2l.environments.doom import engine as doom_engine
from pr2l.environments.doom import environment as doom
from pr2l.environments.doom import launcher
from pr2l.environments.doom.engine import FOLDER_PREFIX, Engine, Settings, temporary_folder

ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties an engine to its parent")

PLAYING = """
import os, signal, sys
from environments import doom
env = doom.make("fetch", doom.Defaults(rooms=4))
env.reset(seed=0)
print("playing", flush=True)
"""
WITHOUT_END = """
while True:
    if any(env.step(0)[2:4]):
        env.reset()
"""


@pytest.fixture
def start(tmp_path):
    """start(program): a Python process in the empty folder `work`, whose temporary files go to `temp`."""
    for name in ("work", "temp"):
        (tmp_path / name).mkdir()
    started = []

    def run(program):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path / "work",
            env=os.environ | {"TMPDIR": str(tmp_path / "temp"), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with process:  # leaving it closes the pipes and collects the exit code
            process.kill()
    for engine in engines(tmp_path):
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def engines(tmp_path):
    """The processes that were started with files below tmp_path."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if any(str(tmp_path) in word for word in process.info["cmdline"] or ())]


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def assert_nothing_is_left(tmp_path, instance):
    assert wait_until(lambda: not engines(tmp_path)), "the engine still runs"
    assert not list(Path("/dev/shm").glob(f"*{instance}"))
    assert not [path.name for name in ("work", "temp") for path in (tmp_path / name).iterdir()]


def instance_of(tmp_path):
    (engine,) = engines(tmp_path)
    return engine.info["cmdline"][engine.info["cmdline"].index("+viz_instance_id") + 1]


@linux_only
@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("env.close()", 0),
        ("sys.exit(0)", 0),
        ("raise ValueError('boom')", 1),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ],
)
def test_no_engine_survives_the_end_of_its_program(ending, code, start, tmp_path):
    process = start(f"{PLAYING}\nsys.stdin.read()\n{ending}")
    assert process.stdout.readline() == "playing\n"
    instance = instance_of(tmp_path)
    process.stdin.close()
    assert process.wait(timeout=TIMEOUT) == code
    assert_nothing_is_left(tmp_path, instance)


@linux_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_engine_survives_a_signal_in_the_middle_of_a_step(number, start, tmp_path):
    process = start(PLAYING + WITHOUT_END)
    assert process.stdout.readline() == "playing\n"
    instance = instance_of(tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=TIMEOUT) != 0
    assert_nothing_is_left(tmp_path, instance)


@linux_only
@pytest.mark.parametrize("delay", [0.01, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.05))])
def test_no_engine_survives_a_kill_while_it_starts(delay, start, tmp_path):
    process = start(PLAYING + WITHOUT_END)  # so that what starts is not over before somebody looks
    assert wait_until(lambda: list((tmp_path / "temp").glob("*/engine")) or engines(tmp_path))
    time.sleep(delay)
    process.kill()
    process.wait(timeout=TIMEOUT)
    assert wait_until(lambda: not engines(tmp_path))


@linux_only
def test_ctrl_c_leaves_the_engine_to_the_program(start, tmp_path):
    """A terminal sends SIGINT to the whole process group; the program may want to go on, in order to save."""
    wait = "try:\n    print('waiting', flush=True)\n    signal.pause()\n"
    process = start(f"{PLAYING}{wait}except KeyboardInterrupt:\n    print(env.step(0)[1])\n")
    assert [process.stdout.readline() for _ in range(2)] == ["playing\n", "waiting\n"]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err, process.returncode) == ("-0.01\n", "", 0)


@linux_only
def test_a_running_engine_has_left_no_trace_in_any_folder(start, tmp_path):
    process = start(f"{PLAYING}\nsys.stdin.read()")
    assert process.stdout.readline() == "playing\n"
    assert not list(Path("/dev/shm").glob(f"*{instance_of(tmp_path)}"))
    assert not [path.name for name in ("work", "temp") for path in (tmp_path / name).iterdir()]


@linux_only
def test_what_a_kill_during_a_start_leaves_is_swept_up_later(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stale, young, foreign = (tmp_path / name for name in (f"{FOLDER_PREFIX}1", f"{FOLDER_PREFIX}2", "other"))
    for folder in (stale, young, foreign):
        folder.mkdir()
    for folder in (stale, foreign):
        os.utime(folder, (0, 0))
    new = temporary_folder()
    assert {*tmp_path.iterdir()} == {young, foreign, new}


@linux_only
def test_shared_memory_that_a_kill_leaves_is_removed_later(tmp_path, monkeypatch):
    monkeypatch.setattr(doom_engine, "SHARED_MEMORY", tmp_path)
    stale, used, young, foreign = (tmp_path / name for name in ("ViZDoomMQ1", "ViZDoomSM2", "ViZDoomMQ3", "other"))
    for memory in (stale, used, young, foreign):
        memory.write_bytes(b"memory")
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        for memory in (stale, used, foreign):
            os.utime(memory, (0, 0))
        temporary_folder().rmdir()
        assert {*tmp_path.iterdir()} == {used, young, foreign}


@linux_only
@pytest.mark.parametrize("mine", [True, False])
def test_the_launcher_starts_an_engine_only_for_a_living_parent(mine, tmp_path):
    parent = os.getpid() if mine else psutil.Process().ppid()
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\npwd > started\necho $1 >> started\n")
    engine.chmod(0o700)
    command = [sys.executable, "-IS", launcher.__file__]
    subprocess.run([*command, str(parent), str(tmp_path), str(engine), "word"], check=True, timeout=TIMEOUT)
    assert (tmp_path / "started").exists() is mine
    if mine:
        assert (tmp_path / "started").read_text().split() == [str(tmp_path), "word"]


def test_eight_environments_in_one_process_do_not_disturb_one_another():
    tasks = [*doom.TASKS, "fetch"]
    together = [doom.make(task) for task in tasks]
    for seed, env in enumerate(together):
        env.reset(seed=seed)
    side_by_side = [[env.step(step % 2)[0]["frame"].tobytes() for env in together] for step in range(12)]
    for env in together:
        env.close()
    for seed, task in enumerate(tasks):
        env = doom.make(task)
        env.reset(seed=seed)
        alone = [env.step(step % 2)[0]["frame"].tobytes() for step in range(12)]
        env.close()
        assert alone == [frames[seed] for frames in side_by_side]


def test_a_closed_environment_can_be_closed_again_and_reset():
    env = doom.make("fetch", doom.Defaults(rooms=4))
    before = env.reset(seed=1)[0]["frame"]
    env.close()
    env.close()
    assert (env.reset(seed=1)[0]["frame"] == before).all()
    env.close()


def test_a_failed_start_says_what_to_look_at_and_cleans_up(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=r"did not start \(.*missing.wad.*TMPDIR"):
        Engine(Settings(tmp_path / "missing.wad", ("ATTACK",), "160x120"), folder)
    assert not folder.exists()
