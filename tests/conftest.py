"""Shared fixtures; tests run without network and display, on one thread, with the default signal handlers."""

import importlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import imageio.v2 as imageio
import pytest

from pr2l.core.registry import DATA_PACKAGES, MODULE_PACKAGES

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# nohup and background jobs ignore these signals, and processes that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def placeholder_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a run's curves and video by empty files, because they take half the time of a tiny run.

    Tests marked `pictures` get the real ones.
    """
    if request.node.get_closest_marker("pictures"):
        return
    monkeypatch.setattr("pr2l.training.curves.draw_curves", lambda folder: (folder / "curves.png").touch())
    monkeypatch.setattr(imageio, "mimwrite", lambda path, *_, **__: Path(path).touch())


@pytest.fixture
def write_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Return write_plugin(kind, name, source), which installs a package with a plug-in.

    The source is Python, or YAML for prompts and configs. The plug-ins of pr2l stay.
    """
    package = f"outside_{tmp_path.name}".replace("-", "_")
    metadata = tmp_path / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    entries: dict[str, dict[str, str]] = {}
    monkeypatch.syspath_prepend(tmp_path)

    def write(kind: str, name: str, source: str) -> None:
        data = kind in DATA_PACKAGES
        file = tmp_path / package / kind / (f"{name}.yaml" if data else f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        for folder in (tmp_path / package, tmp_path / package / kind):
            (folder / "__init__.py").touch()
        entry = {"data": f"{package}.{kind}"} if data else {name: f"{package}.{kind}.{name}"}
        entries.setdefault(f"pr2l.{kind}", {}).update(entry)
        sections = (
            f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items()) for group, e in entries.items()
        )
        (metadata / "entry_points.txt").write_text("\n".join(sections))
        os.utime(tmp_path, ns=(time.time_ns(),) * 2)  # as if the package had been installed anew
        importlib.invalidate_caches()

    return write


@pytest.fixture
def examples(write_plugin: Callable[[str, str, str], None]) -> list[tuple[str, str]]:
    """Install the example files of CONTRIBUTING.md as plug-ins, and return their kinds and names."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\.(?:py|yaml)\n(.*?)```", page, flags=re.DOTALL)
    for path, source in blocks:
        write_plugin(*_kind_and_name(path), source)
    return [_kind_and_name(path) for path, _ in blocks]


def _kind_and_name(path: str) -> tuple[str, str]:
    """ "policies/networks/flat" -> ("networks", "flat")"""
    folders = {kind: package.replace(".", "/") + "/" for kind, package in (MODULE_PACKAGES | DATA_PACKAGES).items()}
    installed = path if path.startswith("pr2l/") else f"pr2l/{path}"
    kind = max(
        (kind for kind, folder in folders.items() if installed.startswith(folder)), key=lambda kind: len(folders[kind])
    )
    return kind, installed.removeprefix(folders[kind])
