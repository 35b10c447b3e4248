"""The Python code of docs/phone.md runs, and its tables agree with the templates."""

import re
import sys

import pytest
from pages import DOCS, python_blocks

from pr2l.environments.phone import library
from tests.environments.browser_pages import needs_chromium

PAGE = DOCS / "phone.md"


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    """Write the file my_tasks.py of the page to a folder from which it can be imported."""
    [source] = [block for block in python_blocks(PAGE) if block.startswith("# my_tasks.py")]
    (tmp_path / "my_tasks.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_tasks", None)


@pytest.mark.usefixtures("my_tasks")
def test_example_of_a_template_passes_its_check(capsys):
    [check] = [block for block in python_blocks(PAGE) if "draw_episode" in block]
    exec(check, {})
    assert capsys.readouterr().out.count("Turn on Do not disturb, and set an alarm for 0") == 20


@needs_chromium
@pytest.mark.usefixtures("my_tasks")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's, about attributes of a wrapped environment
def test_examples_with_a_browser_run(capsys):
    [first, script] = [block for block in python_blocks(PAGE) if "gymnasium.make" in block]
    exec(first, {})
    assert "Create a new contact for" in capsys.readouterr().out
    exec(script, {})


def test_templates_of_the_page_exist():
    table = PAGE.read_text(encoding="utf-8").split("| app | templates |")[1].split("\n\n")[0]
    names = set(re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", table))
    assert names <= set(library.templates()) and len(names) >= 58
