"""Does the score of a prompt foretell what a policy reaches with it?

    suite of prompt variants --pr2l bench run--> rows ----> success rate after training \\
                            \\--pr2l prompts score's probes--> score, its parts -----------> rank correlation

Each method of the suite that reads a VLM's states is a variant: a prompt, VLM options, segments. Spearman's correlation
is over variants; its interval redraws the runs of each, its p-value the pairing of scores with success rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import permutation_test

from pr2l import prompt
from pr2l.config import RunConfig
from pr2l.errors import UserError
from pr2l.prompt import Prompt
from pr2l.report import markdown_table
from pr2l.rows import Row, read_rows
from pr2l.runs import write_json
from pr2l.score import PromptScore, examples_of, score_one, scoring_of
from pr2l.statistics import Band, Estimate, bootstrap_runs, spearman, stratified
from pr2l.suites import Suite, load_suite
from pr2l.vlms._base import Defaults

FEWEST = 4  # variants: of three, ranks say nothing
HEAD = ("Spearman's rho", "p")
PAIRINGS = 9_999  # of the p-value, unless all are fewer
EMPTY = Prompt(name="none", text="", why="the frame alone", source="prompt: null in a config")


@dataclass(frozen=True)
class Variant:
    """A method, its score, and the success rates of the episodes of each of its runs."""

    name: str
    score: PromptScore
    runs: tuple[tuple[float, ...], ...]

    @property
    def success(self) -> Estimate:
        return bootstrap_runs(self.runs)


@dataclass(frozen=True)
class Correlation:
    """Spearman's, of what `pr2l prompts score` measures with the success rate; p: two-sided."""

    of: str
    rho: Estimate
    p: float


def correlate(name: str, results: Path, out: Path, frames: int | None = None) -> dict[str, list[Correlation]]:
    """Prints and writes correlation.md, .json and .png into `out`, for each task of a suite that has been run.

    frames: to score on; None = as `pr2l prompts score`. Raises UserError where a task has fewer than FEWEST variants
    that were run with the same seeds.
    """
    suite = load_suite(name)
    rows = read_rows(results, suite)
    variants = {task: _variants(suite, task, [row for row in rows if row.task == task], frames) for task in suite.tasks}
    found = {task: correlations(each) for task, each in variants.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "correlation.json", {task: _as_json(variants[task], found[task]) for task in suite.tasks})
    (out / "correlation.md").write_text(markdown(suite, variants, found, frames), encoding="utf-8")
    _draw(variants, found).savefig(out / "correlation.png", dpi=110)
    console = Console()
    for task in suite.tasks:
        console.print(_table(f"{task}: {len(variants[task])} variants", found[task]))
    console.print(f"{out}: correlation.md, correlation.json, correlation.png", style="dim")
    return found


def _variants(suite: Suite, task: str, rows: Sequence[Row], frames: int | None) -> list[Variant]:
    """The methods that read a VLM's states and have been run, each scored."""
    first = suite.definition.seeds[0]
    configs = {method: suite.cell(task, method, first).config for method in suite.methods}
    runs = {
        name: {row.seed: tuple(row.played("success")) for row in rows if row.method == name}
        for name, config in configs.items()
        if config.encoder == "prompted"
    }
    if len({frozenset(each) for each in runs.values()}) > 1 or sum(map(bool, runs.values())) < FEWEST:
        made = "; ".join(f"{name}: {' '.join(map(str, each)) or 'none'}" for name, each in runs.items())
        raise UserError(
            f"{task} of {suite.name} needs {FEWEST} or more methods with the encoder `prompted`, each run with the same"
            f" seeds, and has ({made}); `pr2l bench run {suite.name}` makes what is missing"
        )
    names = track(runs, f"{task}: variants read")
    return [Variant(name, _score(configs[name], frames), tuple(runs[name].values())) for name in names]


def _score(config: RunConfig, frames: int | None) -> PromptScore:
    """What `pr2l prompts score` says of a config's prompt, VLM options and segments; image tokens are 4 x 4 always."""
    about: dict[str, Any] = {"task": f"{config.environment}/{config.task}", "vlm": config.vlm}
    about |= {"environment_options": config.environment_options, **({"frames": frames} if frames else {})}
    asked = prompt.load(config.prompt_name) if config.prompt_name else EMPTY
    asked = asked.model_copy(update={"segments": config.options("encoder").segments})
    options: Defaults = config.options("vlm")
    return score_one(asked, options, config.vlm, examples_of(scoring_of(about)), cells=False)


def correlations(variants: Sequence[Variant]) -> list[Correlation]:
    """Of the score, and of each number that it is made of or printed beside."""
    success = np.array([[np.mean(episodes) for episodes in variant.runs] for variant in variants])
    measured = [_measured(variant.score) for variant in variants]
    known = [name for name in measured[0] if all(name in each for each in measured)]
    return [_correlation(name, np.array([each[name] for each in measured]), success) for name in known]


def _measured(score: PromptScore) -> dict[str, float]:
    """Every number that `pr2l prompts score` prints, but the time; without answers there are no rates of them."""
    rates = {"says yes where it is": score.present, "says no where it is not": score.absent}
    answers = {name: rate.value for name, rate in rates.items() if rate}
    return {"score": score.score, **{truth: each.accuracy.value for truth, each in score.view.items()}, **answers}


def _correlation(name: str, values: NDArray[np.float64], success: NDArray[np.float64]) -> Correlation:
    """values [variants], success [variants, runs]."""
    band: Band = stratified(lambda draws: spearman(values, draws.mean(axis=-1)), success)
    means = success.mean(axis=-1)
    chance = permutation_test(
        (values,),
        lambda paired: spearman(paired, means),
        permutation_type="pairings",
        n_resamples=PAIRINGS,
        rng=np.random.default_rng(0),
    )
    return Correlation(name, Estimate(*map(float, band)), float(chance.pvalue))


def markdown(
    suite: Suite, variants: dict[str, list[Variant]], found: dict[str, list[Correlation]], frames: int | None = None
) -> str:
    """The tables, with the commands that make them again."""
    definition, more = suite.definition, f" --frames {frames}" if frames else ""
    parts = [
        f"# Does the score foretell the return? {suite.name}, version {definition.version}",
        f"{definition.why}. Spearman's rank correlation of what `pr2l prompts score` measures before training with the"
        " success rate after it, over variants. The interval redraws the runs of each variant; p is of a permutation"
        " test.",
        f"```console\npr2l bench run {suite.name}\npr2l prompts correlate {suite.name}{more}\n```",
        "![score and success rate of each variant](correlation.png)",
    ]
    for task, each in variants.items():
        parts.append(f"## {task}, {len(each)} variants, runs of each: {len(each[0].runs)}")
        parts.append(markdown_table(("what", *HEAD), _cells(found[task])))
        rows = [(f"`{one.name}`", f"{one.score.score:.2f}", str(one.success)) for one in _ranked(each)]
        parts.append(markdown_table(("variant", "score", "success rate"), rows))
    return "\n\n".join(parts) + "\n"


def _ranked(variants: Sequence[Variant]) -> list[Variant]:
    """The best score first."""
    return sorted(variants, key=lambda variant: -variant.score.score)


def _cells(found: Sequence[Correlation]) -> list[tuple[str, str, str]]:
    return [(one.of, str(one.rho), f"{one.p:.3f}") for one in found]


def _table(title: str, found: Sequence[Correlation]) -> Table:
    table = Table("correlation with the success rate of", *HEAD, title=title)
    for cells in _cells(found):
        table.add_row(*cells)
    return table


def _as_json(variants: Sequence[Variant], found: Sequence[Correlation]) -> dict[str, Any]:
    return {
        "correlations": {one.of: {**one.rho._asdict(), "p": one.p} for one in found},
        "variants": {one.name: one.score.as_json() | {"success": one.success._asdict()} for one in variants},
    }


def _draw(variants: dict[str, list[Variant]], found: dict[str, list[Correlation]]) -> Figure:
    """A panel for each task: success rate with its interval over score, a point for each variant."""
    figure = Figure(figsize=(7 * len(variants), 5.5), layout="constrained")
    for axes, (task, each) in zip(figure.subplots(1, len(variants), squeeze=False)[0], variants.items(), strict=True):
        for number, one in enumerate(_ranked(each), start=1):
            value, low, high = one.success
            colour = f"C{(number - 1) % 10}"
            label = f"{number} {one.name}"
            axes.errorbar(one.score.score, value, [[value - low], [high - value]], fmt="o", color=colour, label=label)
            axes.annotate(str(number), (one.score.score, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel="score before training", ylabel="success rate after training", ylim=(-0.02, 1.02))
        axes.set_title(f"{task}: Spearman's rho {found[task][0].rho}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, loc="upper left")
    return figure
