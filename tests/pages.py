"""Functions that read commands and code from pages of the documentation, and run the commands."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pr2l.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def commands(page: Path) -> list[str]:
    """Return the `pr2l` commands in the console blocks of a page, without comments."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = (line for block in blocks for line in block.splitlines())
    return [line.split("#")[0].strip() for line in lines if line.startswith("pr2l ")]


def run_command(command: str, monkeypatch: pytest.MonkeyPatch, extra_arguments: Sequence[str] = ()) -> None:
    """Run a command in this process and check that it succeeds.

    Args:
        command: A line such as `pr2l list prompts`.
        monkeypatch: Sets `sys.argv`.
        extra_arguments: Arguments appended to those of the command.
    """
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), *extra_arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert not error.value.code, command


def run_commands(
    commands: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    extra_arguments: Callable[[str], Sequence[str]] = lambda command: (),
) -> dict[str, str]:
    """Run commands one after the other in this process, and check that they succeed.

    Args:
        commands: Lines such as `pr2l list prompts`.
        monkeypatch: Sets `sys.argv`.
        capsys: Captures the output.
        extra_arguments: Returns arguments to append to a command.

    Returns:
        Standard output of each command.
    """
    outputs = {}
    for command in commands:
        run_command(command, monkeypatch, extra_arguments(command))
        outputs[command] = capsys.readouterr().out
    return outputs


def python_blocks(page: Path) -> list[str]:
    """Return the Python code blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
