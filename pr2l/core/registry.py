"""Registry of plug-ins, which are found by their file names, so a new plug-in needs no entry in a list.

    pr2l/encoders/pixels.py            -> load("encoders", "pixels"), a module
    prompts/doom/fetch/where.yaml      -> load("prompts", "doom/fetch/where"), a path
    my_module:MyEnv                    -> load("environments", "my_module:MyEnv"), a Gymnasium environment's class

Files with a leading underscore in their names and the names in NOT_PLUGINS are not plug-ins. An installed package adds
plug-ins with entry points in the group "pr2l.<kind>": the value is the plug-in's module or, for prompts and configs, a
package that contains YAML files.
"""

from __future__ import annotations

import os
import sys
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Literal, TypeAlias, TypeVar, overload

from pr2l.core.errors import OURS, UnknownName, code_of
from pr2l.core.source import module_file

ModuleKind: TypeAlias = Literal["vlms", "encoders", "environments", "algorithms", "networks", "evaluators", "apis"]
DataKind: TypeAlias = Literal["prompts", "configs"]

MODULE_PACKAGES: dict[str, str] = {
    "vlms": "pr2l.vlms.families",
    "encoders": "pr2l.encoders",
    "environments": "pr2l.environments",
    "algorithms": "pr2l.policies",
    "networks": "pr2l.policies.networks",
    "evaluators": "pr2l.agents.evaluators",
    "apis": "pr2l.agents.api",
}
# Modules and packages in folders of plug-ins that are not plug-ins.
NOT_PLUGINS = {"base", "common", "isolation", "browser", "networks", "losses"}
DATA_PACKAGES: dict[str, str] = {"prompts": "pr2l.prompts", "configs": "pr2l.configs"}
KINDS: tuple[str, ...] = (*MODULE_PACKAGES, *DATA_PACKAGES)
CLASS_ADAPTER = "pr2l.rollout.external"  # its `load("module:Class")` makes an environment plug-in from a class

Value = TypeVar("Value")


def names(kind: str) -> list[str]:
    """List the names of all plug-ins of a kind, sorted, without importing them.

    Args:
        kind: One of KINDS.

    Raises:
        UnknownName: There is no such kind.
    """
    return sorted(_files(kind) if kind in DATA_PACKAGES else _modules(kind))


@overload
def load(kind: ModuleKind, name: str) -> ModuleType: ...
@overload
def load(kind: DataKind, name: str) -> Path: ...
def load(kind: str, name: str) -> ModuleType | Path:
    """Import a plug-in, or find the YAML file of a prompt or config.

    Args:
        kind: One of KINDS.
        name: The plug-in's name; for an environment also "module:Class", the class of a Gymnasium environment.

    Returns:
        The module of the plug-in; for prompts and configs the path of the file.

    Raises:
        UnknownName: There is no such plug-in. Errors from the imports of the plug-in are not caught.
    """
    if kind in DATA_PACKAGES:
        return source(kind, name)
    if kind == "environments" and is_class_path(name):
        plugin: ModuleType = import_module(CLASS_ADAPTER).load(name)
        return plugin
    with code_of(owner(kind, name)):
        return import_module(_module(kind, name))


def owner(kind: str, name: str) -> str:
    """Return whose code a plug-in is: `errors.OURS`, or a description such as "the plug-in my_package.doors".

    Args:
        kind: A kind of module.
        name: The plug-in's name; for an environment also "module:Class".
    """
    if is_class_path(name):
        return f"the environment {name}"
    module = OURS if _own(kind, name) else _modules(kind).get(name, OURS)
    return OURS if module.partition(".")[0] == OURS else f"the plug-in {module}"


def source(kind: str, name: str) -> Path:
    """Find the file of a plug-in without importing the plug-in or its parent packages.

    Args:
        kind: One of KINDS.
        name: The plug-in's name.

    Raises:
        UnknownName: There is no such plug-in.
        ModuleNotFoundError: An entry point names a module that does not exist.
    """
    if file := _own(kind, name):
        return file
    if kind in DATA_PACKAGES:
        return _find(kind, name, _files(kind))
    file = module_file(_find(kind, name, _modules(kind)))
    if file is None:
        raise ModuleNotFoundError(f"the entry point {name!r} of pr2l.{kind} names a module that does not exist")
    return file


def is_class_path(name: str) -> bool:
    """Return whether a name has the form "module:Class", for an environment that is not registered.

    Args:
        name: Name of an environment.
    """
    return ":" in name


def _find(kind: str, name: str, entries: dict[str, Value]) -> Value:
    if name not in entries:
        raise UnknownName(kind, name, entries, hint=f"`pr2l list {kind}` shows all of them.")
    return entries[name]


def _module(kind: str, name: str) -> str:
    """Return the dotted module of a plug-in."""
    return f"{MODULE_PACKAGES[kind]}.{name}" if _own(kind, name) else _find(kind, name, _modules(kind))


def _own(kind: str, name: str) -> Path | None:
    """Return the file of a plug-in of pr2l, None if pr2l has none of this name.

    It hides a plug-in of another package, so most names are found without reading the folders of all packages.
    """
    if kind in DATA_PACKAGES:
        file = _folder(DATA_PACKAGES[kind]) / f"{name}.yaml"
        plain = PurePosixPath(name).as_posix() == name and not name.startswith("/") and ".." not in name.split("/")
        return file if plain and os.path.isfile(file) else None  # is_file() raises for a name that is too long
    plain = name.isidentifier() and not name.startswith("_") and name not in NOT_PLUGINS
    return module_file(f"{_package(kind)}.{name}") if plain else None


def _package(kind: str) -> str:
    if kind not in MODULE_PACKAGES:
        raise UnknownName("kinds of plug-in", kind, KINDS)
    return MODULE_PACKAGES[kind]


def _modules(kind: str) -> dict[str, str]:
    """Return a dict from names to dotted modules; a plug-in of pr2l hides a plug-in of another package."""
    package = _package(kind)
    entries = [file for file in _folder(package).iterdir() if file.suffix == ".py" or (file / "__init__.py").is_file()]
    names = {entry.stem for entry in entries if not entry.name.startswith("_")} - NOT_PLUGINS
    return _installed(kind) | {name: f"{package}.{name}" for name in names}


def _files(kind: str) -> dict[str, Path]:
    """Return a dict from names to YAML files; a file of pr2l hides a file of another package."""
    roots = [_folder(package) for package in (*_installed(kind).values(), DATA_PACKAGES[kind])]
    files = [(root, file) for root in roots for file in root.rglob("*.yaml")]
    return {file.relative_to(root).with_suffix("").as_posix(): file for root, file in files}


def _installed(kind: str) -> dict[str, str]:
    """Return a dict from names to modules of the plug-ins of other installed packages."""
    packages: dict[str, dict[str, dict[str, str]]] = {}
    for folder in reversed(sys.path):  # as in imports, a package hides one of the same name in a later folder
        packages |= _entry_points(folder, _modified(folder))
    return {name: module for groups in packages.values() for name, module in groups.get(f"pr2l.{kind}", {}).items()}


@lru_cache(maxsize=256)  # reading the metadata of all packages takes 10 ms or more, and one config needs it many times
def _entry_points(folder: str, modified: int) -> dict[str, dict[str, dict[str, str]]]:
    """Return the entry points for pr2l in a folder: from packages to groups to names to modules.

    `modified`, the modification time of the folder, is only part of the cache's key.
    """
    packages: dict[str, dict[str, dict[str, str]]] = {}
    for distribution in distributions(path=[folder]):
        groups: dict[str, dict[str, str]] = {}
        for point in distribution.entry_points:
            if point.group.startswith("pr2l."):
                groups.setdefault(point.group, {})[point.name] = point.module
        if groups:
            packages.setdefault(distribution.name, groups)
    return packages


def _modified(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


@cache
def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package!r} is missing; reinstall pr2l with `pip install -e .`")
    return Path(spec.submodule_search_locations[0])
