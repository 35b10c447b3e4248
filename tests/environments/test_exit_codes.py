"""Descriptions of exit codes: the signal, its usual cause, and the state of the machine."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pr2l.benchmark import runner
from pr2l.benchmark.jobs import Job
from pr2l.environments.isolation.exit_codes import describe_exit


def test_error_of_a_killed_process_names_the_memory():
    program = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    program.kill()
    text = describe_exit(program.wait())
    total = psutil.virtual_memory().total / 1e9
    assert text.startswith("killed by SIGKILL, which usually means that memory ran out (")
    assert f" of {total:.1f} GB are available now" in text


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-signal.SIGBUS, "killed by SIGBUS, which usually means that a disk or /dev/shm is full"),
        (-signal.SIGSEGV, "mounted noexec"),
        (-signal.SIGUSR1, "killed by SIGUSR1"),
        (-63, "killed by signal 63"),
        (3, "exit code 3"),
        (None, "exit code None"),
    ],
)
def test_other_ends_of_processes(code, text):
    assert text in describe_exit(code)


def test_error_of_a_killed_job_names_the_signal(tmp_path: Path):
    log = tmp_path / "log.txt"
    log.write_text("64 of 128 steps\n")
    text = runner._failure(Job("toy", int, log, 0), -signal.SIGKILL)
    assert text.startswith("toy was killed by SIGKILL, which usually means that memory ran out (") and str(log) in text
    assert "64 of 128 steps" not in text and "the same command resumes it" in text
