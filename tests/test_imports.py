"""The imports in the source of every file follow the import order of the packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pr2l", "environments", "policies", "prompts", "configs")
WORKER_FILES = ("environments/isolation/worker.py",)  # runs where `environments` is a top-level package
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]

# Packages of pr2l in import order: each may import itself and those before it.
ORDER = (
    "core", "vlms", "encoders", "rollout", "data", "training", "agents",
    "pretraining", "profiling", "benchmark", "prompting", "api", "cli",
)  # fmt: skip
LEAVES = ("environments", "policies", "prompts", "configs")  # import no other package of this project

# Heavy or optional package -> the beginning of the files that may import it.
OWNERS = {
    "vizdoom": ("environments/doom/",),
    "wandb": ("pr2l/training/",),
    "peft": ("pr2l/vlms/lora.py",),
    "minari": ("pr2l/training/collect.py", "pr2l/training/recorder.py", "pr2l/data/"),
    "habitat": tuple(f"environments/habitat/{part}.py" for part in ("experts", "remote", "sim")),
    "minedojo": ("environments/minecraft/",),
    "android_env": ("environments/android/",),
    "android_world": ("environments/android/",),
    "sklearn": ("pr2l/prompting/probes.py",),
    "selenium": ("environments/miniwob/",),
    "ray": (),
    "google": ("pr2l/agents/api/gemini.py",),
    "httpx2": ("pr2l/agents/api/openai_server.py",),
}


def imports(source: str, package: str) -> Iterator[str]:
    """Yield the modules that a source imports, also inside functions; `from .` refers to `package`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports_of(file: Path) -> list[str]:
    parts = file.relative_to(ROOT).parent.parts
    return list(imports(file.read_text(encoding="utf-8"), package_name(parts)))


def package_name(parts: tuple[str, ...]) -> str:
    """Return the dotted name under which a folder, as parts of its path from the root, is installed."""
    return ".".join(parts if parts[:1] == ("pr2l",) else ("pr2l", *parts))


def package_of(module: str) -> str:
    """Return the package inside pr2l of a dotted name: "pr2l.core.types" -> "core", "pr2l" -> "" (its __init__)."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__") else ""


def problems(file: str, modules: list[str]) -> list[str]:
    """Return a message for each module that a file, as path from the root, must not import."""
    top_folder = file.split("/")[0]
    messages = []
    for module in modules:
        top = module.split(".")[0]
        if top in LEAVES and file not in WORKER_FILES:
            messages.append(f"{file} imports {module}: write pr2l.{module}, or a relative import inside {top}")
        if top == "pr2l" and top_folder in LEAVES and package_of(module) != top_folder:
            messages.append(f"{file} imports {module}: {top_folder} must not import other packages of this project")
        if top == "pr2l" and top_folder == "pr2l":
            here, there = package_of(file.removesuffix(".py").replace("/", ".")), package_of(module)
            if here and there not in (*LEAVES, "") and ORDER.index(there) > ORDER.index(here):
                messages.append(f"{file} ({here}) imports {module} ({there}): the import order is {' <- '.join(ORDER)}")
        if top in OWNERS and not file.startswith(OWNERS[top] or "nobody"):
            messages.append(f"{file} imports {top}, which only {' and '.join(OWNERS[top]) or 'nobody'} may")
    return messages


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_file_follows_the_import_order(file: Path) -> None:
    assert problems(file.relative_to(ROOT).as_posix(), imports_of(file)) == []


@pytest.mark.parametrize(
    ("file", "source", "count"),
    [
        ("environments/doom/engine.py", "import pr2l.core.types", 1),
        ("environments/doom/engine.py", "def f():\n    from pr2l.policies import ppo", 1),
        ("environments/doom/engine.py", "def f():\n    from ...policies import ppo", 1),
        ("environments/doom/engine.py", "import vizdoom\nfrom .maps import write\nfrom .. import base", 0),
        ("environments/doom/engine.py", "from environments.doom import maps", 1),
        ("policies/ppo.py", "from pr2l.environments.doom import make", 1),
        ("policies/ppo.py", "from .networks import mlp\nfrom pr2l.policies.common import sb3", 0),
        ("pr2l/vlms/families/llava.py", "from pr2l.encoders.prompted import Encoder", 1),
        ("pr2l/vlms/families/llava.py", "from ...encoders import prompted", 1),
        ("pr2l/vlms/families/llava.py", "from .. import base", 0),
        ("pr2l/core/types.py", "from pr2l.vlms import base", 1),
        ("pr2l/rollout/vec_embed.py", "from pr2l.training import train", 1),
        ("pr2l/training/train.py", "from pr2l.core import config\nfrom pr2l import __version__\nimport wandb", 0),
        ("pr2l/training/train.py", "from pr2l.cli import app", 1),
        ("pr2l/training/train.py", "from pr2l.policies import ppo", 0),
        ("pr2l/cli/commands.py", "from pr2l.training.train import train\nimport minari", 1),
    ],
)
def test_problems_are_found(file: str, source: str, count: int) -> None:
    assert len(problems(file, list(imports(source, package_name(Path(file).parent.parts))))) == count


def test_files_of_every_folder_are_checked() -> None:
    folders = {file.relative_to(ROOT).parent.as_posix() for file in FILES}
    assert folders >= {*PACKAGES, "pr2l/vlms/families", "pr2l/encoders", "policies/networks", "environments/doom"}
