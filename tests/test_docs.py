"""What the documentation shows is run: configs load, commands exist, links lead somewhere."""

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
from pr2l.pretraining.pretrain import PretrainConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = [(page.name, command) for page in PAGES for command in commands(page)]
NO_RUNS = ("pretrain/", "sims/", "search/", "benchmarks/")
CONFIGS = [name for name in registry.names("configs") if not name.startswith(NO_RUNS)]


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_every_command_exists_and_takes_its_options(page, command):
    taken, name, rest = get_command(app), "pr2l", shlex.split(command)[1:]
    while hasattr(taken, "commands"):  # a group, such as `pr2l sim`
        name, *rest = rest
        taken = taken.commands[name]
    taken.make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith(("pr2l train doom", "pr2l check"))])
def test_every_config_and_override_shown_is_valid(command):
    config, *overrides = [word for word in shlex.split(command)[2:] if not word.startswith("--")]
    load_config(config, overrides)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith(("pr2l bench run", "pr2l bench report"))])
def test_every_suite_shown_is_there(command):
    assert shlex.split(command)[3] in names()


@pytest.mark.parametrize("command", [c for _, c in COMMANDS if c.startswith("pr2l embed")])
def test_every_config_and_override_to_embed_with_is_valid(command):
    _, option, config, *overrides = shlex.split(command)[2:]
    assert option == "--config"
    load_config(config, overrides)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_is_valid(name):
    assert load_config(name).why


def test_the_pretraining_config_is_valid():
    assert read_config(PretrainConfig, "pretrain/tiny").why


def slugs(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or target.suffix != ".md" or anchor in slugs(target), link


def test_the_site_lists_pages_that_exist():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = set(re.findall(r"[\w./-]+\.md", str(site["nav"])))
    assert listed - {"index.md", "contributing.md", "changelog.md"} <= {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    guides = {page.name for page in ROOT.glob("docs/*.md")}
    assert guides <= listed, "a page of docs/ is missing in the nav of mkdocs.yml"


def test_the_api_pages_name_packages_that_exist():
    for page in ROOT.glob("docs/api/*.md"):
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert (ROOT / name.replace(".", "/") / "__init__.py").is_file(), name


def test_list_runs_for_everything():
    for kind in ("tasks", "vlms", "encoders", "environments", "prompts", "algorithms", "networks", "configs"):
        result = CliRunner().invoke(get_command(app), ["list", kind])
        assert result.exit_code == 0 and result.output.strip()


def test_the_page_of_the_architecture_shows_the_import_order_that_is_enforced():
    assert " <- ".join(ORDER) in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


# What makes the pages' commands small; none changes which command runs, or on which files of the ones before.
SMALL = {
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
def test_the_commands_of_a_page_run_in_their_order_in_a_fresh_folder(page, tmp_path, monkeypatch):
    """Every command finds what those before it wrote. Those of other pages: test_prompts_page.py and test_page.py."""
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
        more = next((words for start, words in SMALL.items() if command.startswith(start)), [])
        run_command(command, monkeypatch, more)
