"""Who may import whom, read from the source of every file, so that the layers stay layers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pr2l", "environments", "policies", "prompts", "configs")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]

# A layer of pr2l may import itself and what stands before it; every module not named here is a program.
LAYERS = ("base", "vlms", "encoders", "observe", "programs", "cli")
BASE = ("__init__", "_yaml", "types", "errors", "registry", "prompt", "config", "_digest")

# Heavy or optional package -> the beginning of the files that may import it.
OWNERS = {
    "vizdoom": ("environments/doom.py", "environments/_doom"),
    "wandb": ("pr2l/train.py", "pr2l/_metrics.py"),
    "peft": ("pr2l/finetune.py",),
    "minari": ("pr2l/collect.py", "pr2l/embed.py"),
    "habitat": tuple(f"environments/_habitat_{part}.py" for part in ("experts", "far", "sim")),
    "minedojo": ("environments/_minecraft_",),
    "sklearn": ("pr2l/probes.py",),
    "selenium": ("environments/miniwob.py",),
    "ray": (),
}


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that a source imports anywhere, functions included; package: what "from ." means in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(file: Path) -> list[str]:
    return list(imports(file.read_text(encoding="utf-8"), ".".join(file.relative_to(ROOT).parent.parts)))


def layer(module: str) -> str:
    """The layer of a dotted name inside pr2l."""
    part = (module.split(".") + ["__init__"])[1]
    if part in LAYERS:
        return part
    return "base" if part in BASE or part == "__version__" else "programs"


def problems(file: str, modules: list[str]) -> list[str]:
    """What a file (path below the root) may not import, among the modules that it imports."""
    package = file.split("/")[0]
    found = []
    for module in modules:
        top = module.split(".")[0]
        if package != "pr2l" and top in PACKAGES and top != package:
            found.append(f"{file} imports {module}: {package} knows no other package of this project")
        if package == top == "pr2l":
            mine, its = layer(file.removesuffix(".py").replace("/", ".")), layer(module)
            if LAYERS.index(its) > LAYERS.index(mine):
                found.append(f"{file} ({mine}) imports {module} ({its}): imports run {' <- '.join(LAYERS)}")
        if top in OWNERS and not file.startswith(OWNERS[top] or "nobody"):
            found.append(f"{file} imports {top}, which only {' and '.join(OWNERS[top]) or 'nobody'} may")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_file_keeps_to_its_layer(file: Path) -> None:
    assert problems(file.relative_to(ROOT).as_posix(), imports_of(file)) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("environments/doom.py", "import pr2l.types", 1),
        ("environments/doom.py", "def f():\n    from policies import ppo", 1),
        ("environments/doom.py", "import vizdoom\nfrom environments._doom_maps import write", 0),
        ("policies/ppo.py", "from environments.doom import make", 1),
        ("policies/ppo.py", "from policies.networks import mlp", 0),
        ("pr2l/vlms/llava.py", "from pr2l.encoders.prompted import Encoder", 1),
        ("pr2l/vlms/llava.py", "from ..encoders import prompted", 1),
        ("pr2l/vlms/llava.py", "from . import _base", 0),
        ("pr2l/types.py", "from pr2l.vlms import llava", 1),
        ("pr2l/observe.py", "from pr2l import train", 1),
        ("pr2l/train.py", "from pr2l import observe, config, __version__\nimport wandb", 0),
        ("pr2l/train.py", "from pr2l.cli import app", 1),
        ("pr2l/cli.py", "from pr2l.train import train\nimport minari", 1),
        ("pr2l/__init__.py", "import pr2l.train", 1),
    ],
)
def test_the_rule_itself(file: str, source: str, count: int) -> None:
    package = ".".join(Path(file).parent.parts)
    assert len(problems(file, list(imports(source, package)))) == count


def test_every_folder_of_the_project_is_read() -> None:
    folders = {file.relative_to(ROOT).parent.as_posix() for file in FILES}
    assert folders >= {*PACKAGES, "pr2l/vlms", "pr2l/encoders", "policies/networks"}
