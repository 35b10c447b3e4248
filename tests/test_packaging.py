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
def test_lock_file_has_only_exact_public_versions(lock: str) -> None:
    wrong = [line for line in lines(lock) if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)]
    assert wrong == []
    assert len(versions(lock)) == len(lines(lock))


def test_locked_torch_installs_as_a_cpu_build() -> None:
    assert LOCK["torch"] == "2.13.0"


@pytest.mark.parametrize("requirement", DOCS, ids=str)
def test_docs_lock_file_satisfies_pyproject(requirement: Requirement) -> None:
    version = versions("requirements-docs.lock")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


@pytest.mark.parametrize("requirement", [r for r in CORE + DEV if r.marker is None], ids=str)
def test_lock_file_satisfies_pyproject(requirement: Requirement) -> None:
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)], prereleases=True)


@pytest.mark.parametrize("name", sorted(LOCK))
def test_lock_file_satisfies_requirements_of_its_packages(name: str) -> None:
    """Accelerator libraries are not pinned, because the CPU build of torch does not need them."""
    try:
        requirements = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:
        pytest.fail(f"{name} is in the lock but not installed; run make lint to bring .venv up to date")
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            if canonicalize_name(requirement.name).startswith(("nvidia-", "cuda-", "triton")):
                continue
            version = LOCK.get(canonicalize_name(requirement.name))
            assert version is not None, f"{name} needs {requirement.name}, which is not in the lock file"
            assert requirement.specifier.contains(version, prereleases=True), (
                f"{name} needs {requirement}, but the lock file has {version}"
            )


def test_conda_environment_installs_the_lock_file_on_an_allowed_python() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    [python] = [line for line in dependencies if str(line).startswith("python=")]
    [pip] = [line["pip"] for line in dependencies if isinstance(line, dict)]
    version = python.removeprefix("python=")
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert pip == ["-r requirements.lock", "-e ."]


def test_installed_packages_have_one_top_level_name() -> None:
    """So a user's own folder `configs` hides none of ours. setuptools follows the links in pr2l/."""
    options = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    installed = find_packages(str(ROOT), include=options["include"])
    folders = {f.parent for package in PACKAGES for f in (ROOT / package).rglob("__init__.py")}
    parts = [f.relative_to(ROOT).parts for f in folders]
    assert {name.split(".")[0] for name in installed} == {"pr2l"}
    assert set(installed) == {".".join(p if p[0] == "pr2l" else ("pr2l", *p)) for p in parts}


def test_data_files_are_included() -> None:
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


def test_version_equals_that_of_pyproject() -> None:
    assert pr2l.__version__ == PROJECT["version"]


def test_dependencies_are_the_imported_packages() -> None:
    """Indirect dependencies are imported by transformers' processors, imageio and SB3's logger."""
    indirect = {"num2words", "sentencepiece", "pillow", "imageio-ffmpeg", "tensorboard"}
    declared = {canonicalize_name(r.name) for r in CORE}
    distributions = packages_distributions()
    modules = {
        module for package in PACKAGES for file in folder(package).rglob("*.py") for module in imported_packages(file)
    }
    used = {canonicalize_name(d) for m in modules for d in distributions.get(m, [])[:1]}
    extras = PROJECT["optional-dependencies"]
    optional = {canonicalize_name(Requirement(r).name) for extra in ("api", "miniwob", "wandb") for r in extras[extra]}
    assert used - declared - optional - {"pr2l"} == set(), "imported, but not a dependency"
    assert declared - used - indirect == set(), "a dependency, but not imported"


def imported_packages(file: Path) -> set[str]:
    """Return the top-level packages that a file imports, without those of this project and the standard library."""
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.split(".")[0])
    return packages - set(sys.stdlib_module_names) - set(PACKAGES)


def test_source_distribution_includes_the_tests(tmp_path: Path) -> None:
    own = {path.name for path in ROOT.iterdir()} - {*PACKAGES, "tests", *(path.name for path in ROOT.glob("*.*"))}

    def ignore(folder: str, names: list[str]) -> set[str]:
        outside = {"docs", "runs", "data", "site"} & own if Path(folder) == ROOT else set()
        return outside | {name for name in names if name.startswith(".") or name in ("__pycache__", "weights")}

    shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=ignore)
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
