"""YAML as people write it: 1e-4 is a number, off is a word, and a key given twice is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pr2l.core.errors import UserError

BOOL, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """PyYAML speaks YAML 1.1, where `off` is False and `1e-4` is text; here both are read as in YAML 1.2."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := {str(key) for key in keys if keys.count(key) > 1}:
            problem = f"key given twice: {', '.join(sorted(twice))}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_EXPONENT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver(FLOAT, _EXPONENT, list("-+.0123456789"))


def parse(text: str, where: str) -> Any:
    """The value of a YAML text. where: how to call it in an error. Raises UserError if it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain data only
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises UserError if it holds anything but a mapping."""
    value = parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold `key: value` lines, but it holds {type(value).__name__}")
    return value
