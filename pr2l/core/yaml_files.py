"""Reading of YAML files with the scalars of YAML 1.2: 1e-4 is a number and off is a text. Duplicate keys are errors."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pr2l.core.errors import UserError

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


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or contains anything but a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a UTF-8 text file ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    value = parse(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold `key: value` lines, but it holds {type(value).__name__}")
    return value
