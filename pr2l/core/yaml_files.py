"""Reading of YAML files with the scalars of YAML 1.2: 1e-4 is a number and off is a text. Duplicate keys are errors."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, write_text

DIGEST_COMMENT = "# digest of the lines above: "

BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """Loader for YAML 1.2; PyYAML implements YAML 1.1, in which `off` is False and `1e-4` is a text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if duplicates := {str(key) for key in keys if keys.count(key) > 1}:
            problem = f"key given twice: {', '.join(sorted(duplicates))}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver(FLOAT, _EXPONENT, list("-+.0123456789"))


def parse(text: str, where: str) -> Any:
    """Parse a YAML text.

    Args:
        text: The text.
        where: Name of the text in errors, such as a file.

    Raises:
        UserError: The text is not valid YAML, or a key occurs twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


def write_mapping(path: Path, values: dict[str, Any]) -> None:
    """Write a dict as a YAML file, atomically and with a digest in a comment at the end.

    Args:
        path: The file; its folder must exist.
        values: JSON values.
    """
    text = yaml.safe_dump(values, sort_keys=False)
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
            "If you edited it on purpose, remove its last line; to change values, give them as key=value.",
        )
    value = parse(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold `key: value` lines, but it holds {type(value).__name__}")
    return value
