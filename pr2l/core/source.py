"""Reads definitions from the source files of modules, without importing a module.

So the options and tasks of a plug-in are known in milliseconds, even if its simulator or package is not installed.
"""

from __future__ import annotations

import ast
import inspect
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

Definition: TypeAlias = ast.ClassDef | ast.Assign | ast.AnnAssign


def module_file(name: str) -> Path | None:
    """Find the file of a module; unlike `importlib.util.find_spec`, this does not import the module's parents.

    Args:
        name: The dotted name of the module.

    Returns:
        The .py file, for a package its __init__.py; None if there is no such module.
    """
    top_level, *submodules = name.split(".")
    spec = find_spec(top_level)
    for submodule in submodules:
        spec = PathFinder.find_spec(submodule, spec.submodule_search_locations or []) if spec else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def parse(file: Path) -> tuple[str, ast.Module]:
    """Return the source and the syntax tree of a file, from a cache if the file has not changed.

    Args:
        file: A Python file in UTF-8; its time of modification decides whether it has changed.

    Raises:
        SyntaxError: It is not valid Python.
    """
    return _parse_version(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)  # a suite reads the options of the same few files hundreds of times
def _parse_version(file: Path, modified_ns: int) -> tuple[str, ast.Module]:
    source = file.read_text(encoding="utf-8")
    return source, ast.parse(source)


def find_definition(file: Path, name: str) -> tuple[Definition, Path] | None:
    """Find a class or a variable that a file defines at its top level or imports by name.

    Args:
        file: A Python file.
        name: The name of the class or variable.

    Returns:
        The definition and the file that has it; None if there is none.
    """
    for node in parse(file)[1].body:
        if isinstance(node, Definition) and name in _defined_names(node):
            return node, file
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                source_file = _file_of(node, file) if (alias.asname or alias.name) == name else None
                if source_file is not None:
                    return find_definition(source_file, alias.name)
    return None


def dict_keys(file: Path, name: str) -> list[str]:
    """Read the keys of a dict literal.

    Args:
        file: A Python file, which defines the dict or imports it by name.
        name: The name of the dict.

    Returns:
        The keys in their order; [] if the file has no such dict, or the dict is not a literal with string keys.
    """
    node, _ = find_definition(file, name) or (None, file)
    value = getattr(node, "value", None)
    keys = [getattr(key, "value", None) for key in value.keys] if isinstance(value, ast.Dict) else []
    return [key for key in keys if isinstance(key, str)] if all(isinstance(key, str) for key in keys) else []


def first_line(file: Path) -> str:
    """Return the first line of a Python file's docstring, "" if it has none, without importing the file.

    Args:
        file: A Python file in UTF-8.

    Raises:
        SyntaxError: It is not valid Python.
    """
    return inspect.cleandoc(ast.get_docstring(parse(file)[1]) or "").partition("\n")[0]


def _defined_names(node: Definition) -> list[str]:
    if isinstance(node, ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _file_of(node: ast.ImportFrom, file: Path) -> Path | None:
    """Find the file of the module in a `from ... import`."""
    if not node.level:
        return module_file(node.module or "")
    if node.module is None:  # from . import x
        return None
    path = file.parents[node.level - 1].joinpath(*node.module.split("."))
    candidates = path.with_suffix(".py"), path / "__init__.py"
    return next((candidate for candidate in candidates if candidate.is_file()), None)
