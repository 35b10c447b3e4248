"""`pr2l sim`: installation of simulators from recipes, and checks that print the next step."""

import re
import sys
import threading
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from typer.main import get_command

from pr2l.cli import app
from pr2l.core import registry
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.lock import locked
from pr2l.rollout import simulators as sims
from pr2l.rollout.simulators import Recipe, check, install, load, names

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
REMOTE_WORLD = str(Path(__file__).parents[1] / "remote_world.py")


@pytest.fixture
def recipe(write_plugin, tmp_path, monkeypatch):
    """recipe(key=value, ...) changes the recipe of the simulator `tiny`, which installs a local wheel."""
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path / "sims"))
    monkeypatch.setattr(sims, "Console", lambda: WideConsole())
    wheel = tmp_path / "engine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("engine.py", "POWER = 7\n")
        about = "Metadata-Version: 2.1\nName: engine\nVersion: 1.0\n"
        kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in (("METADATA", about), ("WHEEL", kind), ("RECORD", "")):
            file.writestr(f"engine-1.0.dist-info/{name}", text)

    def write(**changes):
        values = {"why": "a test", "module": REMOTE_WORLD, "python": [VERSION], "steps": [["--no-index", str(wheel)]]}
        write_plugin("configs", "sims/tiny", yaml.safe_dump({**values, **changes}))

    write()
    return write


@pytest.fixture
def without_pip(tmp_path, monkeypatch):
    """Create virtual environments without pip, which takes seconds; return the variables with which they use ours."""
    creation = sims._creation
    monkeypatch.setattr(sims, "_creation", lambda *arguments: [*creation(*arguments), "--without-pip"])
    (tmp_path / "packages").mkdir()
    # Importing pip here would make a later import of setuptools fail.
    (tmp_path / "packages" / "pip").symlink_to(Path(find_spec("pip").origin).parent)
    return {"PYTHONPATH": str(tmp_path / "packages")}


class WideConsole(sims.Console):
    """Console that does not wrap lines."""

    def __init__(self):
        super().__init__(width=400)


@pytest.mark.parametrize("name", [name for name in registry.names("configs") if name.startswith("sims/")])
def test_recipe_names_a_remote_module(name):
    module = load(name.removeprefix("sims/")).module
    file = (registry.source("configs", name).parents[2] / module.replace(".", "/")).with_suffix(".py")
    source = file.read_text()
    assert all(re.search(rf"^(def|from .* import) .*\b{function}\b", source, re.M) for function in ("make", "checks"))


def lines(capsys):
    return capsys.readouterr().out.strip().splitlines()


def test_install_creates_an_interpreter(recipe, tmp_path, capsys):
    python = install("tiny")
    assert python == tmp_path / "sims" / "tiny" / "bin" / "python"
    assert "2 of 2: pip install --no-index" in capsys.readouterr().out
    assert [*python.parents[1].glob("lib/python*/site-packages/engine.py")]


def test_install_reinstalls_only_if_the_steps_change(recipe, without_pip, capsys):
    recipe(environment=without_pip)
    python = install("tiny")
    [module] = python.parents[1].glob("lib/python*/site-packages/engine.py")
    module.write_text("POWER = 8\n")
    capsys.readouterr()
    assert install("tiny") == python
    assert "tiny is installed in" in capsys.readouterr().out and module.read_text() == "POWER = 8\n"
    recipe(why="another reason", environment={"A": "B"})
    install("tiny")
    assert module.read_text() == "POWER = 8\n"
    recipe(steps=[])
    assert sims._state("tiny", load("tiny")) == "outdated"
    install("tiny")
    assert not module.exists()


def test_failed_step_shows_its_output_and_leaves_the_simulator_uninstalled(recipe, without_pip):
    recipe(steps=[["--no-index", "no-such-engine"]], environment=without_pip)
    for _ in range(2):
        with pytest.raises(UserError, match="(?s)No matching distribution.*tiny.log") as error:
            install("tiny")
        assert "run `pr2l sim install tiny` again" in str(error.value)
    assert sims._state("tiny", load("tiny")) == "no"


def test_install_raises_for_missing_requirements(recipe, tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="'tinny'.*Did you mean 'tiny'"):
        install("tinny")
    recipe(python=["2.2"])
    with pytest.raises(UserError, match="Python 2.2, which is not on the PATH.*--python"):
        install("tiny")
    with pytest.raises(UserError, match=f"Python 2.2; {sys.executable} is {VERSION}"):
        install("tiny", Path(sys.executable))
    with pytest.raises(UserError, match="/absent is not a Python interpreter"):
        install("tiny", Path("/absent"))
    recipe(conda=["engine=1.0"])
    monkeypatch.setattr(sims.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="conda, which is not on the PATH: install Miniforge"):
        install("tiny")
    (tmp_path / "sims" / "tiny").mkdir(parents=True)
    (tmp_path / "sims" / "tiny" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a Python environment; move it away"):
        install("tiny")


def test_conda_command_has_prefix_python_and_packages(monkeypatch):
    monkeypatch.setattr(sims.shutil, "which", lambda name: "/opt/conda/bin/mamba" if name == "mamba" else None)
    command = sims._creation("habitat", load("habitat"), Path("/sims/habitat"), None)
    assert command[:5] == ["/opt/conda/bin/mamba", "create", "--yes", "--prefix", "/sims/habitat"]
    assert {"python=3.9", "habitat-sim=0.3.3", "headless"} <= set(command)


def test_check_shows_all_parts_and_the_next_step_of_the_first_missing_one(recipe, tmp_path, capsys):
    assert not check("tiny")
    assert "run `pr2l sim install tiny`" in lines(capsys)[-1]
    python = Path(sys.executable)
    assert not check("tiny", python)
    printed = lines(capsys)
    assert printed[-1] == "next step: build the engine"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed if line.startswith("│")]
    assert rows[1:] == [["numbers", "0 to 9", "yes"], ["engine", "none", "no"]]
    recipe(options={"engine": True})
    assert check("tiny", python)


def test_crashed_check_counts_as_missing_part(recipe, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("import no_such_engine\n")
    recipe(module=str(tmp_path / "broken.py"))
    assert not check("tiny", Path(sys.executable))
    printed = "\n".join(lines(capsys))
    assert "No module named 'no_such_engine'" in printed
    assert "next step: fix this error" in printed.splitlines()[-1]


def test_check_saves_a_frame_if_all_parts_work(recipe, tmp_path, capsys):
    recipe(options={"engine": True}, task="count")
    assert check("tiny", Path(sys.executable), tmp_path / "frames" / "one.png"), lines(capsys)
    assert (tmp_path / "frames" / "one.png").read_bytes().startswith(b"\x89PNG")
    recipe(options={"engine": True}, task="cuont")
    assert not check("tiny", Path(sys.executable), tmp_path / "two.png")
    assert "'cuont' is not a task of remote_world" in capsys.readouterr().out


@pytest.mark.parametrize("name", names())
def test_recipes_are_valid(name):
    assert isinstance(load(name), Recipe)
    assert registry.source("configs", f"sims/{name}").exists()


def test_exit_codes_of_commands(recipe, capsys):
    runner, command = CliRunner(), get_command(app)
    assert runner.invoke(command, ["sim", "list"]).exit_code == 0
    assert runner.invoke(command, ["sim", "check", "tiny"]).exit_code == 1
    assert isinstance(runner.invoke(command, ["sim", "install", "tinny"]).exception, UnknownName)


def test_two_installations_of_a_simulator_follow_each_other(recipe, without_pip, tmp_path, capsys):
    recipe(environment=without_pip)
    thread = threading.Thread(target=install, args=("tiny",))
    with locked(tmp_path / "sims" / ".lock-tiny"):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not (tmp_path / "sims" / "tiny").exists()
        assert ".lock-tiny is in use by process" in capsys.readouterr().out
    thread.join()
    assert sims._state("tiny", load("tiny")) == "yes"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest'])
def test_damaged_stamp_of_an_installation_is_outdated(recipe, tmp_path, text):
    (tmp_path / "sims" / "tiny").mkdir(parents=True)
    (tmp_path / "sims" / "tiny" / sims.STAMP).write_text(text)
    assert sims._state("tiny", load("tiny")) == "outdated"
