"""Checks of the requirements of Minecraft, for `pr2l sim check`; Python 3.9, numpy and minedojo only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Link = tuple  # (requirement, whether it is met, what was found, the next step if it is not met)

REINSTALL = "run `pr2l sim install minedojo` again"
SAMPLE = {"image_size": (160, 256), "world_seed": 123}


def checks(options: dict[str, Any]) -> Iterator[Link]:
    """Yield the requirements in the order of their dependencies; stop if the package cannot be imported.

    Args:
        options: Not used.
    """
    packages = list(_packages())
    yield from packages
    if not all(works for _, works, _, _ in packages):
        return
    tasks = _tasks()
    yield tasks
    if not tasks[1]:
        return
    yield _make_tasks()
    yield _java()
    yield _build()
    yield _display()


def _packages() -> Iterator[Link]:
    """Yield the versions of packages; gym 0.22 has another interface, and with numpy 2 minedojo cannot make a world."""
    for name, pattern in (("minedojo", r"0\.1"), ("gym", r"0\.21"), ("numpy", r"1\.")):
        try:
            installed_version = version(name)
        except PackageNotFoundError:
            installed_version = "none"
        requirement = f"{name} {pattern}".replace("\\", "").rstrip(".")
        yield requirement, re.match(pattern, installed_version) is not None, installed_version, REINSTALL


def _tasks() -> Link:
    try:
        from minedojo.tasks import ALL_TASK_IDS
    except Exception as error:  # whatever an import of a hundred modules may raise
        return "import minedojo", False, f"{type(error).__name__}: {error}", REINSTALL
    return "import minedojo", True, f"{len(ALL_TASK_IDS)} tasks", ""


def _make_tasks() -> Link:
    from .dojo import make
    from .tasks import PAPER_TASKS

    try:
        for task in PAPER_TASKS:
            env = make(task, SAMPLE, lidar=True)
    except Exception as error:
        return "tasks can be made", False, f"{task}: {type(error).__name__}: {error}", REINSTALL
    return "tasks can be made", True, f"{', '.join(PAPER_TASKS)}; {env.action_space}", ""


def _java() -> Link:
    java_home = os.environ.get("JAVA_HOME")
    java = str(Path(java_home, "bin", "java")) if java_home else shutil.which("java")
    number = java_version(subprocess.run([java, "-version"], capture_output=True, text=True).stderr) if java else None
    step = (
        "install a JDK 8 (`conda install -c conda-forge openjdk=8`, `apt install openjdk-8-jdk` where there is one, or "
        "adoptium.net), and name it in JAVA_HOME with its bin first in PATH"
    )
    return "Java 8", number == 8, f"Java {number} ({java})" if number else "none", step


def java_version(text: str) -> int | None:
    """Return the major version in the output of `java -version`, 8 for "1.8.0_392" and 17 for "17.0.15", or None.

    Args:
        text: Output of the command, which Java writes to stderr.
    """
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else None


def _build() -> Link:
    """Check for a built Malmo, or for the downloads from which Gradle builds it; launchClient.sh starts either."""
    import minedojo

    folder = Path(minedojo.__file__).parent / "sim" / "Malmo" / "Minecraft"
    gradle = Path(os.environ.get("GRADLE_USER_HOME") or Path.home() / ".gradle")
    jar = folder / "build" / "libs" / "MalmoMod-0.37.0-fat.jar"
    if jar.exists():
        return "Minecraft with Malmo", True, str(jar), ""
    downloads = [*gradle.glob("wrapper/dists/gradle-4.10.2-*"), *gradle.glob("caches/minecraft")]
    if len(downloads) == 2:
        return "Minecraft with Malmo", True, f"downloads in {gradle}; Gradle builds it at the first start", ""
    step = (
        f"with Java 8 and a network, run `{folder / 'launchClient.sh'} -port 9000 -env` once, until it says DORMANT: "
        "it downloads Gradle 4.10.2, Forge and Minecraft 1.11.2; or copy a ~/.gradle from a machine where that was done"
    )
    return "Minecraft with Malmo", False, f"neither {jar.name} in the package nor downloads in {gradle}", step


def _display() -> Link:
    display, virtual = os.environ.get("DISPLAY"), shutil.which("xvfb-run")
    if display:
        return "a display", True, f"DISPLAY={display}", ""
    step = "`apt install xvfb` (a run without a display then sets MINEDOJO_HEADLESS=1 itself), or set DISPLAY"
    return "a display", virtual is not None, virtual or "neither DISPLAY nor xvfb-run", step
