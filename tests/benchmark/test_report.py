"""Report of eight runs; the expected statistics are computed by hand."""

import copy
import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from pr2l.benchmark.report import (
    AGGREGATES,
    TASK_HEAD,
    few_seeds,
    interval,
    long_table,
    markdown,
    of_task,
    overall,
    report,
    summarise,
    task_head,
)
from pr2l.benchmark.rows import read_rows
from pr2l.benchmark.suites import load_suite
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json


@pytest.fixture(scope="module")
def toy_summary(toy_suite, row_files):
    return summarise(toy_suite, read_rows(row_files, toy_suite))


@pytest.fixture
def summary(toy_summary):
    """A copy of the summary of `toys`, which a test may change."""
    return copy.deepcopy(toy_summary)


def test_aggregates_over_tasks(summary):
    """Scores 1, 1 and 0.5, 0: the middle two of the four are 0.5 and 1; task means are 1 and 0.25."""
    pixels, small = summary["methods"]["pixels"], summary["methods"]["small"]
    assert (pixels["iqm"][0], pixels["mean"][0], pixels["median"][0]) == (0.75, 0.625, 0.625)
    assert small["iqm"][0] == small["mean"][0] == small["median"][0] == 0.25
    for estimates in (pixels, small):  # wide intervals, because a run has only four episodes
        assert all(high - low > 0.2 and low < value < high for value, low, high in map(estimates.get, AGGREGATES))
    # against the baseline's 0.25: 1 and 1 win, 0.5 wins, 0 loses
    assert pixels["improvement"][0] == 0.75 and small["improvement"] is None
    assert (pixels["runs"], summary["rows"], summary["wanted"]) == (4, 8, 8)


def test_tables_are_ordered_by_success(summary):
    assert [row[0] for row in overall(summary)] == ["pixels", "small", "random"]
    assert [row[0] for row in of_task(summary, "toy/colours")] == ["pixels", "small", "random"]
    summary["methods"]["pixels"]["iqm"], summary["methods"]["small"]["iqm"] = None, [0.5, 0.0, 1.0]
    assert [row[0] for row in overall(summary)] == ["small", "random", "pixels"]  # None is last


def test_tables_have_random_actions_and_mark_worse_methods(toys, rows, summary):
    """Random actions succeed in 1 of 8 episodes of each task; the interval is Wilson's, not the one in the rows."""
    eighth = "0.12 [0.02, 0.47]"
    assert [row[:3] for row in of_task(summary, "toy/again")][-1] == ("random", eighth, "0.25 [0.00, 1.00]")
    chance = summary["random"]
    assert (chance["iqm"][0], chance["mean"][0], chance["improvement"][0]) == (0.125, 0.125, 0)  # against 0.25
    assert chance["improvement"][2] > 0.2  # wide, because there are only two pairs
    summary["methods"]["small"]["iqm"] = [0.1, 0.0, 0.2]
    assert [row[0] for row in overall(summary)] == ["pixels", "random", "small (below random)"]
    path = rows / "toys" / "toy-again-pixels-seed0.json"
    values = read_json(path)
    values["results"]["played"] = {"success": [0.0] * 4, "return": [0.0] * 4}
    values["results"]["evaluation"]["success"]["value"] = 0.0
    write_json(path, values)
    summary = summarise(toys, read_rows(rows, toys))
    text = markdown(summary)
    assert "| pixels (below random) | 0.00 [0.00, 0." in text and text.count(f"| random | {eighth} |") == 2
    assert ("all", "random", "mean", 0.125) in [line[:4] for line in long_table(summary)]


def test_further_evaluations_have_columns_of_their_own(toys, rows, tmp_path):
    """`pixels` succeeds in 3 of 4 episodes of the evaluation `few`, `small` and random actions in none."""
    definition = toys.definition.model_dump(mode="json")
    definition["overrides"] = [*definition["overrides"], "evaluations.few.crash_at=0"]
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    for path in (rows / "toys").glob("*.json"):
        values = read_json(path)
        success = [1.0, 1.0, 1.0, 0.0] if values["method"] == "pixels" else [0.0] * 4
        few = {"played": {"success": success, "return": success}, "random": dict(values["results"]["random"])}
        few["evaluation"] = {"success": {"value": sum(success) / 4}, "length": 5.0}
        few["random"]["success"] = {"value": 0.0, "low": 0.0, "high": 0.0}
        values["results"]["evaluations"] = {"few": few}
        values["config"]["evaluations"] = {"few": {"crash_at": 0}}
        write_json(path, values)
    suite = load_suite(str(tmp_path / "toys.yaml"))
    summary = summarise(suite, read_rows(rows, suite))
    head = task_head(summary, "toy/again")
    assert head[1:4] == ("success rate", "success rate, few", "return") and len(head) == len(TASK_HEAD) + 1
    table = {row[0]: row[1:3] for row in of_task(summary, "toy/again")}
    assert {name: [cell.split()[0] for cell in cells] for name, cells in table.items()} == {
        "pixels": ["0.25", "0.75"],
        "small": ["0.25", "0.00"],
        "random": ["0.12", "0.00"],
    }
    assert table["random"][1] == "0.00 [0.00, 0.32]"  # Wilson's interval of 0 of 8
    assert "| method | success rate | success rate, few | return |" in markdown(summary)
    assert ("toy/again", "pixels", "success, few", 0.75) in [line[:4] for line in long_table(summary)]
    with pytest.raises(UserError, match="evaluations is"):  # the suite without this evaluation
        read_rows(rows, toys)


def test_few_seeds_give_a_warning(summary):
    assert "Only 2 seeds: intervals over runs may be too narrow." in markdown(summary)
    summary["seeds"] = [0, 1, 2, 3, 4]  # the rows count, not the seeds of the suite
    assert few_seeds(summary) == "Only 2 seeds: intervals over runs may be too narrow."
    of_task = summary["tasks"]["toy/again"]
    of_task["pixels"]["runs"] = 1
    assert few_seeds(summary) == "Some methods have only 1 seed: intervals over runs may be too narrow."
    for methods in summary["tasks"].values():
        for values in methods.values():
            values["runs"] = 5
    assert few_seeds(summary) == ""


def test_performance_profile_and_curve(summary):
    pixels = summary["methods"]["pixels"]
    profile = dict(zip(pixels["profile"]["at"], pixels["profile"]["value"], strict=True))
    assert (profile[0.0], profile[0.5], profile[1.0]) == (0.75, 0.5, 0.0)
    curve = pixels["curve"]
    assert (curve["at"][0], curve["value"][0]) == (0.5, 0.25) and (curve["at"][-1], curve["value"][-1]) == (1.0, 0.75)
    assert curve["low"] == curve["value"] == curve["high"]  # all runs have the same curve


def test_statistics_of_a_task(summary):
    pixels = summary["tasks"]["toy/again"]["pixels"]
    assert pixels["success"][0] == 0.25 and pixels["each_seed"] == [0.5, 0.0] and pixels["return"][0] == 0.5
    step = 128 * 47 / 60  # the first of the curve's 60 points above the threshold of 0.52, which it crosses at 98.6
    assert pixels["steps_to_threshold"]["median"] == pytest.approx(step, abs=1e-3)
    assert pixels["frames_per_second"] == [64, 64, 64]
    assert (pixels["peak_memory"], pixels["gflop"]) == (1_500_000_000, 0.25)


def test_aggregates_of_an_incomplete_suite_use_shared_seeds(toys, rows):
    (rows / "toys" / "toy-again-pixels-seed1.json").unlink()
    pixels = summarise(toys, read_rows(rows, toys))["methods"]["pixels"]
    assert (pixels["runs"], pixels["mean"][0], pixels["improvement"][0]) == (2, 0.75, 1.0)
    (rows / "toys" / "toy-again-pixels-seed0.json").unlink()
    summary = summarise(toys, read_rows(rows, toys))
    assert summary["methods"]["pixels"]["iqm"] is None and "pixels" not in summary["tasks"]["toy/again"]
    assert "| pixels | - | - | - | - | 0 |" in markdown(summary)


def test_runs_below_the_threshold(toys, rows):
    for path in (rows / "toys").glob("toy-again-*.json"):
        values = read_json(path)
        if "small" in path.name or values["seed"] == 1:
            values["curve"]["success"] = [None, *[0.1] * 59]
        write_json(path, values)
    summary = summarise(toys, read_rows(rows, toys))
    assert summary["tasks"]["toy/again"]["pixels"]["steps_to_threshold"]["median"] is None
    text = markdown(summary)
    assert "not by most [100, 100] (1 of 2 seeds)" in text and "not reached (0 of 2 seeds)" in text


def test_files_of_a_report_are_reproducible(toys, rows, tmp_path):
    summary = report("toys", rows)
    files = {path.name: path.read_bytes() for path in (rows / "toys" / "report").iterdir()}
    assert json.loads(files["report.json"]).items() >= summary.items()
    lines = list(csv.DictReader(files["report.csv"].decode().splitlines()))
    [mean] = [line for line in lines if (line["task"], line["method"], line["statistic"]) == ("all", "pixels", "mean")]
    assert float(mean["value"]) == 0.625
    assert files["report.md"].decode() == markdown(summary)
    assert "| pixels | 0.75 [0.40, 0.90] | 0.62 [" in markdown(summary)
    assert {"aggregates.png", "efficiency.png", "toy-colours.png", "toy-again.png"} <= set(files)
    report("toys", rows, tmp_path / "second")
    assert all((tmp_path / "second" / name).read_bytes() == data for name, data in files.items())


def test_missing_rows_raise(toys, tmp_path):
    with pytest.raises(UserError, match="no result rows of toys; make them with `pr2l bench run toys`"):
        report("toys", tmp_path)


def test_format_of_intervals():
    assert interval([0.5, 0.25, 1.0]) == "0.50 [0.25, 1.00]"
    assert interval([1234.5, 1000, 2000], digits=0) == "1,234 [1,000, 2,000]" and interval(None) == "-"


def test_tables_of_the_documentation_agree_with_the_committed_rows():
    """docs/results/README.md has an interval in each cell, README.md in the last; an arrow marks rates below random."""
    docs = Path(__file__).parents[2] / "docs"
    suite = load_suite("doom-mini")
    summary = summarise(suite, read_rows(docs / "results" / "bench", suite))
    chance = summary["random"]
    for page in (docs.parent / "README.md", docs / "results" / "README.md"):
        text = page.read_text(encoding="utf-8")
        for method in [*suite.methods, "random"]:
            estimates = [
                (chance["tasks"][task] if method == "random" else summary["tasks"][task][method])["success"]
                for task in suite.tasks
            ]
            estimates.append((chance if method == "random" else summary["methods"][method])["iqm"])
            random_estimates = [*(chance["tasks"][task]["success"] for task in suite.tasks), chance["iqm"]]
            cells = [
                interval(estimate) + (" ↓" if estimate[0] < random_estimate[0] else "")
                for estimate, random_estimate in zip(estimates, random_estimates, strict=True)
            ]
            if page.parent != docs / "results":
                cells[:3] = [re.sub(r" \[.*?\]", "", cell) for cell in cells[:3]]
            rows = [line.replace("**", "") for line in text.splitlines() if re.match(rf"\| `{method}`.*\|.*\|", line)]
            assert any(" | ".join(cells) in row for row in rows), f"{page.name}: {method} | {' | '.join(cells)}"
