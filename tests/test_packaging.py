"""pyproject.toml, requirements.lock, environment.yml and the source agree."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools import find_packages

import pr2l

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
DOCS = [Requirement(line) for line in PROJECT["optional-dependencies"]["docs"]]


def lines(lock: str) -> list[str]:
    return [line for line in (ROOT / lock).read_text().splitlines() if line[:1] != "#"]


def versions(lock: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines(lock))}


LOCK = versions("requirements.lock")
PACKAGES = ("pr2l", "environments", "policies", "prompts", "configs")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-docs.lock"])
def test_a_lock_holds_exact_public_versions_only(lock: str) -> None:
    wrong = [line for line in lines(lock) if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)]
    assert wrong == []
    assert len(versions(lock)) == len(lines(lock))


def test_the_lock_pins_the_torch_that_installs_as_a_cpu_build() -> None:
    assert LOCK["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", DOCS, ids=str)
def test_the_lock_of_the_documentation_satisfies_pyproject(requirement: Requirement) -> None:
    version = versions("requirements-docs.lock")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


@pytest.mark.parametrize("requirement", [r for r in CORE + DEV if r.marker is None], ids=str)
def test_the_lock_satisfies_pyproject(requirement: Requirement) -> None:
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)], prereleases=True)


@pytest.mark.parametrize("name", sorted(LOCK))
def test_the_lock_holds_what_its_packages_need(name: str) -> None:
    """Accelerator libraries, which the CPU build of torch does without, are not pinned."""
    try:
        needs = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        pytest.fail(f"{name} is in the lock but not installed; run make lint to bring .venv up to date")
    for need in needs:
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            if canonicalize_name(need.name).startswith(("nvidia-", "cuda-", "triton")):
                continue
            version = LOCK.get(canonicalize_name(need.name))
            assert version is not None, f"{name} needs {need.name}, which the lock lacks"
            assert need.specifier.contains(version, prereleases=True), (
                f"{name} needs {need}, locked is {version}"
            )


def test_conda_installs_the_lock_on_a_python_that_pyproject_allows() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    [python] = [line for line in dependencies if str(line).startswith("python=")]
    [pip] = [line["pip"] for line in dependencies if isinstance(line, dict)]
    version = python.removeprefix("python=")
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert pip == ["-r requirements.lock", "-e ."]


def test_what_is_installed_has_one_top_level_name() -> None:
    """Also a user's own folder `configs` hides nothing of ours: setuptools follows the links in pr2l/."""
    listing = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=listing["include"])
    folders = {f.parent for package in PACKAGES for f in (ROOT / package).rglob("__init__.py")}
    parts = [f.relative_to(ROOT).parts for f in folders]
    assert {name.split(".")[0] for name in found} == {"pr2l"}
    assert set(found) == {".".join(p if p[0] == "pr2l" else ("pr2l", *p)) for p in parts}


def test_data_files_are_packaged() -> None:
    globs = PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {file.resolve() for name, patterns in globs.items() for p in patterns for file in folder(name).glob(p)}
    data = {
        f
        for name in PACKAGES
        for f in folder(name).rglob("*")
        if f.is_file() and f.suffix != ".py" and f.parent.name != "__pycache__"
    }
    assert data - shipped == set()


def folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def test_the_version_is_written_once_more_and_equal() -> None:
    assert pr2l.__version__ == PROJECT["version"]


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    """The indirect ones are imported by transformers' processors, imageio and SB3's logger."""
    indirect = {"num2words", "sentencepiece", "pillow", "imageio-ffmpeg", "tensorboard"}
    declared = {canonicalize_name(r.name) for r in CORE}
    distributions = packages_distributions()
    modules = {
        module for package in PACKAGES for file in folder(package).rglob("*.py") for module in tops(file)
    }
    used = {canonicalize_name(d) for m in modules for d in distributions.get(m, [])[:1]}
    optional = {canonicalize_name(Requirement(r).name) for r in PROJECT["optional-dependencies"]["wandb"]}
    assert used - declared - optional - {"pr2l"} == set(), "imported, but not among the dependencies"
    assert declared - used - indirect == set(), "among the dependencies, but imported by nothing"


def tops(file: Path) -> set[str]:
    """The top-level packages that a file imports from outside this project and the standard library."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def test_a_source_distribution_has_the_tests_and_everything_that_they_import(tmp_path: Path) -> None:
    own = {path.name for path in ROOT.iterdir()} - {*PACKAGES, "tests", *(path.name for path in ROOT.glob("*.*"))}

    def unneeded(folder: str, names: list[str]) -> set[str]:
        outside = {"docs", "runs", "data", "site"} & own if Path(folder) == ROOT else set()
        return outside | {name for name in names if name.startswith(".") or name in ("__pycache__", "weights")}

    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=unneeded)
    results = tmp_path / "source" / "docs" / "results" / "bench" / "suite"
    results.mkdir(parents=True)
    for suffix in ("json", "mp4"):
        (results / f"row.{suffix}").touch()
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert needed - names == set()
    assert "docs/results/bench/suite/row.json" in names
    assert not any(name.endswith(".mp4") for name in names), "videos of committed results are a third of the size"
    assert {"Makefile", "requirements.lock", "tests/conftest.py", "pr2l/configs/smoke.yaml"} <= names
