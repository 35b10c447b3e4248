"""Plug-ins by file name: the file is the registration, so there is no list that can go stale.

    pr2l/encoders/pixels.py            -> load("encoders", "pixels"), a module
    prompts/doom/fetch/where.yaml      -> load("prompts", "doom/fetch/where"), a Path

A file whose name begins with an underscore is machinery and has no name here. A plug-in outside this
repository is an entry point in the group "pr2l.<kind>": its value is the module, or, for prompts and configs,
a package that holds YAML files.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias, overload

from pr2l.errors import UnknownName

ModuleKind: TypeAlias = Literal["vlms", "encoders", "environments", "algorithms", "networks"]
DataKind: TypeAlias = Literal["prompts", "configs"]

MODULE_PACKAGES: dict[str, str] = {
    "vlms": "pr2l.vlms",
    "encoders": "pr2l.encoders",
    "environments": "environments",
    "algorithms": "policies",
    "networks": "policies.networks",
}
DATA_PACKAGES: dict[str, str] = {"prompts": "prompts", "configs": "configs"}
KINDS: tuple[str, ...] = (*MODULE_PACKAGES, *DATA_PACKAGES)


def names(kind: str) -> list[str]:
    """Sorted names of all plug-ins of a kind; imports none. Raises UnknownName for an unknown kind."""
    return sorted(_data_files(kind) if kind in DATA_PACKAGES else {*_modules(kind), *_outside(kind)})


@overload
def load(kind: ModuleKind, name: str) -> ModuleType: ...
@overload
def load(kind: DataKind, name: str) -> Path: ...
def load(kind: str, name: str) -> ModuleType | Path:
    """The plug-in's module, or for prompts and configs the path of its YAML file.

    Raises UnknownName, with the nearest name, if there is none; an error inside the plug-in's own import
    passes through unchanged.
    """
    if kind in DATA_PACKAGES and name in (files := _data_files(kind)):
        return files[name]
    if kind in MODULE_PACKAGES and name in _modules(kind):
        return import_module(f"{MODULE_PACKAGES[kind]}.{name}")
    if kind in MODULE_PACKAGES and name in (outside := _outside(kind)):
        module: ModuleType = outside[name].load()
        return module
    raise UnknownName(kind, name, names(kind), hint=f"`pr2l list {kind}` shows them.")


def _modules(kind: str) -> list[str]:
    if kind not in MODULE_PACKAGES:
        raise UnknownName("kinds of plug-in", kind, KINDS)
    files = _folder(MODULE_PACKAGES[kind]).glob("*.py")
    return [file.stem for file in files if not file.name.startswith("_")]


def _outside(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"pr2l.{kind}")}


def _data_files(kind: str) -> dict[str, Path]:
    """Name -> file; a file of this repository wins over one from outside with the same name."""
    packages = [*(point.value for point in _outside(kind).values()), DATA_PACKAGES[kind]]
    roots = [_folder(package) for package in packages]
    files = [(root, file) for root in roots for file in root.rglob("*.yaml")]
    return {file.relative_to(root).with_suffix("").as_posix(): file for root, file in files}


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package!r} is missing; reinstall with `pip install -e .`")
    return Path(spec.submodule_search_locations[0])
