"""Rank correlations of made-up variants, computed by hand, and of real prompts with made-up success rates."""

import pytest

from pr2l.benchmark.rows import row_of, write_row
from pr2l.benchmark.suites import load_suite
from pr2l.core.errors import UserError
from pr2l.core.io import read_json
from pr2l.core.prompt import Prompt
from pr2l.core.statistics import Estimate
from pr2l.prompting import correlate as program
from pr2l.prompting.correlate import Variant, correlate, correlations
from pr2l.prompting.probes import Probe
from pr2l.prompting.score import PromptScore
from pr2l.training.runs import Run
from pr2l.vlms.base import Defaults

VARIANTS = ("where", "present", "describe", "act")


def variant(name, *runs, presence, direction, answered=True):
    """A variant with two probes and these runs of episodes; an episode that succeeds returns -2, one that fails 0."""
    accuracies = {"presence": presence, "direction": direction}
    rate = Estimate(presence, 0.0, 1.0) if answered else None
    score = PromptScore(
        prompt=Prompt(name=name, text="", why="a test", source="this file"),
        options=Defaults(),
        present=rate,
        absent=rate,
        says=[],
        view={truth: Probe(Estimate(value, 0, 1), 0.5, 10) for truth, value in accuracies.items()},
        cells={},
        ms=1.0,
        answers=[],
    )
    return Variant(name, score, {"success": runs, "return": [[-2 * value for value in run] for run in runs]})


def rho(results, of, key="success"):
    return next(correlation.ranks[key].rho for correlation in results if correlation.of == of)


def test_rank_correlations_computed_by_hand():
    """The ranks of success are 1 2 3 4, those of presence 1 2 3 4, of direction 4 3 2 1, and of their mean 2 1 3 4."""
    variants = [
        variant("a", [0, 0], [0, 0], presence=0.5, direction=0.9),
        variant("b", [0, 1], [0, 0], presence=0.6, direction=0.7),
        variant("c", [0, 1], [1, 0], presence=0.95, direction=0.6),
        variant("d", [1, 1], [1, 1], presence=1.0, direction=0.58),
    ]
    results = correlations(variants)
    assert rho(results, "presence").value == 1 and rho(results, "direction").value == -1
    assert rho(results, "score").value == pytest.approx(0.8)  # scores 0.7, 0.65, 0.775, 0.79
    presence = next(correlation.ranks for correlation in results if correlation.of == "presence")
    assert presence["success"].p == presence["return"].p == pytest.approx(2 / 24)  # one of 4! orders on either side
    assert rho(results, "true yes").value == 1
    low, high = presence["success"].rho[1:]
    assert low < high == 1  # if the better run of b is drawn twice, b is as good as c
    with_return = {correlation.of: correlation.ranks["return"].rho.value for correlation in results}
    with_success = {correlation.of: correlation.ranks["success"].rho.value for correlation in results}
    assert with_return == {of: -value for of, value in with_success.items()}  # a success returns -2


def test_equal_runs_give_an_interval_of_width_zero():
    variants = [variant(str(n), [n, n], [n, n], presence=0.5 + n / 10, direction=0.5) for n in range(4)]
    results = correlations(variants)
    assert tuple(rho(results, "score")) == (1, 1, 1)
    assert tuple(rho(results, "direction")) == (0, 0, 0)  # direction is constant


def test_answer_rates_are_left_out_if_a_variant_does_not_answer():
    variants = [variant(str(n), [n], presence=0.5 + n / 10, direction=0.5, answered=n > 0) for n in range(4)]
    assert [correlation.of for correlation in correlations(variants)] == ["score", "presence", "direction"]


def test_markdown_has_number_of_runs_command_and_table(toys):
    variants = [variant(str(n), [n], [n], [n], presence=0.5 + n / 10, direction=0.5) for n in range(4)]
    page = program.markdown(toys, {"toy/colours": variants}, {"toy/colours": correlations(variants)}, "pr2l command")
    assert "4 variants with 3 runs each" in page and "pr2l command\n```" in page
    assert "| score | 1.00 [1.00, 1.00] | 0.083 | -1.00 [-1.00, -1.00] | 0.083 |" in page


@pytest.fixture
def prompt_suite(write_suite, make_run, tmp_path):
    """A suite with four prompts of doom/fetch and with pixels, and its rows: 4, 3, 2, 1, 0 of 4 episodes succeed."""
    prompted = {name: {"config": "prompted", "overrides": [f"prompt={name}"]} for name in VARIANTS}
    methods = prompted | {"pixels": {"config": "pixels"}}
    path = write_suite("prompts", tasks={"doom/fetch": {}}, methods=methods, baseline="pixels", overrides=[])
    suite = load_suite(path)
    (tmp_path / "rows" / "prompts").mkdir(parents=True)
    for number, name in enumerate(methods):
        for seed in (0, 1):
            run = make_run("doom/fetch", name, seed, max(0, 4 - number), suite=suite)
            row = row_of(Run.load(run), suite)
            write_row(tmp_path / "rows" / "prompts" / f"{row.name}.json", row)
    return path


@pytest.mark.slow
def test_correlate_scores_prompts_and_writes_files(prompt_suite, tmp_path, capsys):
    out = tmp_path / "out"
    results = correlate(prompt_suite, tmp_path / "rows", out, frames=40, methods=VARIANTS)
    values = read_json(out / "correlation.json")["doom/fetch"]
    assert set(values["variants"]) == set(VARIANTS)
    scores = {name: variant["score"] for name, variant in values["variants"].items()}
    assert min(scores["where"], scores["present"]) > max(scores["describe"], scores["act"])
    assert values["variants"]["where"]["success"]["value"] == 1
    correlation = rho(results["doom/fetch"], "score").value
    assert correlation == pytest.approx(values["correlations"]["score"]["success"]["value"]) and correlation >= 0.6
    assert values["correlations"]["score"]["return"]["value"] == pytest.approx(correlation)  # a success returns 2
    page = (out / "correlation.md").read_text()
    assert "pr2l prompts correlate prompts --frames 40 --methods where,present,describe,act\n" in page
    assert "4 variants with 2 runs each" in page and "| `where` |" in page
    assert (out / "correlation.png").stat().st_size > 10_000
    assert "doom/fetch: 4 variants" in capsys.readouterr().out


def test_methods_without_a_vlm_or_unknown_raise(prompt_suite, tmp_path):
    def correlate_methods(*methods):
        return correlate(prompt_suite, tmp_path / "rows", tmp_path / "out", methods=methods)

    with pytest.raises(UserError, match=r"\(act: 0 1; describe: 0 1; where: 0 1\)"):
        correlate_methods("act", "describe", "pixels", "where")
    with pytest.raises(UserError, match="'pixel' is not among the methods of prompts. Did you mean 'pixels'"):
        correlate_methods("pixel", *VARIANTS)


def test_too_few_variants_or_different_seeds_raise(prompt_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_score", lambda *_: pytest.fail("correlate must raise before it scores"))
    (tmp_path / "rows" / "prompts" / "doom-fetch-where-seed1.json").unlink()
    with pytest.raises(UserError, match=r"\(where: 0; present: 0 1; describe: 0 1; act: 0 1\)"):
        correlate(prompt_suite, tmp_path / "rows", tmp_path / "out")
    for name in ("present", "describe", "act"):
        (tmp_path / "rows" / "prompts" / f"doom-fetch-{name}-seed0.json").unlink()
    with pytest.raises(UserError, match=r"\(where: 0; present: 1; describe: 1; act: 1\)"):
        correlate(prompt_suite, tmp_path / "rows", tmp_path / "out")
    for path in (tmp_path / "rows" / "prompts").glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match="needs 4 or more methods"):
        correlate(prompt_suite, tmp_path / "rows", tmp_path / "out")
