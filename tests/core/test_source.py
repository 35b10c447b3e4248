"""Definitions are read from source files without importing anything."""

import sys
import textwrap

import pytest

from pr2l.core.source import dict_keys, find_definition, first_line, module_file


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that must not be imported; write(file, source) adds a file to it and returns its path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        file = tmp_path / "not_imported" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source), encoding="utf-8")
        return file

    write("__init__.py", "raise RuntimeError('imported')")
    write("inner/__init__.py", "raise RuntimeError('imported')")
    yield write
    assert "not_imported" not in sys.modules


def test_module_is_found_without_its_parents(package):
    file = package("inner/world.py", "")
    assert module_file("not_imported.inner.world") == file
    assert module_file("not_imported.inner") == file.with_name("__init__.py")
    assert module_file("pr2l.core.source").name == "source.py"
    for absent in ("not_imported.inner.word", "not_imported.outer.world", "nowhere.world", "nowhere"):
        assert module_file(absent) is None


@pytest.mark.parametrize(
    ("source", "keys"),
    [
        ("TASKS = {'walk': 1, 'run': make()}", ["walk", "run"]),
        ("TASKS: dict[str, int] = {'walk': 1}", ["walk"]),
        ("from .tasks import TASKS", ["swim"]),
        ("from .tasks import OTHER as TASKS", ["fly"]),
        ("from not_imported.inner.tasks import TASKS", ["swim"]),
        ("TASKS = {}", []),
        ("TASKS = {task.id: task for task in ROWS}", []),
        ("TASKS = {**OTHERS, 'walk': 1}", []),
        ("TASKS = {1: 'walk'}", []),
        ("TASKS: dict[str, int]", []),
        ("from .tasks import *", []),
        ("from . import TASKS", []),
        ("from nowhere import TASKS", []),
        ("def TASKS(): ...", []),
        ("", []),
    ],
)
def test_keys_of_a_dict_literal(package, source, keys):
    package("inner/tasks.py", "TASKS = {'swim': 1}\nOTHER = {'fly': 2}")
    assert dict_keys(package("inner/world.py", source), "TASKS") == keys


def test_class_is_found_where_it_is_defined(package):
    tasks = package("inner/tasks.py", "class Task: ...")
    world = package("inner/world.py", "from .tasks import Task as Row")
    node, file = find_definition(world, "Row")
    assert (node.name, file) == ("Task", tasks)
    assert find_definition(world, "Task") is None


def test_first_line_of_a_docstring(package):
    assert first_line(package("inner/world.py", '"""Two rooms.\n\nMore."""')) == "Two rooms."
    assert first_line(package("inner/world.py", "")) == ""
