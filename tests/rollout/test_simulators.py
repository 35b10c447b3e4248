"""`pr2l sim`: an interpreter is built once, as its recipe says, and what does not work is said with the next step."""

import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from typer.main import get_command

from pr2l.cli import app
from pr2l.core import registry
from pr2l.core.errors import UnknownName, UserError
from pr2l.rollout import simulators as sims
from pr2l.rollout.simulators import Recipe, check, install, load, names

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
FAR = str(Path(__file__).parents[1] / "remote_world.py")


@pytest.fixture
def recipe(write_plugin, tmp_path, monkeypatch):
    """recipe(key=value, ...): a simulator named tiny, whose interpreter takes a package from beside the test."""
    monkeypatch.setenv("PR2L_SIMS", str(tmp_path / "sims"))
    monkeypatch.setattr(sims, "Console", lambda: Wide())
    wheel = tmp_path / "engine-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("engine.py", "POWER = 7\n")
        about = "Metadata-Version: 2.1\nName: engine\nVersion: 1.0\n"
        kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in (("METADATA", about), ("WHEEL", kind), ("RECORD", "")):
            file.writestr(f"engine-1.0.dist-info/{name}", text)

    def write(**changes):
        values = {"why": "a test", "module": FAR, "python": [VERSION], "steps": [["--no-index", str(wheel)]]}
        write_plugin("configs", "sims/tiny", yaml.safe_dump({**values, **changes}))

    write()
    return write


class Wide(sims.Console):
    """A console whose lines are not broken."""

    def __init__(self):
        super().__init__(width=400)


def lines(capsys):
    return capsys.readouterr().out.strip().splitlines()


def test_an_interpreter_is_built_once_and_anew_for_another_recipe(recipe, tmp_path, capsys):
    python = install("tiny")
    assert python == tmp_path / "sims" / "tiny" / "bin" / "python"
    assert "2 of 2: pip install --no-index" in capsys.readouterr().out
    [module] = python.parents[1].glob("lib/python*/site-packages/engine.py")
    module.write_text("POWER = 8\n")
    assert install("tiny") == python
    assert "tiny is installed in" in capsys.readouterr().out and module.read_text() == "POWER = 8\n"
    recipe(why="another reason", environment={"A": "B"})
    install("tiny")
    assert module.read_text() == "POWER = 8\n"

    recipe(steps=[])
    assert sims._state("tiny", load("tiny")) == "outdated"
    install("tiny")
    assert not module.exists()


def test_a_step_that_fails_shows_its_last_lines_and_is_not_taken_for_an_installation(recipe, tmp_path):
    recipe(steps=[["--no-index", "no-such-engine"]])
    for _ in range(2):
        with pytest.raises(UserError, match="(?s)No matching distribution found for no-such-engine.*tiny.log") as error:
            install("tiny")
        assert "run `pr2l sim install tiny` again" in str(error.value)
    assert sims._state("tiny", load("tiny")) == "no"


def test_what_cannot_be_built_here_says_why(recipe, tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="'tinny' is not among the simulators. Did you mean 'tiny'"):
        install("tinny")
    recipe(python=["2.2"])
    with pytest.raises(UserError, match="tiny needs Python 2.2, which is not on the PATH: .* --python"):
        install("tiny")
    with pytest.raises(UserError, match=f"tiny needs Python 2.2; {sys.executable} is {VERSION}"):
        install("tiny", Path(sys.executable))
    with pytest.raises(UserError, match="/absent is no Python interpreter"):
        install("tiny", Path("/absent"))
    recipe(conda=["engine=1.0"])
    monkeypatch.setattr(sims.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="tiny needs conda, which is not on the PATH: install Miniforge"):
        install("tiny")
    (tmp_path / "sims" / "tiny").mkdir(parents=True)
    (tmp_path / "sims" / "tiny" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a Python environment: move it away"):
        install("tiny")


def test_conda_makes_the_interpreter_where_the_recipe_wants_it(monkeypatch):
    monkeypatch.setattr(sims.shutil, "which", lambda name: "/opt/conda/bin/mamba" if name == "mamba" else None)
    made = sims._creation("habitat", load("habitat"), Path("/sims/habitat"), None)
    assert made[:5] == ["/opt/conda/bin/mamba", "create", "--yes", "--prefix", "/sims/habitat"]
    assert {"python=3.9", "habitat-sim=0.3.3", "headless"} <= set(made)


def test_every_link_is_shown_and_the_first_that_is_missing_ends_with_its_step(recipe, tmp_path, capsys):
    assert not check("tiny")
    assert "run `pr2l sim install tiny`" in lines(capsys)[-1]
    python = Path(sys.executable)
    assert not check("tiny", python)
    shown = lines(capsys)
    assert shown[-1] == "next step: build the engine"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown if line.startswith("│")]
    assert rows[1:] == [["numbers", "0 to 9", "yes"], ["engine", "none", "no"]]
    recipe(options={"engine": True})
    assert check("tiny", python)


def test_a_check_that_crashes_is_a_missing_link(recipe, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("import no_such_engine\n")
    recipe(module=str(tmp_path / "broken.py"))
    assert not check("tiny", Path(sys.executable))
    shown = "\n".join(lines(capsys))
    assert "No module named 'no_such_engine'" in shown
    assert "next step: fix this error" in shown.splitlines()[-1]


def test_where_all_works_a_frame_is_saved(recipe, tmp_path, capsys):
    recipe(options={"engine": True}, task="count")
    assert check("tiny", Path(sys.executable), tmp_path / "frames" / "one.png"), lines(capsys)
    assert (tmp_path / "frames" / "one.png").read_bytes().startswith(b"\x89PNG")
    recipe(options={"engine": True}, task="cuont")
    assert not check("tiny", Path(sys.executable), tmp_path / "two.png")
    assert "'cuont' is not a task of remote_world" in capsys.readouterr().out


@pytest.mark.parametrize("name", names())
def test_every_recipe_is_one(name):
    assert isinstance(load(name), Recipe)
    assert registry.source("configs", f"sims/{name}").exists()


def test_the_commands_exit_as_they_should(recipe, capsys):
    runner, command = CliRunner(), get_command(app)
    assert runner.invoke(command, ["sim", "list"]).exit_code == 0
    assert runner.invoke(command, ["sim", "check", "tiny"]).exit_code == 1
    assert isinstance(runner.invoke(command, ["sim", "install", "tinny"]).exception, UnknownName)
