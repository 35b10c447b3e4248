"""docs/benchmarks.md leads to what it says: its steps with the suite `smoke`, one after the other, on real Doom."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from pr2l.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
QUICK = [command for command in COMMANDS if "smoke" in command or command.endswith("--results runs/bench")]


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [command.split()[2] for command in QUICK] == ["run", "run", "report", "site"]
    said = {}
    for command in QUICK:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code, command
        said[command] = capsys.readouterr().out
    assert "runs: 4; core-hours" in said["pr2l bench run smoke --plan"]
    assert len(list(Path("runs/bench/smoke").glob("*.json"))) == 4
    assert "| oracle |" in Path("runs/bench/smoke/report/report.md").read_text()
    page = Path("runs/site/smoke-doom-basic.html").read_text()
    assert "pr2l train doom/hunt/oracle task=basic" in page
