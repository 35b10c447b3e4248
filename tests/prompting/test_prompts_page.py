"""docs/prompts.md leads to what it says: its commands run one after the other, on fewer frames."""

import json
import re
import shlex
from pathlib import Path

from pages import DOCS, commands, follow

PAGE = DOCS / "prompts.md"
FEWER = {  # last words win over those of the page
    "score": ["frames=60", "environment_options.rooms=30"],
    "search": ["environment_options.rooms=30", "--budget", "60"],
    "collect": ["--episodes", "12"],
}


def fewer(command: str) -> list[str]:
    """Words that make a command of the page quick."""
    words = shlex.split(command)
    more = FEWER.get(words[2] if words[1] == "prompts" else words[1], [])
    if words[1:3] == ["prompts", "score"] and "--prompts" not in words:
        more = [*more, "--prompts", "present"]
    return more


def test_the_page_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    [written] = re.findall(r"```yaml\n# mine.yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    Path("mine.yaml").write_text(written)
    follow(commands(PAGE), monkeypatch, capsys, fewer)
    assert Path("runs/search/doom-fetch/best.yaml").is_file()
    [where] = json.loads(Path("runs/prompts/doom-fetch/score.json").read_text())["scores"]
    assert where["answers"]["present"]["value"] > 0.8 and where["answers"]["absent"]["value"] > 0.8
    assert where["view"]["presence"]["value"] > 0.8
