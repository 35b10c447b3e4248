"""Shared fixtures; tests run without network and display, on one thread, with the default signal handlers."""

import os
import re
import signal
from pathlib import Path

import imageio.v2 as imageio
import pytest
from hypothesis import HealthCheck, settings
from plugins import WritePlugin, plugin_writer

from pr2l.core.registry import DATA_PACKAGES, MODULE_PACKAGES

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine takes seconds to draw examples; the time limit of a test is pytest's.
settings.register_profile("pr2l", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pr2l")

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
def write_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WritePlugin:
    """Return write_plugin(kind, name, source), which installs a package with a plug-in.

    The source is Python, or YAML for prompts and configs. The plug-ins of pr2l stay.
    """
    return plugin_writer(tmp_path, monkeypatch)


@pytest.fixture
def examples(write_plugin: WritePlugin) -> list[tuple[str, str]]:
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
