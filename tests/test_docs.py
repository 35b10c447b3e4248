"""What the documentation shows is run: configs load, commands exist, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import commands
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_list_runs_for_everything():
    for kind in ("tasks", "vlms", "encoders", "environments", "prompts", "algorithms", "networks", "configs"):
        result = CliRunner().invoke(get_command(app), ["list", kind])
        assert result.exit_code == 0 and result.output.strip()
