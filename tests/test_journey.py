"""`make android` and `make browser`: what they run, and the commands of docs/android.md on a small scale."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import commands, run_command

from tests.environments.browser_pages import needs_chromium

ROOT = Path(__file__).parents[1]
COMMANDS = [command for command in commands(ROOT / "docs/android.md") if " phone" in command]
INSTALL = ["apt-get update", "apt-get install --yes chromium-headless-shell"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words, **variables):
    """Run make as if .venv matched the lock file; return the finished process."""
    command = ["make", "--no-print-directory", "--old-file", ".venv/.matches-the-lock", *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True)


def test_make_android_runs_the_commands_of_the_page():
    recipe = make("--dry-run", "android", "BIN=BIN").stdout.replace("\\\n", " ")
    run = [line.partition("BIN/")[2] for line in recipe.splitlines() if "BIN/pr2l" in line]
    assert len(run) == 2 and [shlex.split(line) for line in run] == [shlex.split(command) for command in COMMANDS]


@pytest.fixture
def machine(tmp_path):
    """Folder with stand-ins for python, apt-get and sudo, which write their calls to `calls`."""
    scripts = {
        "python": f"test -e {tmp_path}/chromium && echo Chromium: there",
        "apt-get": f'echo "apt-get $*" >> {tmp_path}/calls; case "$*" in *install*) touch {tmp_path}/chromium;; esac',
        "sudo": 'exec "$@"',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def browser(machine, chromium=""):
    path = f"{machine}:{os.environ['PATH']}"
    return make("browser", f"BIN={machine}", PATH=path, PR2L_CHROMIUM=chromium)


def test_make_browser_installs_nothing_if_chromium_is_there(machine):
    (machine / "chromium").touch()
    assert browser(machine).stdout == "Chromium: there\n"
    assert not (machine / "calls").exists()


def test_make_browser_says_what_it_installs(machine):
    done = browser(machine)
    assert (machine / "calls").read_text().splitlines() == INSTALL
    assert done.returncode == 0
    assert re.search("installs Debian's package chromium-headless-shell.*Chromium: there", done.stdout, re.DOTALL)


def test_make_browser_installs_nothing_in_place_of_a_wrong_path(machine):
    assert browser(machine, chromium="/nowhere").returncode != 0
    assert not (machine / "calls").exists()


@pytest.mark.slow
@needs_chromium
@pytest.mark.filterwarnings("ignore:the script of")
def test_commands_of_the_page_train_an_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collect, train = COMMANDS
    run_command(re.sub(r"--episodes \d+", "--episodes 3", collect), monkeypatch)
    options = {"offline_updates": 1, "n_steps": 4, "updates": 1}
    extra = [f"algorithm_options.{name}={value}" for name, value in options.items()]
    run_command(train, monkeypatch, [*extra, "steps=8", "num_envs=2", "evaluation_episodes=2"])
    [folder] = (tmp_path / "runs").iterdir()
    assert (folder / "video.mp4").is_file() and (folder / "results.json").is_file()
