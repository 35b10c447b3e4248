"""YAML files with the scalars of YAML 1.2: 1e-4 and 010 are numbers (ten); off, 1:30 and 2026-01-31 are texts.

Duplicate keys are errors.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, write_text

DIGEST_COMMENT = "# digest of the lines above: "

BOOL, INT, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
REPLACED = (BOOL, INT, FLOAT, "tag:yaml.org,2002:timestamp")  # types of YAML 1.1 with other scalars
BASES = {"0o": 8, "0x": 16}
SCALARS = (
    (BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (INT, re.compile(r"^([-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        FLOAT,
        re.compile(
            r"^([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Loader for YAML 1.2; PyYAML implements YAML 1.1, in which `off` is False, `010` is 8 and `1e-4` is a text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, BASES.get(text[:2], 10))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if duplicates := {str(key) for key in keys if keys.count(key) > 1}:
            problem = f"key given twice: {', '.join(sorted(duplicates))}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes each text that YAML 1.1 or 1.2 reads as another type."""


_Loader.add_constructor(INT, _Loader.construct_int)
for _scalar in SCALARS:
    _Loader.add_implicit_resolver(*_scalar)
    _Dumper.add_implicit_resolver(*_scalar)


def parse(text: str, where: str) -> Any:
    """Parse a YAML text.

    Args:
        text: The text.
        where: Name of the text in errors, such as a file.

    Raises:
        UserError: The text is not valid YAML, or a key occurs twice.
    """
    try:
        return deepcopy(_load(text))
    except RecursionError as error:
        raise UserError(f"{where} is not valid YAML for pr2l: its lists and tables are nested too deeply") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error
    # PyYAML's errors for a value that does not fit its tag, such as `!!bool maybe`, and for an integer of 5,000 digits.
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{where} is not valid YAML: a value cannot be read ({problem})") from error


@lru_cache(maxsize=64)  # a suite reads the same few files once per run
def _load(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only


def dump(value: Any, **options: Any) -> str:
    """Return a YAML text that `parse` reads as the same value.

    Args:
        value: A JSON value.
        options: Options of `yaml.dump`.
    """
    return str(yaml.dump(value, Dumper=_Dumper, **{"sort_keys": False} | options))


def write_mapping(path: Path, values: dict[str, Any]) -> None:
    """Write a dict as a YAML file, atomically and with a digest in a comment at the end.

    Args:
        path: The file; its folder must exist.
        values: JSON values.
    """
    text = dump(values)
    write_text(path, f"{text}{DIGEST_COMMENT}{digest.of_json(text)}\n")


def read_mapping(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Args:
        path: The file.
        verify: Verify the digest of `write_mapping`, if the file has one.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or contains anything but a mapping.
        DamagedFile: The content differs from what was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a UTF-8 text file ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    content, comment, written = text.rpartition(DIGEST_COMMENT)
    if verify and comment and written.strip() != digest.of_json(content):
        raise DamagedFile(
            path,
            "its content differs from what pr2l wrote",
            "If you edited it on purpose, remove its last line. To change values, write KEY=VALUE in the command.",
        )
    value = parse(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} contains a {type(value).__name__}; it must contain `key: value` lines")
    return value
