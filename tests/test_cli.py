"""The command, judged by its exit codes and by what it prints."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import minari
import pytest
from processes import PATIENCE

from pr2l.cli import main
from pr2l.core import registry
from pr2l.profiling.speed import SECTIONS
from pr2l.training.runs import Run

ROOT = Path(__file__).parents[1]

FAULTY = '''"""An environment whose defect lies in a module that is not of environments/."""
from dataclasses import dataclass
from pydantic import BaseModel, ConfigDict

class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

TASKS = {"walk": None}

def make(task, options, *, split="train", labels=False):
    raise ValueError("a defect")
'''


class Done(NamedTuple):
    code: int | None  # exit code; None where an exception passed through, as Python shows with a traceback
    out: str
    err: str


@pytest.fixture
def pr2l(tmp_path, monkeypatch, capsys) -> Callable[..., Done]:
    """Runs `pr2l ...` in tmp_path, as the console script would but without a second's start of Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["pr2l", *arguments])
        try:
            main()
            code: int | None = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception as defect:
            return Done(None, "", repr(defect))
        return Done(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("kind", [*registry.KINDS, "tasks"])
def test_list_shows_every_name(examples, pr2l, kind: str) -> None:
    done = pr2l("list", kind)
    assert done.code == 0, done.err
    shown = {line.split()[0] for line in done.out.splitlines()}
    if kind == "tasks":
        assert {"doors/choose", "doom/fetch"} <= shown
    else:
        assert set(registry.names(kind)) <= shown


def test_the_help_of_speed_names_every_shape(pr2l) -> None:
    assert ", ".join(SECTIONS) in pr2l("speed", "--help").out


def test_list_says_what_a_thing_is(examples, pr2l) -> None:
    assert "where is the {target} door ?" in pr2l("list", "prompts").out
    assert "the door has the named colour" in pr2l("list", "tasks").out
    assert "Mean over the real tokens" in pr2l("list", "networks").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "encoder"], "'encoder' is not among the kinds. Did you mean 'encoders'?"),
        (["train"], "train needs a config"),
        (["train", "doors/choose/colums"], "Did you mean 'doors/choose/columns'?"),
        (["train", "doors/choose/columns", "stepps=5"], "Did you mean 'steps'?"),
        (["train", "seed=3"], "'seed=3' is not among the configs"),
        (["train", "--resume", "runs/none"], "runs/none"),
        (["check", "doors/choose/columns", "encoder_options.strip=5"], "Did you mean 'strips'?"),
        (["evaluate", "runs/none"], "runs/none"),
        (["collect", "doors", "chose"], "Did you mean 'choose'?"),
        (["collect", "doors", "choose", "sise=3"], "Did you mean 'size'?"),
        (["prompts", "score", "doom/fetch", "environment_options.room=30"], "Did you mean 'rooms'?"),
        (["trian"], "train"),
        (["collect", "doors"], "Missing argument"),
    ],
    ids=str,
)
def test_a_mistake_is_taught_without_a_traceback_and_exits_with_2(examples, pr2l, arguments, message) -> None:
    done = pr2l(*arguments)
    assert message in done.err
    assert done.code == 2


def test_the_same_words_from_an_environment_are_shown_and_a_defect_elsewhere_keeps_its_traceback(
    write_plugin, pr2l
) -> None:
    """A ValueError of environments/ teaches, as doom's does; one of any other module is a defect."""
    taught = pr2l("collect", "doom", "hunt", "approach_reward=0.1")
    assert taught.code == 2 and "approach_reward shapes the task 'fetch' only" in taught.err
    write_plugin("environments", "faulty", FAULTY)
    defect = pr2l("collect", "faulty", "walk")
    assert defect == Done(None, "", "ValueError('a defect')")


def test_the_exit_code_leaves_the_process() -> None:
    done = subprocess.run([sys.executable, "-m", "pr2l.cli", "list", "nothing"], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2 and done.stdout == b""


def test_version_and_help(pr2l) -> None:
    assert pr2l("--version").out.strip() == "0.1.0"
    shown = pr2l("--help").out
    assert all(word in shown for word in ("train", "evaluate", "collect", "pretrain", "list", "check"))


def test_listing_imports_no_heavy_package() -> None:
    code = "import sys, pr2l.cli; print({'torch', 'transformers', 'vizdoom'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.strip() == "set()"


def test_collect_writes_episodes_that_minari_reads(examples, pr2l, tmp_path) -> None:
    done = pr2l("collect", "doors", "choose", "size=8", "--policy", "oracle", "--episodes", "3", "--output", "a/b")
    assert done.code == 0, done.err
    dataset = minari.MinariDataset(tmp_path / "a" / "b" / "data")
    assert [episode.rewards.tolist() for episode in dataset] == [[1.0]] * 3


def interrupted(folder: Path, ready: Callable[[], bool], *arguments: str) -> int:
    """Starts `pr2l ...` in a folder, presses Ctrl-C once it is ready, and returns its exit code."""
    command = [sys.executable, "-m", "pr2l.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not ready() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            return process.wait(timeout=PATIENCE)
        finally:
            process.kill()  # one that did not take the signal would go on for ever


def test_ctrl_c_keeps_whole_episodes_and_exits_with_130(examples, tmp_path) -> None:
    data = tmp_path / "long" / "data" / "main_data.hdf5"
    arguments = ("collect", "doors", "choose", "--episodes", "1000000", "--output", "long")
    code = interrupted(tmp_path, lambda: data.exists() and data.stat().st_size > 100_000, *arguments)
    assert code == 130
    assert minari.MinariDataset(data.parent).total_episodes >= 1


def test_ctrl_c_saves_a_run_that_goes_on_under_its_own_config(examples, pr2l, tmp_path) -> None:
    def trained() -> bool:
        return any(int(path.name) > 0 for path in tmp_path.glob("runs/*/checkpoints/0*"))

    overrides = ("steps=10000000", "checkpoint_every=1024", "evaluation_episodes=2", "seed=5")
    assert interrupted(tmp_path, trained, "train", "doors/choose/columns", *overrides) == 130
    [run] = (tmp_path / "runs").iterdir()
    saved = Run.load(run).latest().step
    done = pr2l("train", "--resume", str(run), f"steps={saved + 1024}")
    assert done.code == 0, done.err
    assert Run.load(run).latest().step == saved + 1024
    assert Run.load(run).config.seed == 5
