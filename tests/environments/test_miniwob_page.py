"""The Python code of docs/miniwob.md runs, and its numbers agree with the tasks."""

from importlib.util import find_spec

import pytest
from pages import DOCS, python_blocks

from pr2l.environments.miniwob import TASKS, oracles
from tests.environments.browser_pages import needs_chromium

PAGE = DOCS / "miniwob.md"


@needs_chromium
@pytest.mark.skipif(find_spec("miniwob") is None, reason="the package miniwob is not installed")
@pytest.mark.parametrize("block", python_blocks(PAGE), ids=["environment", "driver"])
def test_code_of_the_page_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(block, names)
    printed = capsys.readouterr().out
    comments = [line.split("#")[1].strip() for line in block.splitlines() if line.startswith("print(")]
    assert printed.split("\n")[0].startswith(comments[0].removesuffix("."))
    if "frame" in names:
        assert names["frame"].shape == (210, 160, 3)  # type: ignore[attr-defined]


def test_numbers_of_tasks() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"names the {len(TASKS)} tasks" in text
    assert f"{len(oracles.ORACLES)} tasks have a scripted oracle" in text
    assert f"the other {len(TASKS) - len(oracles.ORACLES)} can" in text
