"""Plug-ins for tests: the entry points of a package that looks like one of another developer, installed by pip."""

import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pr2l.core.registry import DATA_PACKAGES

WritePlugin = Callable[[str, str, str], None]


def plugin_writer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> WritePlugin:
    """Return a function write(kind, name, source) that adds a plug-in to the registry until monkeypatch is undone.

    Args:
        folder: An empty folder for the package. Its name becomes a part of the package's name, so it must be unique.
        monkeypatch: Adds the folder to sys.path.
    """
    package = f"outside_{folder.name}".replace("-", "_")
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    entries: dict[str, dict[str, str]] = {}
    monkeypatch.syspath_prepend(folder)

    def write(kind: str, name: str, source: str) -> None:
        data = kind in DATA_PACKAGES
        file = folder / package / kind / (f"{name}.yaml" if data else f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        for python_package in (folder / package, folder / package / kind):
            (python_package / "__init__.py").touch()
        entry = {"data": f"{package}.{kind}"} if data else {name: f"{package}.{kind}.{name}"}
        entries.setdefault(f"pr2l.{kind}", {}).update(entry)
        sections = (f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items()) for group, e in entries.items())
        (metadata / "entry_points.txt").write_text("\n".join(sections))
        os.utime(folder, ns=(time.time_ns(),) * 2)  # as if the package had been installed anew
        importlib.invalidate_caches()

    return write
