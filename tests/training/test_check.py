from itertools import islice

import pytest

from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.training.check import Finding, check, findings

NAME = "doors/choose/columns"


def report(*overrides: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(load_config(NAME, overrides))}


def test_a_run_that_can_start_passes_everything(examples) -> None:
    found = report()
    assert all(finding.good for finding in found.values())
    assert found["prompt"].description == "3 texts, such as 'where is the red door ?'"
    assert found["environment"].description == "4 x frame (32, 32, 3), proprio (3,); Discrete(2)"
    assert found["encoder"].description == "columns: 2 tokens of 3 numbers a frame"
    assert found["task"].description == "success: the door has the named colour; at most 1 decisions an episode"


def test_memory_is_that_of_float16_tokens_and_their_mask_and_twice_that_of_what_sb3_keeps(examples) -> None:
    tokens, proprio, rows = 2 * 3 * 2 + 2 * 1, 3 * 4, 6 * 128
    overrides = ("num_envs=6", "algorithm_options.n_steps=128", "algorithm_options.device=cpu")
    found = report(*overrides)["memory"].description
    table = (1 + rows + 6) * tokens
    assert found.startswith(f"a rollout takes {(table + 2 * rows * (8 + proprio)) / 1000:.3g} kB of observations")
    found = report(*overrides, "algorithm_options.handles=false")["memory"].description
    assert found.startswith(f"a rollout takes {2 * rows * (tokens + proprio) / 1000:.3g} kB of observations")


def test_what_is_remembered_is_counted_where_something_is(examples) -> None:
    assert "cache_frames" not in report()  # two mean colours are no slower than a look-up
    columns = registry.load("encoders", "columns").Columns
    columns.costly = True
    found = report("cache_frames=1000")["cache_frames"]
    assert found.good and found.description.startswith("embeddings of the last 1,000 frames take 26 kB;")
    assert not report(f"cache_frames={10**15}")["cache_frames"].good
    assert "cache_frames" not in report("cache_frames=0")


def test_worker_processes_are_said_with_the_batches_that_they_make(examples) -> None:
    found = report("workers=3")
    assert found["environment"].description.endswith("; 3 worker processes, VLM batches of 3 + 1 frames a step")
    assert found["first steps"].good


def test_a_rollout_that_cannot_fit_fails_before_it_is_allocated(examples) -> None:
    found = report("algorithm_options.n_steps=1000000000000")
    assert not found["memory"].good and "fewer num_envs" in found["memory"].problem
    assert "policy" not in found
    assert "TB of observations" in found["memory"].description


@pytest.mark.parametrize(
    ("overrides", "part", "message"),
    [
        (["algorithm_options.recurrent=true", "algorithm_options.n_steps=513", "num_envs=1"], "policy", "single one"),
        (["prompt=maze/walk/what"], "prompt", "needs 'item', but the task's context gives 'target'"),
        (["algorithm_options.n_steps=5000000"], "policy", "can tell only 16,777,216 apart; take fewer n_steps"),
        (["wandb=online"], "wandb", "pip install"),
    ],
)
def test_each_part_that_cannot_be_made_fails_with_its_lesson(
    examples, write_plugin, overrides: list[str], part: str, message: str
) -> None:
    text = "text: is it {item}\nslots: [item]\nwhy: another task's words\nsource: this test\n"
    write_plugin("prompts", "maze/walk/what", text)
    found = report(*overrides)
    assert [what for what, finding in found.items() if not finding.good] == [part]
    assert message in found[part].problem


@pytest.mark.parametrize(("steps", "warned"), [(1024, True), (2048, True), (2049, False), (8192, False)])
def test_few_updates_are_something_to_keep_in_mind(examples, steps: int, warned: bool) -> None:
    """256 steps in each of 4 environments are an update."""
    [finding] = [one for one in islice(findings(load_config(NAME, [f"steps={steps}"])), 2) if one.what == "updates"]
    assert finding.good and bool(finding.problem) == warned
    assert not warned or "take at least 3,072" in finding.problem


def test_the_verdict_is_the_worst_finding(examples, capsys) -> None:
    assert check(load_config(NAME))
    assert not check(load_config(NAME, ["algorithm_options.n_steps=5000000"]))
    printed = capsys.readouterr().out
    assert "fails" in printed and "where is the red door ?" in printed
