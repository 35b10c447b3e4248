"""The commands and the Python code of docs/evaluators.md run in order in an empty folder."""

import re
from pathlib import Path

import pytest
from api_server import gemini, openai, running
from pages import DOCS, commands, python_blocks, run_command
from small_vlms import CASE, folder

from pr2l.agents.evaluators.common.prompts import ExampleFile
from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.io import read_json
from pr2l.core.yaml_files import parse
from tests.environments.browser_pages import needs_chromium

PAGE = DOCS / "evaluators.md"


@pytest.mark.slow
@needs_chromium
def test_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEMINI_API_KEY", "secret-of-the-test")
    ran = []
    with running() as server:
        for command in commands(PAGE):
            api = re.search(r"api=(\w+)", command)
            command = command.replace("HuggingFaceTB/SmolVLM-256M-Instruct", str(folder(CASE["smolvlm"])))
            command = re.sub("--episodes [0-9]+", "--episodes 4", command)
            if api:
                response = {"gemini": gemini, "openai_server": openai}[api[1]]
                server.responses = [response("Status: success")] * 4
                command = command.replace(api[0], f"{api[0]} model_options.base_url={server.url}")
            run_command(command, monkeypatch)
            ran.append(command)
        assert len(server.requests) == 8
    assert len(ran) == 12
    results = sorted(path.name for path in Path("runs/evaluators").glob("fetch-*.json"))
    assert results == [f"fetch-{name}.json" for name in ("noisy", "question", "state", "trajectory", "vlm")]
    assert read_json(Path("runs/evaluators/fetch-vlm.json"))["agreement"]["recall"]["value"] in (None, 1)
    values: dict = {}
    exec(python_blocks(PAGE)[0], values)
    assert values["unseen"][1e-5] == 0


def test_python_code_runs():
    values: dict = {}
    exec(python_blocks(PAGE)[1], values)
    assert sum(values["labels"] != [True, False] * 50) == 3


def test_page_lists_every_evaluator_and_api_and_shows_a_valid_file_of_examples():
    text = PAGE.read_text(encoding="utf-8")
    for kind in ("evaluators", "apis"):
        assert all(f"| `{name}` |" in text for name in registry.names(kind))
    examples, rewards = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert ExampleFile(**parse(examples, "page")).examples[0].status == "success"
    assert parse(rewards, "page").keys() <= RunConfig.model_fields.keys()
