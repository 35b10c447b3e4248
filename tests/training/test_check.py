"""`pr2l check`: findings about a config before a run."""

from itertools import count
from types import SimpleNamespace

import pytest

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.training import check as checks
from pr2l.training.check import Finding, check, findings

NAME = "doors/choose/columns"


SHORT_ROLLOUT = ("algorithm_options.n_steps=16", "algorithm_options.batch_size=16")


def findings_by_name(*overrides: str, last: str = "") -> dict[str, Finding]:
    """Return the findings about the config with overrides, up to the one named `last`; "" = all."""
    by_name = {}
    for finding in findings(load_config(NAME, overrides)):
        by_name[finding.what] = finding
        if finding.what == last:
            break
    return by_name


def test_valid_config_passes_all_checks(examples) -> None:
    by_name = findings_by_name(*SHORT_ROLLOUT)
    assert all(finding.good for finding in by_name.values())
    assert by_name.keys() >= {"policy", "first steps"} and "cache_frames" not in by_name  # the encoder is not costly
    assert by_name["prompt"].description == "3 texts, such as 'where is the red door ?'"
    assert by_name["environment"].description == "4 x frame (32, 32, 3), proprio (3,); Discrete(2)"
    assert by_name["encoder"].description == "columns: 2 tokens of 3 numbers a frame"
    assert by_name["task"].description == "success: the door has the named colour; at most 1 decisions an episode"


def test_memory_of_a_rollout(examples) -> None:
    """Tokens are in float16 with a mask of bytes; Stable-Baselines3 stores observations twice."""
    tokens, proprio, rows = 2 * 3 * 2 + 2 * 1, 3 * 4, 6 * 128
    overrides = ("num_envs=6", "algorithm_options.n_steps=128", "algorithm_options.device=cpu")
    description = findings_by_name(*overrides, last="memory")["memory"].description
    table = (1 + rows + 6) * tokens
    assert description.startswith(f"a rollout takes {(table + 2 * rows * (8 + proprio)) / 1000:.3g} kB of observations")
    description = findings_by_name(*overrides, "algorithm_options.handles=false", last="memory")["memory"].description
    assert description.startswith(f"a rollout takes {2 * rows * (tokens + proprio) / 1000:.3g} kB of observations")


def test_memory_of_the_frame_cache(examples, monkeypatch) -> None:
    monkeypatch.setattr(registry.load("encoders", "columns").Columns, "costly", True)
    finding = findings_by_name("cache_frames=1000", last="cache_frames")["cache_frames"]
    assert finding.good and finding.description.startswith("embeddings of the last 1,000 frames take 26 kB;")
    assert not findings_by_name(f"cache_frames={10**15}", last="cache_frames")["cache_frames"].good
    assert "cache_frames" not in findings_by_name("cache_frames=0", last="policy")


def test_worker_processes_and_their_batches(examples) -> None:
    by_name = findings_by_name("workers=3", *SHORT_ROLLOUT)
    assert by_name["environment"].description.endswith("; 3 worker processes, VLM batches of 3 + 1 frames a step")
    assert by_name["first steps"].good


def test_rollout_beyond_memory_fails_before_the_policy_is_created(examples) -> None:
    by_name = findings_by_name("algorithm_options.n_steps=1000000000000")
    assert not by_name["memory"].good and "fewer num_envs" in by_name["memory"].problem
    assert "policy" not in by_name
    assert "TB of observations" in by_name["memory"].description


@pytest.mark.parametrize(
    ("overrides", "name", "message"),
    [
        (["algorithm_options.recurrent=true", "algorithm_options.n_steps=513", "num_envs=1"], "policy", "single row"),
        (["prompt=maze/walk/what"], "prompt", "'item', but the task's context has 'target'"),
        (["algorithm_options.n_steps=5000000"], "policy", "the maximum is 16,777,216. Use fewer n_steps"),
        (["wandb=online"], "wandb", "pip install"),
    ],
)
def test_invalid_part_fails_with_a_message(
    examples, write_plugin, overrides: list[str], name: str, message: str
) -> None:
    text = "text: is it {item}\nslots: [item]\nwhy: a test\nsource: this test\n"
    write_plugin("prompts", "maze/walk/what", text)
    by_name = findings_by_name(*SHORT_ROLLOUT, *overrides)
    assert [what for what, finding in by_name.items() if not finding.good] == [name]
    assert message in by_name[name].problem


@pytest.mark.parametrize(("steps", "warned"), [(1024, True), (2048, True), (2049, False), (8192, False)])
def test_few_updates_give_a_warning(examples, steps: int, warned: bool) -> None:
    """An update has 256 steps in each of 4 environments."""
    finding = findings_by_name(f"steps={steps}", last="updates")["updates"]
    assert finding.good and bool(finding.problem) == warned
    assert not warned or "take at least 3,072" in finding.problem


def test_estimated_duration_counts_playing_and_updating(examples, monkeypatch) -> None:
    """A rollout has 16 steps in each of 4 environments. With a clock that advances by a second whenever it is read, it
    takes 16 s and its update 1 s, so 6,400 steps take 1,700 s."""
    monkeypatch.setattr(checks, "time", SimpleNamespace(perf_counter=count().__next__))
    finding = findings_by_name(*SHORT_ROLLOUT, "steps=6400")["first steps"]
    assert finding.description == "4 frames/s; about 28.3 min for 6,400 steps, learning included"


def test_check_fails_if_a_finding_fails(examples, capsys) -> None:
    assert check(load_config(NAME, SHORT_ROLLOUT))
    assert not check(load_config(NAME, ["algorithm_options.n_steps=5000000"]))
    printed = capsys.readouterr().out
    assert "fails" in printed and "where is the red door ?" in printed
