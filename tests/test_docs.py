"""Commands, configs, links and names in the documentation and in mkdocs.yml are valid."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pages import commands, run_command
from test_imports import ORDER
from typer.main import get_command

from pr2l.benchmark.suites import names
from pr2l.cli import app
from pr2l.core import registry
from pr2l.core.config import load_config, read_config
from pr2l.core.registry import KINDS
from pr2l.pretraining.pretrain import PretrainConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]
OTHER_CONFIGS = ("pretrain/", "sims/", "search/", "benchmarks/")
CONFIGS = [name for name in registry.names("configs") if not name.startswith(OTHER_CONFIGS)]


def test_documentation_has_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_command_and_its_options_exist(page, command):
    parser, name, arguments = get_command(app), "pr2l", shlex.split(command)[1:]
    while hasattr(parser, "commands"):  # a group of commands, such as `pr2l sim`
        name, *arguments = arguments
        parser = parser.commands[name]
    parser.make_context(name, arguments, resilient_parsing=False)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith(("pr2l train doom", "pr2l check"))])
def test_configs_and_overrides_of_train_and_check_are_valid(command):
    config, *overrides = [word for word in shlex.split(command)[2:] if not word.startswith("--")]
    load_config(config, overrides)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith(("pr2l bench run", "pr2l bench report"))])
def test_suites_of_bench_commands_exist(command):
    assert shlex.split(command)[3] in names()


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("pr2l embed")])
def test_configs_and_overrides_of_embed_are_valid(command):
    _, option, config, *overrides = shlex.split(command)[2:]
    assert option == "--config"
    load_config(config, overrides)


@pytest.mark.parametrize("name", CONFIGS)
def test_included_config_is_valid(name):
    assert load_config(name).why


def test_pretraining_config_is_valid():
    assert read_config(PretrainConfig, "pretrain/tiny").why


def slugs(page):
    """Return the anchors of the headings of a page, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_targets_exist(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in slugs(target), link


def test_nav_of_mkdocs_lists_all_guides_and_only_existing_pages():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = set(re.findall(r"[\w./-]+\.md", str(site["nav"])))
    assert listed - {"index.md", "contributing.md", "security.md", "changelog.md"} <= {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    guides = {page.name for page in ROOT.glob("docs/*.md")}
    assert guides <= listed, "a page of docs/ is missing in the nav of mkdocs.yml"


def test_packages_of_api_pages_exist():
    for page in ROOT.glob("docs/api/*.md"):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert (ROOT / name.replace(".", "/") / "__init__.py").is_file(), name


def test_list_prints_every_kind():
    for kind in ("tasks", *KINDS):
        result = CliRunner().invoke(get_command(app), ["list", kind])
        assert result.exit_code == 0 and result.output.strip()


def test_architecture_page_states_the_tested_import_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert " <- ".join(ORDER) in " ".join(page.split())


# Arguments appended to commands so that they are quick.
EXTRA_ARGUMENTS = {
    "pr2l check doom/fetch/prompted": ["num_envs=2"],
    "pr2l train doom/fetch/prompted": [
        *("steps=64", "num_envs=2", "evaluation_episodes=2"),
        *("algorithm_options.n_steps=16", "algorithm_options.batch_size=32"),
    ],
    "pr2l train doom/fetch/bc": ["steps=64", "num_envs=2", "evaluation_episodes=2"],
    "pr2l train --resume": ["steps=96"],
    "pr2l prompts score": ["frames=20", "--prompts", "where"],
}
EPISODES = re.compile(r"--episodes \d+")
NOT_RUN = {
    "pr2l sim install": "needs a package index",
    "pr2l pretrain": "takes hours",
    "pr2l speed": "takes minutes",
    "pr2l collect habitat": "needs scans that have to be applied for",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/store.md", "docs/imitation.md"])
def test_commands_of_a_page_run_in_order_in_an_empty_folder(page, tmp_path, monkeypatch):
    """Commands read files that earlier ones wrote. For the other pages see test_prompts_page.py and test_page.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for command in commands(ROOT / page):
        if command.startswith(tuple(NOT_RUN)):
            continue
        command = EPISODES.sub("--episodes 2", command)
        runs = sorted(map(str, Path("runs").glob("doom-fetch-*")))
        command = command.replace("runs/doom-fetch-*", " ".join(runs))
        if "runs/RUN" in command:
            command = command.replace("runs/RUN", runs[0])
        extra = next((arguments for start, arguments in EXTRA_ARGUMENTS.items() if command.startswith(start)), [])
        run_command(command, monkeypatch, extra)


def test_tests_that_the_page_on_reliability_names_exist():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tests = re.findall(r"`([\w/]*test_\w+\.py)`", page)
    assert len(tests) > 20 and [name for name in tests if not (ROOT / "tests" / name).is_file()] == []
