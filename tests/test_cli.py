"""The command, judged by its exit codes and by what it prints."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import imageio.v2 as imageio
import minari
import pytest
from processes import TIMEOUT

from pr2l.cli import OPTIONS_OF, main
from pr2l.core import registry
from pr2l.core.config import OTHER_SCHEMAS
from pr2l.core.console import Console
from pr2l.core.options import VLM_OPTIONS, read_options
from pr2l.environments.doom import Defaults, make
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
        prefixes = tuple(prefix for prefix, schema in OTHER_SCHEMAS.items() if schema.short)
        names = [name.partition("/")[2] if name.startswith(prefixes) else name for name in registry.names(kind)]
        assert set(names) <= shown


@pytest.fixture
def without_torch(monkeypatch) -> None:
    """torch cannot be imported, as a sign that a command did not even try."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("pr2l.") and name.count(".") > 1]:
        if not name.startswith(("pr2l.core", "pr2l.environments")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "doom/fetch/promted"], "Did you mean 'doom/fetch/prompted'?"),
        (["train", "doom/fetch/prompted", "sede=1"], "Did you mean 'seed'?"),
        (["train", "doom/fetch/prompted", "steps=x"], "steps = 'x'"),
        (["train", "doom/fetch/prompted", "encoder=promted"], "Did you mean 'prompted'?"),
        (["train", "doom/fetch/prompted", "algorithm_options.gama=1"], "Did you mean 'gamma'?"),
        (["train", "doom/fetch/prompted", "encoder_options.segmens=[]"], "pr2l options encoder prompted"),
        (["train", "doom/fetch/prompted", "vlm_options.new_token=1"], "Did you mean 'new_tokens'?"),
        (["train", "doom/fetch/prompted", "network_options.widht=1"], "Did you mean 'width'?"),
        (["train", "doom/fetch/prompted", "task=fech"], "Did you mean 'fetch'?"),
        (["train", "doom/fetch/prompted", "prompt=wher"], "Did you mean 'doom/fetch/where'?"),
        (["train", "--resume", "runs/none"], "not a run folder"),
        (["evaluate", "runs/none"], "not a run folder"),
        (["compare", "runs/none"], "not a run folder"),
        (["collect", "dom", "fetch"], "Did you mean 'doom'?"),
        (["collect", "doom", "fech"], "Did you mean 'fetch'?"),
        (["collect", "doom", "fetch", "romms=3"], "Did you mean 'rooms'?"),
        (["embed", "data/none", "--config", "doom/fetch/promted"], "Did you mean 'doom/fetch/prompted'?"),
        (["pretrain", "pretrain/tny"], "Did you mean 'pretrain/tiny'?"),
        (["prompts", "score", "doom/fech"], "Did you mean 'fetch'?"),
        (["prompts", "search", "dom/fetch"], "Did you mean 'doom'?"),
        (["bench", "run", "doom-mni"], "Did you mean 'doom-mini'?"),
        (["bench", "report", "doom-mni"], "Did you mean 'doom-mini'?"),
        (["ask", "none.png", "where is it ?"], "no image file 'none.png'"),
        (["train", "none.yaml"], "There is no file 'none.yaml' either"),
        (["check", "none.yaml"], "There is no file 'none.yaml' either"),
        (["check", "doom/fetch/prompted", "prompt=none.yaml"], "There is no file 'none.yaml' either"),
        (["check", "doom/fetch/prompted", "environment=./none.py:None"], "Write module:Class"),
        (["embed", "data/none", "--config", "none.yaml"], "There is no file 'none.yaml' either"),
        (["pretrain", "none.yaml"], "There is no file 'none.yaml' either"),
        (["prompts", "search", "doom/fetch", "--space", "none.yaml"], "There is no file 'none.yaml' either"),
        (["prompts", "search", "doom/fetch", "--space", "search/dom"], "Did you mean 'search/doom'?"),
        (["bench", "run", "none.yaml"], "There is no file 'none.yaml' either"),
    ],
    ids=" ".join,
)
def test_a_misspelled_name_is_found_before_torch_loads(without_torch, pr2l, arguments, message) -> None:
    result = pr2l(*arguments)
    assert message in result.err and result.code == 2


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("benchmarks/doom-mini", "pr2l bench run doom-mini"),
        ("configs/benchmarks/doom-mini.yaml", "pr2l bench run doom-mini"),
        ("pretrain/tiny", "pr2l pretrain pretrain/tiny"),
        ("search/doom", "pr2l prompts search TASK --space search/doom"),
        ("sims/habitat", "pr2l sim install habitat"),
    ],
)
def test_a_config_that_is_not_of_a_run_names_the_command_that_takes_it(pr2l, config, command) -> None:
    result = pr2l("check", config)
    assert result.code == 2 and command in result.err and "unknown key" not in result.err


def test_an_unknown_name_lists_the_five_nearest(pr2l) -> None:
    error = pr2l("check", "doom/fetch/promted").err
    assert error.count("doom/") <= 2 + 5 + 1 and "doom/fetch/prompted, " in error


def test_the_lists_of_vlms_and_configs_are_in_groups(pr2l) -> None:
    vlms = pr2l("list", "vlms").out
    assert 0 < vlms.index("\ntiny ") < vlms.index("family") < vlms.index("\nflorence2 ")
    configs = pr2l("list", "configs").out
    names = ("smoke ", "doom-mini ", "pretrain/tiny", "search/", "minedojo")
    places = [configs.index(f"\n{name}") for name in names]
    assert places == sorted(places)
    assert "pr2l bench run NAME" in configs


OF_KINDS = [(kind, name) for kind, kinds in OPTIONS_OF.items() for name in registry.names(kinds) if kind != "vlm"]


@pytest.mark.parametrize(("kind", "name"), [*OF_KINDS, ("vlm", "tiny")])
def test_the_options_of_every_plugin_are_read_from_its_source(pr2l, kind, name) -> None:
    """Against the class itself: the same names in the same order, and the same defaults."""
    kinds = OPTIONS_OF[kind]
    rows = read_options(kinds, name)
    fields = (import_module(VLM_OPTIONS) if kind == "vlm" else registry.load(kinds, name)).Defaults.model_fields
    assert [row.name for row in rows] == list(fields)
    for row in rows:
        default = fields[row.name].get_default(call_default_factory=True)
        with contextlib.suppress(ValueError):  # not a literal, such as a factory's
            assert row.default is None or ast.literal_eval(row.default) == default


def test_options_are_shown_as_a_config_writes_them_with_their_reasons(pr2l) -> None:
    shown = pr2l("options", "algorithm", "ppo").out
    assert re.search(r"n_steps .*64 .*Int .*per environment", shown)
    assert re.search(r"target_kl .*null", shown)
    assert re.search(r"schedule .*constant .*Literal\['constant', 'linear'\]", shown)
    assert re.search(r"environment .*\(required\)", pr2l("options").out)
    assert "Did you mean 'encoder'?" in pr2l("options", "encodr", "x").err
    assert "Did you mean 'prompted'?" in pr2l("options", "encoder", "promted").err
    assert "pr2l list encoders" in pr2l("options", "encoder").err


def test_an_old_key_gives_one_line_of_warning(examples, pr2l) -> None:
    result = pr2l("check", "doors/choose/columns", "remember=1", "encoder=colums")
    assert result.err.splitlines()[0].startswith("warning: ") and "'cache_frames'" in result.err.splitlines()[0]
    assert "core/config.py" not in result.err


def test_a_question_about_an_image_is_answered_and_unknown_words_are_named(pr2l, tmp_path) -> None:
    room = make("fetch", Defaults(), split="evaluation")
    with contextlib.closing(room):
        observation, _ = room.reset(seed=0)
    imageio.imwrite(tmp_path / "room.png", observation["frame"])
    known = pr2l("ask", "room.png", "where is the medikit ?")
    assert known.code == 0 and len(known.out.splitlines()) == 1 and known.err == ""
    unknown = pr2l("ask", "room.png", "where is the zebra ?", "--tokens", "3")
    assert unknown.out.strip() and "tiny does not know: zebra" in unknown.err


def test_the_help_of_speed_names_every_shape(pr2l) -> None:
    assert ", ".join(SECTIONS) in pr2l("speed", "--help").out


def test_list_says_what_a_thing_is(examples, pr2l) -> None:
    assert "where is the {target} door ?" in pr2l("list", "prompts").out
    assert "the door has the named colour" in pr2l("list", "tasks").out
    assert "perceptron over the mean" in pr2l("list", "networks").out


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


def test_python_m_pr2l_is_the_command_and_the_exit_code_leaves_the_process() -> None:
    done = subprocess.run([sys.executable, "-m", "pr2l", "list", "nothing"], capture_output=True, timeout=TIMEOUT)
    assert done.returncode == 2 and done.stdout == b""


def test_what_is_printed_to_be_pasted_stays_on_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Console().print("continue with pr2l train --resume runs/doom-fetch-prompted-where-seed0-20260101-000000")
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("file", sorted((ROOT / "pr2l").rglob("*.py")), ids=lambda file: file.name)
def test_every_program_prints_with_the_console_that_does_not_wrap(file: Path) -> None:
    assert file.name == "console.py" or "rich.console import Console" not in file.read_text(encoding="utf-8")


def test_help_shows_the_defaults_that_are_computed(pr2l) -> None:
    """rich takes "[default: ...]" inside a help text for a style, and drops it."""
    assert "the run's config" in pr2l("evaluate", "--help").out
    assert "one per core" in pr2l("bench", "run", "--help").out
    assert "[default:" not in (ROOT / "pr2l" / "cli.py").read_text(encoding="utf-8")


def test_version_and_help(pr2l) -> None:
    assert pr2l("--version").out.strip() == "0.1.0"
    shown = pr2l("--help").out
    assert all(word in shown for word in ("train", "evaluate", "collect", "pretrain", "list", "check"))


def test_listing_imports_no_heavy_package() -> None:
    code = "import sys, pr2l.cli; print({'torch', 'transformers', 'vizdoom'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
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
            deadline = time.monotonic() + TIMEOUT
            while not ready() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            return process.wait(timeout=TIMEOUT)
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
