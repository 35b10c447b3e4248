"""Whether a paper's order holds: differences and verdicts that follow from chosen success rates."""

import shutil

import numpy as np
import pytest
import yaml

from pr2l.benchmark.leaderboard import site
from pr2l.benchmark.order import difference, order
from pr2l.benchmark.report import markdown, of_paper, summarise
from pr2l.benchmark.rows import read_rows
from pr2l.benchmark.suites import load_suite
from pr2l.core.io import read_json, write_json

PAPER = {"best": 0.7, "good": 0.6, "fair": 0.5, "equal": 0.5}


def test_verdicts_follow_from_the_intervals_of_the_differences():
    rates = {"best": np.array([[0.9, 1.0]]), "good": np.array([[0.1, 0.1]]), "fair": np.array([[0.5, 0.5]])}
    comparison = order(PAPER, rates, episodes=100)
    assert comparison["methods"] == {"best": [0.7, 0.95], "good": [0.6, 0.1], "fair": [0.5, 0.5], "equal": [0.5, None]}
    verdicts = {(better, other): verdict for better, other, _, verdict in comparison["pairs"]}
    assert verdicts == {  # equal rates of the paper are no pair
        ("best", "good"): "holds",
        ("best", "fair"): "holds",
        ("best", "equal"): None,
        ("good", "fair"): "reversed",
        ("good", "equal"): None,
    }
    assert [round(pair[2][0], 12) for pair in comparison["pairs"] if pair[2]] == [0.85, 0.45, -0.4]
    assert comparison["answer"] == "Of 5 pairs, the order holds in 2, is reversed in 1; 2 have no runs yet."


def test_answer_without_runs_and_with_all_runs():
    paper = {"best": 0.7, "good": 0.6}
    assert order(paper, {}, episodes=4)["answer"] == "Of 1 pairs, 1 have no runs yet."
    rates = {"best": np.array([[1.0]]), "good": np.array([[0.0]])}
    assert order(paper, rates, episodes=100)["answer"] == "Of 1 pairs, the order holds in 1."


def test_few_episodes_leave_a_pair_undecided():
    rates = {"best": np.array([[0.75]]), "good": np.array([[0.5]])}
    [[*_, (value, low, high), verdict]] = order({"best": 0.7, "good": 0.6}, rates, episodes=4)["pairs"]
    assert value == 0.25 and low < 0 < high and verdict == "undecided"


@pytest.mark.parametrize(("ours", "theirs"), [(1.0, 0.0), (0.0, 1.0)])
def test_interval_of_the_largest_difference_has_a_width(ours, theirs):
    value, low, high = difference(np.array([[ours]]), np.array([[theirs]]), 4)
    assert value == ours - theirs and high - low > 0.1 and -1 <= low <= high <= 1


def test_report_has_the_paper_beside_the_suite(toys, rows, tmp_path):
    """The rows of `pixels` succeed in 1, 1, 0.5 and 0 of the episodes, and those of `small` in 0.25."""
    definition = toys.definition.model_dump(mode="json") | {
        "paper": {"source": "a table", "success": {"small": 0.6, "pixels": 0.4}, "caveat": "Other tasks."}
    }
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    summary = summarise(load_suite(str(tmp_path / "toys.yaml")), read_rows(rows, toys))
    methods, [pair] = of_paper(summary["paper"]["orders"][""])
    assert methods == [("small", "0.600", "0.250"), ("pixels", "0.400", "0.625")]
    assert pair[:2] == ("small", "pixels") and pair[2].startswith("-0.38 [")
    text = markdown(summary)
    assert "Paper: a table. Other tasks." in text and "| small | 0.600 | 0.250 |" in text


def test_leaderboard_has_the_paper_beside_the_suite(toy_plugins, toys, rows, tmp_path):
    definition = toys.definition.model_dump(mode="json")
    definition["paper"] = {"source": "a <table>", "success": {"small": 0.6, "pixels": 0.4}}
    [suites] = toy_plugins.glob("*/configs/benchmarks")
    (suites / "papers.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    (rows / "papers").mkdir()
    for path in (rows / "toys").glob("*.json"):
        write_json(rows / "papers" / path.name, read_json(path) | {"suite": "papers"})
    shutil.rmtree(rows / "toys")
    page = site(rows, tmp_path / "site").read_text()
    assert "Does the order of the paper hold?" in page and "a &lt;table&gt;." in page
    assert '<th scope="row">small</th><td>0.600</td><td>0.250</td>' in page
