"""docs/prompts.md leads to what it says: its commands run one after the other, on fewer frames."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from pr2l.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "prompts.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
FEWER = {  # last words win over those of the page
    "score": ["frames=60", "environment_options.rooms=30"],
    "search": ["environment_options.rooms=30", "--budget", "60"],
    "collect": ["--episodes", "12"],
}


def test_the_page_can_be_followed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    [written] = re.findall(r"```yaml\n# mine.yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("mine.yaml").write_text(written)
    for command in COMMANDS:
        words = shlex.split(command)
        fewer = FEWER.get(words[2] if words[1] == "prompts" else words[1], [])
        if words[1:3] == ["prompts", "score"] and "--prompts" not in words:
            fewer = [*fewer, "--prompts", "present"]
        monkeypatch.setattr(sys, "argv", [*words, *fewer])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code, command
    assert Path("runs/search/doom-fetch/best.yaml").is_file()
    [where] = json.loads(Path("runs/prompts/doom-fetch/score.json").read_text())["scores"]
    assert where["answers"]["present"]["value"] > 0.8 and where["answers"]["absent"]["value"] > 0.8
    assert where["view"]["presence"]["value"] > 0.8
