"""Plug-ins by file name: the file is the registration, so there is no list that can go stale.

    pr2l/encoders/pixels.py            -> load("encoders", "pixels"), a module
    prompts/doom/fetch/where.yaml      -> load("prompts", "doom/fetch/where"), a Path

A file whose name begins with an underscore is machinery and has no name here. A plug-in outside this
repository is an entry point in the group "pr2l.<kind>": its value is the module, or, for prompts and configs,
a package that holds YAML files.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, TypeVar, overload

from pr2l.core.errors import UnknownName

ModuleKind: TypeAlias = Literal["vlms", "encoders", "environments", "algorithms", "networks"]
DataKind: TypeAlias = Literal["prompts", "configs"]

MODULE_PACKAGES: dict[str, str] = {
    "vlms": "pr2l.vlms.families",
    "encoders": "pr2l.encoders",
    "environments": "pr2l.environments",
    "algorithms": "pr2l.policies",
    "networks": "pr2l.policies.networks",
}
# Modules and packages that share a folder with plug-ins and are not plug-ins themselves.
NOT_PLUGINS = {"base", "common", "isolation", "browser", "networks", "losses"}
DATA_PACKAGES: dict[str, str] = {"prompts": "pr2l.prompts", "configs": "pr2l.configs"}
KINDS: tuple[str, ...] = (*MODULE_PACKAGES, *DATA_PACKAGES)

Value = TypeVar("Value")


def names(kind: str) -> list[str]:
    """Sorted names of all plug-ins of a kind; imports none. Raises UnknownName for an unknown kind."""
    return sorted(_files(kind) if kind in DATA_PACKAGES else _modules(kind))


@overload
def load(kind: ModuleKind, name: str) -> ModuleType: ...
@overload
def load(kind: DataKind, name: str) -> Path: ...
def load(kind: str, name: str) -> ModuleType | Path:
    """The plug-in's module, or for prompts and configs the path of its YAML file.

    Raises UnknownName, with the nearest name, if there is none; an error inside the plug-in's own import
    passes through unchanged.
    """
    if kind in DATA_PACKAGES:
        return source(kind, name)
    return import_module(_find(kind, name, _modules(kind)))


def source(kind: str, name: str) -> Path:
    """The plug-in's file, which is not imported. Raises UnknownName as `load` does."""
    if kind in DATA_PACKAGES:
        return _find(kind, name, _files(kind))
    spec = find_spec(_find(kind, name, _modules(kind)))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"entry point {name!r} of pr2l.{kind}: its module does not exist")
    return Path(spec.origin)


def _find(kind: str, name: str, found: dict[str, Value]) -> Value:
    if name not in found:
        raise UnknownName(kind, name, found, hint=f"`pr2l list {kind}` shows them.")
    return found[name]


def _modules(kind: str) -> dict[str, str]:
    """Name -> dotted module; this repository wins over plug-ins from outside with the same name."""
    if kind not in MODULE_PACKAGES:
        raise UnknownName("kinds of plug-in", kind, KINDS)
    package = MODULE_PACKAGES[kind]
    entries = [file for file in _folder(package).iterdir() if file.suffix == ".py" or (file / "__init__.py").is_file()]
    names = {entry.stem for entry in entries if not entry.name.startswith("_")} - NOT_PLUGINS
    return _outside(kind) | {name: f"{package}.{name}" for name in names}


def _files(kind: str) -> dict[str, Path]:
    """Name -> YAML file; this repository wins over the packages from outside."""
    roots = [_folder(package) for package in (*_outside(kind).values(), DATA_PACKAGES[kind])]
    files = [(root, file) for root in roots for file in root.rglob("*.yaml")]
    return {file.relative_to(root).with_suffix("").as_posix(): file for root, file in files}


def _outside(kind: str) -> dict[str, str]:
    return _entry_points(kind, tuple((place, _changed(place)) for place in sys.path))


@lru_cache(maxsize=len(KINDS))  # reading every installed package's list takes 10 ms, and one config asks many times
def _entry_points(kind: str, places: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Name -> module of the entry points found in `places`, which are those of sys.path with their last changes."""
    return {point.name: point.module for point in entry_points(group=f"pr2l.{kind}")}


def _changed(place: str) -> int:
    try:
        return Path(place or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package!r} is missing; reinstall with `pip install -e .`")
    return Path(spec.submodule_search_locations[0])
