"""The commands that pages of the documentation show, and how a test types them."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pr2l.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def commands(page: Path) -> list[str]:
    """Every `pr2l` line of a page's console blocks, without its comment."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines())
    return [line.split("#")[0].strip() for line in lines if line.startswith("pr2l ")]


def run(command: str, monkeypatch: pytest.MonkeyPatch, more: Sequence[str] = ()) -> None:
    """Runs a command in this process, with more words after its own; it has to succeed."""
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *more])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code, command


def follow(
    commands: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: Callable[[str], Sequence[str]] = lambda command: (),
) -> dict[str, str]:
    """Runs commands one after the other, each with `more` words; what each printed."""
    printed = {}
    for command in commands:
        run(command, monkeypatch, more(command))
        printed[command] = capsys.readouterr().out
    return printed


def python_blocks(page: Path) -> list[str]:
    """The Python code blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
