"""The commands of docs/prompts.md, one after the other, on fewer frames."""

import json
import re
import shlex
from pathlib import Path

import pytest
from pages import DOCS, commands, run_commands

PAGE = DOCS / "prompts.md"
# Arguments appended to the commands, so that they are quick; the last value of an option counts. 30 frames are the
# fewest of which targets are present and absent in enough episodes.
EXTRA_ARGUMENTS = {
    "score": ["frames=30", "environment_options.rooms=30"],
    "search": ["environment_options.rooms=30", "--budget", "60"],
    "collect": ["--episodes", "12"],
}


def extra_arguments(command: str) -> list[str]:
    words = shlex.split(command)
    extra = EXTRA_ARGUMENTS.get(words[2] if words[1] == "prompts" else words[1], [])
    if words[1:3] == ["prompts", "score"] and "--prompts" not in words:
        extra = [*extra, "--prompts", "present"]  # one of the task's nine
    elif "--prompts" in words:  # `where` is one of two
        extra = [*extra, "--prompts", words[words.index("--prompts") + 1].rpartition(",")[2]]
    return extra


@pytest.mark.slow
def test_commands_of_the_prompts_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    [prompt_file] = re.findall(r"```yaml\n# mine.yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    Path("mine.yaml").write_text(prompt_file)
    run_commands(commands(PAGE), monkeypatch, capsys, extra_arguments)
    assert Path("runs/search/doom-fetch/best.yaml").is_file()
    [score] = json.loads(Path("runs/prompts/doom-fetch/score.json").read_text())["scores"]
    assert score["answers"]["present"]["value"] > 0.8 and score["answers"]["absent"]["value"] > 0.8
    assert score["view"]["presence"]["value"] > 0.8
