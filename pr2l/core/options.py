"""Options of plug-ins, read from their source files: names, types, defaults, and comments with units and reasons.

No plug-in is imported, so a misspelled option is found before the import of torch, which takes seconds, and the options
of a plug-in are known even if its simulator or package is not installed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pr2l.core import registry
from pr2l.core.errors import unknown_key
from pr2l.core.source import find_definition, module_file, parse
from pr2l.core.type_words import field_type_words

VLM_OPTIONS = "pr2l.vlms.options"  # the module whose Defaults all families of VLMs share; it does not import torch


class Option(NamedTuple):
    """Option of a plug-in."""

    name: str
    type: str  # in words, e.g. "int > 0 | null"
    default: str | None  # as written in the source; None = the option must be given
    comment: str  # its unit or reason; "" = none


def read_options(kind: str, name: str) -> list[Option] | None:
    """Read the options of a plug-in.

    Args:
        kind: The kind of plug-in, one of `registry.MODULE_PACKAGES`, e.g. "encoders".
        name: The plug-in's name. For "vlms" the name is ignored, because all VLMs share one set of options.

    Returns:
        The fields of `Defaults` in their order, after the fields of its base classes; None if the source does not
        contain the fields, e.g. because a function makes `Defaults`, or if `name` is "module:Class".

    Raises:
        UnknownName: There is no such plug-in.
    """
    if registry.is_class_path(name):
        return None
    return options_of_class(_source(kind, name), "Defaults")


def options_of_class(file: Path, name: str) -> list[Option] | None:
    """List the annotated fields of a class in a Python file.

    Args:
        file: The file, which defines the class or imports it by name.
        name: The name of the class.

    Returns:
        The fields in their order, after the fields of the base classes; None if the class or a base class is not found.
    """
    node, file = find_definition(file, name) or (None, file)
    if not isinstance(node, ast.ClassDef):
        return None
    options: dict[str, Option] = {}
    for base in map(ast.unparse, node.bases):
        base_options = [] if base == "BaseModel" else options_of_class(file, base)
        if base_options is None:
            return None
        options |= {option.name: option for option in base_options}
    return list((options | _own_options(node, file)).values())


@lru_cache(maxsize=256)  # takes milliseconds; while a file does not change, `parse` returns the same nodes
def _own_options(node: ast.ClassDef, file: Path) -> dict[str, Option]:
    """Return the annotated fields of a class without those of its base classes, by name."""
    lines, options = parse(file)[0].splitlines(), {}
    for field in _annotated(node):
        default = _constant(file, _default(field.value))
        name = ast.unparse(field.target)
        options[name] = Option(name, field_type_words(field, file), default, _comment(field, lines))
    return options


def unknown_keys(kind: str, name: str, keys: Iterable[str], where: str) -> str:
    """Return an error message for keys that are not options of a plug-in.

    Args:
        kind: The kind of plug-in, one of `registry.MODULE_PACKAGES`.
        name: The plug-in's name.
        keys: The keys to check; old names in the `RENAMED` table of the options are allowed. Their table `LACKING`
            says why they have no option of a name that others have.
        where: Name of the table with the keys in the message.

    Returns:
        One line for each unknown key; "" if all keys are options, or if `read_options` returns None.
    """
    options = read_options(kind, name)
    if options is None:
        return ""
    allowed, file = [option.name for option in options], _source(kind, name)
    valid_keys, reasons = {*allowed, *_table(file, "RENAMED")}, _table(file, "LACKING")
    return "\n".join(
        f"{where}: no key {key!r}: {reasons[key]}." if key in reasons else unknown_key(where, key, allowed)
        for key in keys
        if key not in valid_keys
    )


def _source(kind: str, name: str) -> Path:
    """Return the file that defines or imports the `Defaults` of a plug-in."""
    shared = module_file(VLM_OPTIONS) if kind == "vlms" else None
    return shared or registry.source(kind, name)


def _annotated(node: ast.ClassDef) -> Iterator[ast.AnnAssign]:
    """Yield the annotated fields of a class."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.annotation).startswith("ClassVar"):
            yield statement


def _table(file: Path, name: str) -> dict[str, str]:
    """Return a table of `Defaults`, such as `RENAMED`, which maps keys to texts; {} if it has none."""
    node, _ = find_definition(file, "Defaults") or (None, file)
    for statement in node.body if isinstance(node, ast.ClassDef) else []:
        if (
            isinstance(statement, ast.AnnAssign)
            and ast.unparse(statement.target) == name
            and statement.value is not None
        ):
            table: dict[str, str] = ast.literal_eval(statement.value)
            return table
    return {}


def _default(value: ast.expr | None) -> str | None:
    """Return the source of a default, also from `Field(default, ...)`."""
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "Field"):
        return None if value is None else ast.unparse(value)
    keywords = {keyword.arg: keyword.value for keyword in value.keywords}
    if "default_factory" in keywords:
        return f"{ast.unparse(keywords['default_factory'])}()".replace("dict()", "{}")
    default = value.args[0] if value.args else keywords.get("default")
    return None if default is None else ast.unparse(default)


def _constant(file: Path, default: str | None) -> str | None:
    """Return the value of a default that names a constant of the file or of a file from which it imports."""
    node, _ = find_definition(file, default) or (None, file) if default else (None, file)
    value = getattr(node, "value", None)
    return ast.unparse(value) if isinstance(value, ast.Constant) else default


def _comment(field: ast.AnnAssign, lines: list[str]) -> str:
    """Return the comment lines directly above a field and the trailing comment on its line."""
    above: list[str] = []
    for line in reversed(lines[: field.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    last = lines[(field.end_lineno or field.lineno) - 1].encode()[field.end_col_offset or 0 :].decode()
    trailing = re.match(r"\s*#\s*(.*)", last)
    return "; ".join(filter(None, [" ".join(above), trailing[1] if trailing else ""]))
