"""Rank correlations of variants whose order is known on paper, and of real prompts with invented success rates."""


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


def rho(found, of, key="success"):
    return next(one.ranks[key].rho for one in found if one.of == of)


def test_ranks_by_hand():
    """Presence rises with success, direction falls, and their mean is ranked 2 1 3 4 where success is 1 2 3 4."""
    variants = [
        variant("a", [0, 0], [0, 0], presence=0.5, direction=0.9),
        variant("b", [0, 1], [0, 0], presence=0.6, direction=0.7),
        variant("c", [0, 1], [1, 0], presence=0.95, direction=0.6),
        variant("d", [1, 1], [1, 1], presence=1.0, direction=0.58),
    ]
    found = correlations(variants)
    assert rho(found, "presence").value == 1 and rho(found, "direction").value == -1
    assert rho(found, "score").value == pytest.approx(0.8)  # 0.7, 0.65, 0.775, 0.79: ranks 2 1 3 4
    presence = next(one.ranks for one in found if one.of == "presence")
    assert presence["success"].p == presence["return"].p == pytest.approx(2 / 24)  # one order of 4! on either side
    assert rho(found, "true yes").value == 1
    low, high = presence["success"].rho[1:]
    assert low < high == 1, "b, redrawn as its better run twice, is no worse than c"
    returned = {one.of: one.ranks["return"].rho.value for one in found}
    assert returned == {one.of: -one.ranks["success"].rho.value for one in found}, "here success is paid for"


def test_the_interval_is_over_runs_only():
    """Runs that do not differ leave nothing to redraw."""
    each = [variant(str(n), [n, n], [n, n], presence=0.5 + n / 10, direction=0.5) for n in range(4)]
    found = correlations(each)
    assert tuple(rho(found, "score")) == (1, 1, 1)
    assert tuple(rho(found, "direction")) == (0, 0, 0), "what does not vary foretells nothing"


def test_rates_count_only_where_all_variants_answer():
    each = [variant(str(n), [n], presence=0.5 + n / 10, direction=0.5, answered=n > 0) for n in range(4)]
    assert [one.of for one in correlations(each)] == ["score", "presence", "direction"]


def test_the_page_says_how_many_runs_it_is_of(toys):
    each = [variant(str(n), [n], [n], [n], presence=0.5 + n / 10, direction=0.5) for n in range(4)]
    page = program.markdown(toys, {"toy/colours": each}, {"toy/colours": correlations(each)}, "pr2l it")
    assert "4 variants with 3 runs each" in page and "pr2l it\n```" in page
    assert "| score | 1.00 [1.00, 1.00] | 0.083 | -1.00 [-1.00, -1.00] | 0.083 |" in page


@pytest.fixture
def prompts_run(toys, write_suite, finished, tmp_path):
    """A suite of four prompts of doom/fetch and one of pixels, and its rows: 4, 3, 2, 1 episodes of 4 succeed."""
    how = {name: {"config": "prompted", "overrides": [f"prompt={name}"]} for name in VARIANTS}
    methods = how | {"pixels": {"config": "pixels"}}
    path = write_suite("asked", tasks={"doom/fetch": {}}, methods=methods, baseline="pixels", overrides=[])
    suite = load_suite(path)
    (tmp_path / "rows" / "asked").mkdir(parents=True)
    for number, name in enumerate(methods):
        for seed in (0, 1):
            run = finished("doom/fetch", name, seed, max(0, 4 - number), suite=suite)
            row = row_of(Run.load(run), suite)
            write_row(tmp_path / "rows" / "asked" / f"{row.name}.json", row)
    return path


def test_from_rows_to_the_page(prompts_run, tmp_path, capsys):
    out = tmp_path / "out"
    found = correlate(prompts_run, tmp_path / "rows", out, frames=240, methods=VARIANTS)
    values = read_json(out / "correlation.json")["doom/fetch"]
    assert set(values["variants"]) == set(VARIANTS)
    scores = {name: each["score"] for name, each in values["variants"].items()}
    assert min(scores["where"], scores["present"]) > max(scores["describe"], scores["act"])
    assert values["variants"]["where"]["success"]["value"] == 1
    best = rho(found["doom/fetch"], "score").value
    assert best == pytest.approx(values["correlations"]["score"]["success"]["value"]) and best >= 0.6
    assert values["correlations"]["score"]["return"]["value"] == pytest.approx(best), "each success returns 2"
    page = (out / "correlation.md").read_text()
    assert "pr2l prompts correlate asked --frames 240 --methods where,present,describe,act\n" in page
    assert "4 variants with 2 runs each" in page and "| `where` |" in page
    assert (out / "correlation.png").stat().st_size > 10_000
    assert "doom/fetch: 4 variants" in capsys.readouterr().out


def test_only_methods_that_were_asked_for_count(prompts_run, tmp_path):
    def ask(*methods):
        return correlate(prompts_run, tmp_path / "rows", tmp_path / "out", methods=methods)

    with pytest.raises(UserError, match=r"seeds here: \(act: 0 1; describe: 0 1; where: 0 1\)"):
        ask("act", "describe", "pixels", "where")
    with pytest.raises(UserError, match="'pixel' is not among the methods of asked. Did you mean 'pixels'"):
        ask("pixel", *VARIANTS)


def test_too_few_or_unequal_variants_are_refused(prompts_run, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "_score", lambda *_: pytest.fail("it was to be refused before anything is read"))
    (tmp_path / "rows" / "asked" / "doom-fetch-where-seed1.json").unlink()
    with pytest.raises(UserError, match=r"same seeds; seeds here: \(where: 0; present: 0 1; describe: 0 1; act: 0 1\)"):
        correlate(prompts_run, tmp_path / "rows", tmp_path / "out")
    for name in ("present", "describe", "act"):
        (tmp_path / "rows" / "asked" / f"doom-fetch-{name}-seed0.json").unlink()
    with pytest.raises(UserError, match=r"here: \(where: 0; present: 1; describe: 1; act: 1\)"):
        correlate(prompts_run, tmp_path / "rows", tmp_path / "out")
    for path in (tmp_path / "rows" / "asked").glob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match="needs 4 or more methods"):
        correlate(prompts_run, tmp_path / "rows", tmp_path / "out")
