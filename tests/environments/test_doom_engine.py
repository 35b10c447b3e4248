"""Doom engine processes end with their program, leave no files, and do not disturb each other."""

import mmap
import os
import shutil
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

from pr2l.environments.base import UserError
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
STEP_FOREVER = """
while True:
    if any(env.step(0)[2:4]):
        env.reset()
"""


@pytest.fixture
def start(tmp_path):
    """start(program) -> a Python process in the folder `work`, whose temporary files are in `temp`."""
    for name in ("work", "temp"):
        (tmp_path / name).mkdir()
    processes = []

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
        processes.append(process)
        return process

    yield run
    for process in processes:
        with process:  # leaving it closes the pipes and collects the exit code
            process.kill()
    for engine in engines(tmp_path):
        with suppress(psutil.NoSuchProcess):
            engine.kill()


def engines(tmp_path):
    """Return the processes with a file below tmp_path in their command line."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if any(str(tmp_path) in word for word in process.info["cmdline"] or ())]


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return result


def assert_no_engine_and_no_files(tmp_path, instance):
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
        pytest.param("env.close()", 0, marks=pytest.mark.slow),
        pytest.param("sys.exit(0)", 0, marks=pytest.mark.slow),
        ("raise ValueError('boom')", 1),
        ("os._exit(3)", 3),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, marks=pytest.mark.slow),
    ],
)
def test_engine_ends_with_its_program(ending, code, start, tmp_path):
    process = start(f"{PLAYING}\nsys.stdin.read()\n{ending}")
    assert process.stdout.readline() == "playing\n"
    instance = instance_of(tmp_path)
    process.stdin.close()
    assert process.wait(timeout=TIMEOUT) == code
    assert_no_engine_and_no_files(tmp_path, instance)


@linux_only
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_engine_ends_when_a_signal_ends_its_program_during_a_step(number, start, tmp_path):
    process = start(PLAYING + STEP_FOREVER)
    assert process.stdout.readline() == "playing\n"
    instance = instance_of(tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=TIMEOUT) != 0
    assert_no_engine_and_no_files(tmp_path, instance)


@linux_only
@pytest.mark.parametrize("delay", [0.01, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.05))])
def test_engine_ends_when_its_program_is_killed_during_the_start(delay, start, tmp_path):
    process = start(PLAYING + STEP_FOREVER)  # so that the program still runs when the test finds its engine
    assert wait_until(lambda: list((tmp_path / "temp").glob("*/engine")) or engines(tmp_path))
    time.sleep(delay)
    process.kill()
    process.wait(timeout=TIMEOUT)
    assert wait_until(lambda: not engines(tmp_path))


@linux_only
def test_engine_ignores_ctrl_c(start, tmp_path):
    """A terminal sends SIGINT to the whole process group, and the program may continue in order to save."""
    wait = "try:\n    print('waiting', flush=True)\n    signal.pause()\n"
    process = start(f"{PLAYING}{wait}except KeyboardInterrupt:\n    print(env.step(0)[1])\n")
    assert [process.stdout.readline() for _ in range(2)] == ["playing\n", "waiting\n"]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (out, err, process.returncode) == ("-0.01\n", "", 0)


@linux_only
def test_running_engine_has_no_files(start, tmp_path):
    process = start(f"{PLAYING}\nsys.stdin.read()")
    assert process.stdout.readline() == "playing\n"
    assert not list(Path("/dev/shm").glob(f"*{instance_of(tmp_path)}"))
    assert not [path.name for name in ("work", "temp") for path in (tmp_path / name).iterdir()]


@linux_only
def test_next_start_removes_folders_of_killed_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stale, young, foreign = (tmp_path / name for name in (f"{FOLDER_PREFIX}1", f"{FOLDER_PREFIX}2", "other"))
    for folder in (stale, young, foreign):
        folder.mkdir()
    for folder in (stale, foreign):
        os.utime(folder, (0, 0))
    new = temporary_folder()
    assert {*tmp_path.iterdir()} == {young, foreign, new}


NOEXEC = """
import sys
from environments import doom
try:
    doom.make("fetch", doom.Defaults(rooms=4)).reset(seed=0)
except ValueError as error:
    print(error)
"""


@linux_only
def test_temporary_folder_that_is_mounted_noexec_is_refused(tmp_path):
    """ViZDoom would end the process by SIGSEGV."""
    mount = f"mount -t tmpfs -o noexec none {tmp_path}"
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*in_namespace, mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a folder in a namespace")
    command = [*in_namespace, f'{mount} && TMPDIR={tmp_path} exec {sys.executable} -c "$0"', NOEXEC]
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert program.returncode == 0, program
    assert program.stdout.startswith(f"{tmp_path}, the folder for temporary files, is mounted noexec, so ViZDoom")


@linux_only
def test_too_little_shared_memory_is_explained(tmp_path, monkeypatch):
    """ViZDoom would end this process by SIGBUS; /proc has no free space."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(doom_engine, "SHARED_MEMORY", Path("/proc"))
    with pytest.raises(UserError, match=r"needs 0.2 MB in /proc, and 0.0 MB are free.*num_envs.*--shm-size"):
        doom.make("fetch", doom.Defaults(rooms=4)).reset(seed=0)
    assert not [*tmp_path.iterdir()]


@linux_only
def test_next_start_removes_unused_shared_memory(tmp_path, monkeypatch):
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
@pytest.mark.parametrize("is_parent", [True, False])
def test_launcher_starts_no_engine_without_its_parent(is_parent, tmp_path):
    parent = os.getpid() if is_parent else psutil.Process().ppid()
    engine = tmp_path / "engine"
    engine.write_text("#!/bin/sh\npwd > started\necho $1 >> started\n")
    engine.chmod(0o700)
    command = [sys.executable, "-IS", launcher.__file__]
    subprocess.run([*command, str(parent), str(tmp_path), str(engine), "word"], check=True, timeout=TIMEOUT)
    assert (tmp_path / "started").exists() is is_parent
    if is_parent:
        assert (tmp_path / "started").read_text().split() == [str(tmp_path), "word"]


def test_environments_in_one_process_do_not_disturb_each_other():
    """Frames of four environments that take turns equal the frames of the same environments one after the other."""
    tasks = ["fetch", "fetch", "hunt", "basic"]
    envs = [doom.make(task, doom.Defaults(rooms=4)) for task in tasks]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    in_turns = [[env.step(step % 2)[0]["frame"].tobytes() for env in envs] for step in range(12)]
    for env in envs:
        env.close()
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        alone = [env.step(step % 2)[0]["frame"].tobytes() for step in range(12)]
        env.close()
        assert alone == [frames[seed] for frames in in_turns]


def test_closed_environment_can_be_closed_and_reset():
    env = doom.make("fetch", doom.Defaults(rooms=4))
    frame = env.reset(seed=1)[0]["frame"]
    env.close()
    env.close()
    assert (env.reset(seed=1)[0]["frame"] == frame).all()
    env.close()


def test_failed_start_names_the_file_and_removes_its_folder(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    with pytest.raises(RuntimeError, match=r"did not start \(.*missing.wad.*TMPDIR"):
        Engine(Settings(tmp_path / "missing.wad", ("ATTACK",), "160x120"), folder)
    assert not folder.exists()
