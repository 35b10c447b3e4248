"""Exit codes and output of the command `pr2l`."""

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
import numpy as np
import pytest
from processes import TIMEOUT
from small_vlms import CASE, folder

from pr2l.cli import main
from pr2l.cli.tables import OPTIONS_OF
from pr2l.core import registry
from pr2l.core.config import OTHER_SCHEMAS
from pr2l.core.console import Console
from pr2l.core.messages import from_text
from pr2l.core.options import VLM_OPTIONS, read_options
from pr2l.data.parts import count_episodes, part_files
from pr2l.environments.doom import Defaults, make
from pr2l.profiling.speed import SECTIONS
from pr2l.training.runs import Run
from pr2l.vlms.loading import load_vlm

ROOT = Path(__file__).parents[1]

BROKEN_ENVIRONMENT = '''"""An environment plug-in that raises a ValueError, in a module outside environments/."""
from dataclasses import dataclass
from pydantic import BaseModel, ConfigDict

class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

TASKS = {"walk": None}

def make(task, options, *, split="train", labels=False):
    raise ValueError("a bug")
'''


class Result(NamedTuple):
    exit_code: int | None  # None = an exception that Python would show with a traceback
    stdout: str
    stderr: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Callable[..., Result]:
    """Run `pr2l ...` in tmp_path, in this process, which saves the imports of a new one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["pr2l", *arguments])
        try:
            main()
            exit_code: int | None = 0
        except SystemExit as error:
            exit_code = int(error.code or 0)
        except Exception as error:
            return Result(None, "", repr(error))
        return Result(exit_code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("kind", [*registry.KINDS, "tasks"])
def test_list_prints_every_name(examples, cli, kind: str) -> None:
    result = cli("list", kind)
    assert result.exit_code == 0, result.stderr
    first_words = {line.split()[0] for line in result.stdout.splitlines()}
    if kind == "tasks":
        assert {"doors/choose", "doom/fetch"} <= first_words
    else:
        prefixes = tuple(prefix for prefix, schema in OTHER_SCHEMAS.items() if schema.short)
        names = [name.partition("/")[2] if name.startswith(prefixes) else name for name in registry.names(kind)]
        assert set(names) <= first_words


@pytest.fixture
def without_torch(monkeypatch) -> None:
    """Make `import torch` fail."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("pr2l.") and name.count(".") > 1]:
        if not name.startswith(("pr2l.core", "pr2l.environments")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


MISSPELLED_NAMES = [
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
    (["vlm", "check", "tiny", "dtyp=int8"], "Did you mean 'dtype'?"),
    (["vlm", "check", "tiny", "vlm_options.dtyp=int8"], "Did you mean 'dtype'?"),
    (["vlm", "check", "tiny", "--batches", "0"], "--batches 0: write batch sizes such as 1,4,16, or none"),
    (["ask", "none.png", "where is it ?"], "no image file 'none.png'"),
    (["ask", "room.png"], "ask needs a question after the image"),
    (["train", "none.yaml"], "There is no file 'none.yaml' either"),
    (["check", "none.yaml"], "There is no file 'none.yaml' either"),
    (["check", "doom/fetch/prompted", "prompt=none.yaml"], "There is no file 'none.yaml' either"),
    (["check", "doom/fetch/prompted", "environment=./none.py:None"], "Write module:Class"),
    (["embed", "data/none", "--config", "none.yaml"], "There is no file 'none.yaml' either"),
    (["pretrain", "none.yaml"], "There is no file 'none.yaml' either"),
    (["prompts", "search", "doom/fetch", "--space", "none.yaml"], "There is no file 'none.yaml' either"),
    (["prompts", "search", "doom/fetch", "--space", "search/dom"], "Did you mean 'search/doom'?"),
    (["bench", "run", "none.yaml"], "There is no file 'none.yaml' either"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISSPELLED_NAMES, ids=[" ".join(arguments) for arguments, _ in MISSPELLED_NAMES]
)
def test_misspelled_name_is_reported_without_importing_torch(without_torch, cli, arguments, message) -> None:
    result = cli(*arguments)
    assert message in result.stderr and result.exit_code == 2


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
def test_check_of_another_kind_of_config_names_the_command_for_it(cli, config, command) -> None:
    result = cli("check", config)
    assert result.exit_code == 2 and command in result.stderr and "unknown key" not in result.stderr


def test_unknown_name_lists_at_most_five_similar_names(cli) -> None:
    error = cli("check", "doom/fetch/promted").stderr
    assert error.count("doom/") <= 2 + 5 + 1 and "doom/fetch/prompted, " in error


def test_list_groups_vlms_and_configs(cli) -> None:
    vlms = cli("list", "vlms").stdout
    assert 0 < vlms.index("\ntiny ") < vlms.index("family") < vlms.index("\nflorence2 ")
    configs = cli("list", "configs").stdout
    names = ("smoke ", "doom-mini ", "pretrain/tiny", "search/", "minedojo")
    positions = [configs.index(f"\n{name}") for name in names]
    assert positions == sorted(positions)
    assert "pr2l bench run NAME" in configs


PLUGINS = [(kind, name) for kind, kinds in OPTIONS_OF.items() for name in registry.names(kinds) if kind != "vlm"]


@pytest.mark.parametrize(("kind", "name"), [*PLUGINS, ("vlm", "tiny")])
def test_options_read_from_source_equal_the_fields_of_defaults(kind, name) -> None:
    """Compares names, their order and default values."""
    kinds = OPTIONS_OF[kind]
    rows = read_options(kinds, name)
    fields = (import_module(VLM_OPTIONS) if kind == "vlm" else registry.load(kinds, name)).Defaults.model_fields
    assert [row.name for row in rows] == list(fields)
    for row in rows:
        default = fields[row.name].get_default(call_default_factory=True)
        with contextlib.suppress(ValueError):  # the default is an expression
            assert row.default is None or ast.literal_eval(row.default) == default


def test_options_prints_defaults_as_yaml_with_comments(cli) -> None:
    output = cli("options", "algorithm", "ppo").stdout
    assert re.search(r"n_steps .*64 .*int > 0 .*per environment", output)
    assert re.search(r"target_kl .*null", output)
    assert re.search(r"schedule .*constant .*constant \| linear", output)
    assert re.search(r"environment .*\(required\)", cli("options").stdout)
    assert "Did you mean 'encoder'?" in cli("options", "encodr", "x").stderr
    assert "Did you mean 'prompted'?" in cli("options", "encoder", "promted").stderr
    assert "pr2l list encoders" in cli("options", "encoder").stderr


def test_renamed_key_gives_a_one_line_warning(examples, cli) -> None:
    result = cli("check", "doors/choose/columns", "remember=1", "encoder=colums")
    assert result.stderr.splitlines()[0].startswith("warning: ") and "'cache_frames'" in result.stderr.splitlines()[0]
    assert "core/config.py" not in result.stderr


def test_ask_answers_and_warns_about_words_the_vlm_does_not_know(cli, tmp_path) -> None:
    with contextlib.closing(make("fetch", Defaults(), split="evaluation")) as env:
        observation, _ = env.reset(seed=0)
    imageio.imwrite(tmp_path / "room.png", observation["frame"])
    medikit = cli("ask", "room.png", "where is the medikit ?")
    assert medikit.exit_code == 0 and len(medikit.stdout.splitlines()) == 1 and medikit.stderr == ""
    zebra = cli("ask", "room.png", "where is the zebra ?", "--tokens", "3")
    assert zebra.stdout.strip() and "tiny does not know: zebra" in zebra.stderr


def test_ask_about_two_images_gives_the_answer_to_the_images_in_order(cli, tmp_path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        imageio.imwrite(tmp_path / f"{number}.png", picture)
    llava = str(folder(CASE["llava"]))
    [answer] = load_vlm(llava).answer([list(pictures)], [from_text("is it near", images=2)], 4)
    assert cli("ask", "0.png", "1.png", "is it near", "--vlm", llava, "--tokens", "4").stdout.strip() == answer
    tiny = cli("ask", "0.png", "1.png", "where is the medikit ?")
    assert tiny.exit_code == 2 and "takes one image and then one text" in tiny.stderr


def test_vlm_check_writes_a_row_that_vlm_submit_publishes(cli, tmp_path) -> None:
    result = cli("vlm", "check", "tiny", "new_tokens=2", "vlm_options.generation=none", "--batches", "none")
    assert result.exit_code == 0, result.stderr
    [file] = (tmp_path / "runs" / "vlms").iterdir()
    assert "exact: differences up to" in result.stdout and f"pr2l vlm submit runs/vlms/{file.name}" in result.stdout
    submitted = cli("vlm", "submit", str(file))
    assert submitted.stdout.splitlines() == [f"docs/results/vlms/{file.name}", "docs/results/vlms/README.md"]
    assert "[tiny](" in (tmp_path / "docs" / "results" / "vlms" / "README.md").read_text()


def test_help_of_speed_names_every_model(cli) -> None:
    assert ", ".join(SECTIONS) in cli("speed", "--help").stdout


def test_list_prints_descriptions(examples, cli) -> None:
    assert "where is the {target} door ?" in cli("list", "prompts").stdout
    assert "the door has the named colour" in cli("list", "tasks").stdout
    assert "perceptron over the mean" in cli("list", "networks").stdout


USER_ERRORS = [
    (["list", "encoder"], "'encoder' is not among the kinds. Did you mean 'encoders'?"),
    (["train"], "train needs a config"),
    (["speed", "tinny"], "Did you mean 'tiny'?"),
    (["speed", "--small"], "add device, e.g. `pr2l speed --device cpu --small`"),
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
]


@pytest.mark.parametrize(
    ("arguments", "message"), USER_ERRORS, ids=[" ".join(arguments) for arguments, _ in USER_ERRORS]
)
def test_user_error_prints_a_hint_and_exits_with_2(examples, cli, arguments, message) -> None:
    result = cli(*arguments)
    assert message in result.stderr
    assert result.exit_code == 2


def test_value_error_is_a_user_error_in_environments_and_a_bug_elsewhere(write_plugin, cli) -> None:
    user_error = cli("collect", "doom", "hunt", "approach_reward=0.1")
    assert user_error.exit_code == 2 and "approach_reward is an option of the task 'fetch' only" in user_error.stderr
    write_plugin("environments", "broken", BROKEN_ENVIRONMENT)
    bug = cli("collect", "broken", "walk")
    assert bug == Result(None, "", "ValueError('a bug')")


def test_python_m_pr2l_returns_the_exit_code() -> None:
    process = subprocess.run([sys.executable, "-m", "pr2l", "list", "nothing"], capture_output=True, timeout=TIMEOUT)
    assert process.returncode == 2 and process.stdout == b""


def test_console_does_not_wrap_a_long_line(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Console().print("continue with pr2l train --resume runs/doom-fetch-prompted-where-seed0-20260101-000000")
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("file", sorted((ROOT / "pr2l").rglob("*.py")), ids=lambda file: file.name)
def test_only_console_py_imports_console_from_rich(file: Path) -> None:
    assert file.name == "console.py" or "rich.console import Console" not in file.read_text(encoding="utf-8")


def test_help_shows_computed_defaults(cli) -> None:
    """A help text must not contain "[default: ...]", because rich drops it as a style."""
    assert "the run's config" in cli("evaluate", "--help").stdout
    assert "one per core" in cli("bench", "run", "--help").stdout
    assert "[default:" not in (ROOT / "pr2l" / "cli" / "commands.py").read_text(encoding="utf-8")


def test_version_and_help(cli) -> None:
    assert cli("--version").stdout.strip() == "0.1.0"
    output = cli("--help").stdout
    assert all(word in output for word in ("train", "evaluate", "collect", "pretrain", "list", "check"))


def test_import_of_cli_loads_no_heavy_package() -> None:
    code = "import sys, pr2l.cli; print({'torch', 'transformers', 'vizdoom'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert process.stdout.strip() == "set()"


def test_collect_writes_episodes_that_minari_reads(examples, cli, tmp_path) -> None:
    result = cli("collect", "doors", "choose", "size=8", "--policy", "oracle", "--episodes", "3", "--output", "a/b")
    assert result.exit_code == 0, result.stderr
    dataset = minari.MinariDataset(tmp_path / "a" / "b" / "data")
    assert [episode.rewards.tolist() for episode in dataset] == [[1.0]] * 3


def test_ctrl_c_during_collect_keeps_complete_episodes_and_exits_with_130(examples, tmp_path) -> None:
    """In a process of its own, because the exit code is the operating system's."""
    arguments = ("collect", "doors", "choose", "--episodes", "1000000", "--output", "long")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pr2l", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not part_files(tmp_path / "long"):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=TIMEOUT) == 130
        finally:
            process.kill()
    assert count_episodes(tmp_path / "long") >= 1


def test_train_interrupted_by_ctrl_c_resumes_with_its_own_config(examples, cli, tmp_path, monkeypatch) -> None:
    """The signal arrives in the second rollout, so the checkpoint is that of the end of the first one."""
    doors, steps = registry.load("environments", "doors").Doors, []
    original_step = doors.step

    def step(env, action):
        steps.append(action)
        if len(steps) == 200:
            signal.raise_signal(signal.SIGINT)
        return original_step(env, action)

    monkeypatch.setattr(doors, "step", step)
    rollouts = ("algorithm_options.n_steps=32", "algorithm_options.batch_size=32")  # 128 steps in 4 environments
    overrides = ("steps=10000000", "checkpoint_every=10000000", "evaluation_episodes=2", "seed=5")
    assert cli("train", "doors/choose/columns", *overrides, *rollouts).exit_code == 130
    [run] = (tmp_path / "runs").iterdir()
    assert Run.load(run).latest().step == 128
    resumed = cli("train", "--resume", str(run), "steps=256")
    assert resumed.exit_code == 0, resumed.stderr
    assert Run.load(run).latest().step == 256
    assert Run.load(run).config.seed == 5
