"""The report of eight runs whose statistics are worked out by hand."""

import csv
import json
import re
from pathlib import Path

import pytest

from pr2l.benchmark.report import AGGREGATES, few_seeds, interval, markdown, of_task, overall, report, summarise
from pr2l.benchmark.rows import read_rows
from pr2l.benchmark.suites import load_suite
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json


@pytest.fixture
def summary(toys, rows):
    return summarise(toys, read_rows(rows, toys))


def test_aggregates_over_tasks(summary):
    """Scores 1, 1 and 0.5, 0: the middle two of the four are 0.5 and 1; task means are 1 and 0.25."""
    pixels, small = summary["methods"]["pixels"], summary["methods"]["small"]
    assert (pixels["iqm"][0], pixels["mean"][0], pixels["median"][0]) == (0.75, 0.625, 0.625)
    assert small["iqm"][0] == small["mean"][0] == small["median"][0] == 0.25
    for found in (pixels, small):  # each run is of four episodes only
        assert all(high - low > 0.2 and low < value < high for value, low, high in map(found.get, AGGREGATES))
    # Against 0.25: 1 wins always, 0.5 wins and 0 loses.
    assert pixels["improvement"][0] == 0.75 and small["improvement"] is None
    assert (pixels["runs"], summary["rows"], summary["wanted"]) == (4, 8, 8)


def test_the_best_come_first(summary):
    assert [row[0] for row in overall(summary)] == ["pixels", "small", "random"]
    assert [row[0] for row in of_task(summary, "toy/colours")] == ["pixels", "small", "random"]
    summary["methods"]["pixels"]["iqm"], summary["methods"]["small"]["iqm"] = None, [0.5, 0.0, 1.0]
    assert [row[0] for row in overall(summary)] == ["small", "random", "pixels"], "without a number, last"


def test_random_actions_are_in_every_table_and_what_is_worse_is_marked(toys, rows, summary, tmp_path):
    """They succeed in 1 of 8 episodes of each task: Wilson's interval, whatever the row's own says."""
    eighth = "0.12 [0.02, 0.47]"
    assert [row[:3] for row in of_task(summary, "toy/again")][-1] == ("random", eighth, "0.25 [0.00, 1.00]")
    chance = summary["random"]
    assert (chance["iqm"][0], chance["mean"][0], chance["improvement"][0]) == (0.125, 0.125, 0)  # against 0.25
    assert chance["improvement"][2] > 0.2, "of two pairs only"
    summary["methods"]["small"]["iqm"] = [0.1, 0.0, 0.2]
    assert [row[0] for row in overall(summary)] == ["pixels", "random", "small (below random)"]
    path = rows / "toys" / "toy-again-pixels-seed0.json"
    values = read_json(path)
    values["results"]["played"] = {"success": [0.0] * 4, "return": [0.0] * 4}
    values["results"]["evaluation"]["success"]["value"] = 0.0
    write_json(path, values)
    report("toys", rows, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| pixels (below random) | 0.00 [0.00, 0." in text and text.count(f"| random | {eighth} |") == 2
    assert "all,random,mean,0.125" in (tmp_path / "report" / "report.csv").read_text()


def test_few_seeds_are_warned_of(toys, rows, summary):
    assert "Only 2 seeds: intervals over runs may be too narrow." in markdown(summary)
    assert few_seeds(summary | {"seeds": [0, 1, 2, 3, 4]}) == ""


def test_the_profile_and_the_curve(summary):
    found = summary["methods"]["pixels"]
    profile = dict(zip(found["profile"]["at"], found["profile"]["value"], strict=True))
    assert (profile[0.0], profile[0.5], profile[1.0]) == (0.75, 0.5, 0.0)
    curve = found["curve"]
    assert (curve["at"][0], curve["value"][0]) == (0.5, 0.25) and (curve["at"][-1], curve["value"][-1]) == (1.0, 0.75)
    assert curve["low"] == curve["value"] == curve["high"]  # all runs have the same


def test_the_numbers_of_a_task(summary):
    found = summary["tasks"]["toy/again"]["pixels"]
    assert found["success"][0] == 0.25 and found["each_seed"] == [0.5, 0.0] and found["return"][0] == 0.5
    passed = 128 * 47 / 60  # 0.52 is passed at step 98.6
    assert found["steps_to_threshold"]["median"] == pytest.approx(passed, abs=1e-3)
    assert found["frames_per_second"] == [64, 64, 64]
    assert (found["peak_memory"], found["gflop"]) == (1_500_000_000, 0.25)


def test_half_done_counts_the_seeds_that_all_tasks_have(toys, rows):
    (rows / "toys" / "toy-again-pixels-seed1.json").unlink()
    found = summarise(toys, read_rows(rows, toys))["methods"]["pixels"]
    assert (found["runs"], found["mean"][0], found["improvement"][0]) == (2, 0.75, 1.0)
    (rows / "toys" / "toy-again-pixels-seed0.json").unlink()
    summary = summarise(toys, read_rows(rows, toys))
    assert summary["methods"]["pixels"]["iqm"] is None and "pixels" not in summary["tasks"]["toy/again"]
    assert "| pixels | - | - | - | - | 0 |" in markdown(summary)


def test_a_run_that_never_gets_there(toys, rows):
    for path in (rows / "toys").glob("toy-again-*.json"):
        values = read_json(path)
        if "small" in path.name or values["seed"] == 1:
            values["curve"]["success"] = [None, *[0.1] * 59]
        write_json(path, values)
    again = summarise(toys, read_rows(rows, toys))["tasks"]["toy/again"]
    assert again["pixels"]["steps_to_threshold"]["median"] is None
    text = markdown(summarise(toys, read_rows(rows, toys)))
    assert "not by most [100, 100] (1 of 2 seeds)" in text and "not reached (0 of 2 seeds)" in text


def test_the_files_of_a_report_and_the_same_again(toys, rows, tmp_path):
    summary = report("toys", rows)
    first = {path.name: path.read_bytes() for path in (rows / "toys" / "report").iterdir()}
    assert json.loads(first["report.json"]).items() >= summary.items()
    lines = list(csv.DictReader(first["report.csv"].decode().splitlines()))
    [mean] = [line for line in lines if (line["task"], line["method"], line["statistic"]) == ("all", "pixels", "mean")]
    assert float(mean["value"]) == 0.625
    assert "| pixels | 0.75 [0.40, 0.90] | 0.62 [" in first["report.md"].decode()
    assert {"aggregates.png", "efficiency.png", "toy-colours.png", "toy-again.png"} <= set(first)
    report("toys", rows, tmp_path / "other")
    assert all((tmp_path / "other" / name).read_bytes() == data for name, data in first.items())


def test_no_rows_no_report(toys, tmp_path):
    with pytest.raises(UserError, match="there are no rows of toys; `pr2l bench run toys` makes them"):
        report("toys", tmp_path)


def test_an_interval_reads_well():
    assert interval([0.5, 0.25, 1.0]) == "0.50 [0.25, 1.00]"
    assert interval([1234.5, 1000, 2000], digits=0) == "1,234 [1,000, 2,000]" and interval(None) == "-"


def test_the_tables_of_the_documentation_are_those_of_the_committed_rows():
    """docs/results/README.md has intervals of every cell, README.md only of the last; an arrow: below random."""
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
            known = [*(chance["tasks"][task]["success"] for task in suite.tasks), chance["iqm"]]
            cells = [
                interval(estimate) + (" ↓" if estimate[0] < least[0] else "")
                for estimate, least in zip(estimates, known, strict=True)
            ]
            if page.parent != docs / "results":
                cells[:3] = [re.sub(r" \[.*?\]", "", cell) for cell in cells[:3]]
            rows = [line.replace("**", "") for line in text.splitlines() if re.match(rf"\| `{method}`.*\|.*\|", line)]
            assert any(" | ".join(cells) in row for row in rows), f"{page.name}: {method} | {' | '.join(cells)}"
