"""Correlation of a prompt's score with success and return of the policies that are trained with it.

    suite of prompt variants --pr2l bench run--> rows -------> success rate, return after training \\
                            \\--pr2l prompts score-----------> score, accuracies -----------------> rank correlations

A variant is a method of the suite with the encoder `prompted`: a prompt, VLM options and segments. Spearman's rank
correlation is over variants. Its interval resamples the runs of each variant; its p-value is from a permutation test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from scipy.stats import permutation_test

from pr2l.benchmark.report import markdown_table
from pr2l.benchmark.rows import Row, read_rows
from pr2l.benchmark.suites import Suite, load_suite
from pr2l.core import prompt
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.io import write_json
from pr2l.core.prompt import Prompt
from pr2l.core.statistics import FEW_SEEDS, Band, Estimate, bootstrap_runs, spearman, stratified, success_rate
from pr2l.prompting.score import PromptScore, examples_of, score_one, scoring_of
from pr2l.vlms.base import Defaults

FEWEST = 4  # minimum number of variants for a rank correlation
OUTCOMES = {"success": "success rate", "return": "return"}  # results of training: key in a row's episodes -> name
PERMUTATIONS = 9_999  # maximum number of permutations in the permutation test
EMPTY = Prompt(name="none", text="", why="the frame alone", source="prompt: null in a config")


@dataclass(frozen=True)
class Variant:
    """Prompt variant with its scores and its results of training.

    Attributes:
        name: Name of the suite's method.
        score: Scores before training.
        runs: For each key of OUTCOMES, the values of the evaluation episodes of each run.
    """

    name: str
    score: PromptScore
    runs: Mapping[str, Sequence[Sequence[float]]]

    def outcome(self, key: str) -> Estimate:
        """Return the mean of an outcome over runs and episodes, for a key of OUTCOMES.

        Args:
            key: "success" (0..1) or "return".

        Returns:
            The mean with its 95 % confidence interval; see `success_rate` and `bootstrap_runs`.
        """
        return success_rate(self.runs[key]) if key == "success" else bootstrap_runs(self.runs[key])


class Rank(NamedTuple):
    """Spearman's rank correlation and its two-sided p-value."""

    rho: Estimate
    p: float


@dataclass(frozen=True)
class Correlation:
    """Correlation of one measurement of `pr2l prompts score` with the outcomes.

    Attributes:
        of: Name of the measurement.
        ranks: Rank correlation with each outcome, by the keys of OUTCOMES.
    """

    of: str
    ranks: dict[str, Rank]


def correlate(
    name: str, results: Path, out: Path, frames: int | None = None, methods: Sequence[str] = ()
) -> dict[str, list[Correlation]]:
    """Correlate scores and outcomes for each task of a suite; print tables, and write correlation.md, .json and .png.

    Args:
        name: Name or file of the suite, as for load_suite.
        results: Folder with a sub-folder of rows for each suite.
        out: Folder to write to.
        frames: Number of frames to play for the scores; None = the default of `pr2l prompts score`.
        methods: Names of methods to use; () = all methods of the suite.

    Returns:
        The correlations of each task.

    Raises:
        UserError: If a method is unknown, or a task has fewer than FEWEST variants or variants with different seeds.
    """
    suite = load_suite(name)
    if unknown := [method for method in methods if method not in suite.methods]:
        raise UnknownName(f"methods of {suite.name}", unknown[0], suite.methods)
    rows, method_names = read_rows(results, suite), methods or suite.methods
    variants = {task: _variants(suite, task, method_names, rows, frames) for task in suite.tasks}
    results_of = {task: correlations(of_task) for task, of_task in variants.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "correlation.json", {task: _as_json(variants[task], results_of[task]) for task in suite.tasks})
    command = _command(suite.name, frames, methods)
    (out / "correlation.md").write_text(markdown(suite, variants, results_of, command), encoding="utf-8")
    _draw(variants, results_of).savefig(out / "correlation.png", dpi=110)
    console = Console()
    for task in suite.tasks:
        console.print(_table(f"{task}: {len(variants[task])} variants", results_of[task]))
    console.print(f"{out}: correlation.md, correlation.json, correlation.png", style="dim", markup=False)
    return results_of


def _variants(
    suite: Suite, task: str, methods: Sequence[str], rows: Sequence[Row], frames: int | None
) -> list[Variant]:
    """Return the variants: the methods with the encoder `prompted`, with their scores."""
    first = suite.definition.seeds[0]
    configs = {method: suite.plan(task, method, first).config for method in methods}
    runs = {
        name: {row.seed: row for row in rows if (row.task, row.method) == (task, name)}
        for name, config in configs.items()
        if config.encoder == "prompted"
    }
    if len({frozenset(by_seed) for by_seed in runs.values()}) > 1 or sum(map(bool, runs.values())) < FEWEST:
        seeds = "; ".join(f"{name}: {' '.join(map(str, by_seed)) or 'none'}" for name, by_seed in runs.items())
        raise UserError(
            f"{task} of {suite.name} needs {FEWEST} or more methods with the encoder `prompted`, run with the same"
            f" seeds; seeds here: ({seeds}). `pr2l bench run {suite.name}` makes the missing runs"
        )
    variants = []
    for name, by_seed in track(runs.items(), f"{task}: scoring variants"):
        outcomes = {key: [row.played(key) for row in by_seed.values()] for key in OUTCOMES}
        variants.append(Variant(name, _score(configs[name], frames), outcomes))
    return variants


def _score(config: RunConfig, frames: int | None) -> PromptScore:
    """Score a config's prompt, VLM options and segments, as `pr2l prompts score` does: with 4 x 4 image tokens."""
    values: dict[str, Any] = {"task": f"{config.environment}/{config.task}", "vlm": config.vlm}
    values |= {"environment_options": config.environment_options, **({"frames": frames} if frames else {})}
    variant_prompt = prompt.load(config.prompt_name) if config.prompt_name else EMPTY
    variant_prompt = variant_prompt.model_copy(update={"segments": config.options("encoder").segments})
    options: Defaults = config.options("vlm")
    examples = examples_of(scoring_of(values), variant_prompt.images)
    return score_one(variant_prompt, options, config.vlm, examples, cells=False)


def correlations(variants: Sequence[Variant]) -> list[Correlation]:
    """Return correlations of the score, and of each other number that `pr2l prompts score` prints except the time.

    Args:
        variants: At least FEWEST variants of one task, with equal numbers of runs.

    Returns:
        One correlation per number that all variants have.
    """
    outcomes = {
        key: np.array([[np.mean(run) for run in variant.runs[key]] for variant in variants]) for key in OUTCOMES
    }
    measurements = [_measured(variant.score) for variant in variants]
    names = [name for name in measurements[0] if all(name in values for values in measurements)]
    values = {name: np.array([numbers[name] for numbers in measurements]) for name in names}
    return [Correlation(name, {key: _rank(values[name], means) for key, means in outcomes.items()}) for name in names]


def _measured(score: PromptScore) -> dict[str, float]:
    """Return score, accuracies and, if the VLM answers, the rates of true yes and true no."""
    rates = {"true yes": score.present, "true no": score.absent}
    answers = {name: rate.value for name, rate in rates.items() if rate}
    return {"score": score.score, **{label: probe.accuracy.value for label, probe in score.view.items()}, **answers}


def _rank(values: NDArray[np.float64], outcomes: NDArray[np.float64]) -> Rank:
    """Return the rank correlation of values [variants] and outcomes [variants, runs]."""
    band: Band = stratified(lambda draws: spearman(values, draws.mean(axis=-1)), outcomes)
    means = outcomes.mean(axis=-1)
    chance = permutation_test(
        (values,),
        lambda permuted: spearman(permuted, means),
        permutation_type="pairings",
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(0),
    )
    return Rank(Estimate(*map(float, band)), float(chance.pvalue))


def _command(name: str, frames: int | None, methods: Sequence[str]) -> str:
    options = [f" --frames {frames}" if frames else "", f" --methods {','.join(methods)}" if methods else ""]
    return f"pr2l prompts correlate {name}{''.join(options)}"


def markdown(
    suite: Suite, variants: dict[str, list[Variant]], results_of: dict[str, list[Correlation]], command: str
) -> str:
    """Return the tables of all tasks as Markdown, with the commands that produce them.

    Args:
        suite: The suite.
        variants: Variants of each task.
        results_of: Correlations of each task.
        command: Command that computes the correlations.
    """
    warning = f" With fewer than {FEW_SEEDS} seeds, intervals over runs may be too narrow."
    few = any(len(variant.runs["success"]) < FEW_SEEDS for of_task in variants.values() for variant in of_task)
    sections = [
        f"# Does the score predict the return? {suite.name}, version {suite.definition.version}",
        f"{suite.definition.why}. Spearman's rank correlation, over variants, of measurements of `pr2l prompts score`"
        " before training with success rate and return after training. Intervals of correlations resample the runs of"
        " each variant; p is of a permutation test. Intervals of success rate and return are over runs and episodes."
        + (warning if few else ""),
        f"```console\npr2l bench run {suite.name}\n{command}\n```",
        "![success rate and return of each variant, over its score](correlation.png)",
    ]
    for task, of_task in variants.items():
        sections.append(f"## {task}: {len(of_task)} variants with {len(of_task[0].runs['success'])} runs each")
        sections.append(markdown_table(("measurement", *_head()), _cells(results_of[task])))
        rows = [
            (f"`{variant.name}`", f"{variant.score.score:.2f}", *(str(variant.outcome(key)) for key in OUTCOMES))
            for variant in _ranked(of_task)
        ]
        sections.append(markdown_table(("variant", "score", *OUTCOMES.values()), rows))
    return "\n\n".join(sections) + "\n"


def _ranked(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants with the best score first."""
    return sorted(variants, key=lambda variant: -variant.score.score)


def _head() -> list[str]:
    return [*chain.from_iterable((f"with the {name}", "p") for name in OUTCOMES.values())]


def _cells(correlations_of_task: Sequence[Correlation]) -> list[tuple[str, ...]]:
    """Return rows of a table: the measurement, and the columns of _head()."""
    return [
        (correlation.of, *chain.from_iterable((str(rank.rho), f"{rank.p:.3f}") for rank in correlation.ranks.values()))
        for correlation in correlations_of_task
    ]


def _table(title: str, correlations_of_task: Sequence[Correlation]) -> Table:
    table = Table("Spearman's rho of", *_head(), title=escape(title))
    for cells in _cells(correlations_of_task):
        table.add_row(*cells)
    return table


def _as_json(variants: Sequence[Variant], correlations_of_task: Sequence[Correlation]) -> dict[str, Any]:
    return {
        "correlations": {
            correlation.of: {key: {**rank.rho._asdict(), "p": rank.p} for key, rank in correlation.ranks.items()}
            for correlation in correlations_of_task
        },
        "variants": {
            variant.name: variant.score.as_json() | {key: variant.outcome(key)._asdict() for key in OUTCOMES}
            for variant in variants
        },
    }


def _draw(variants: dict[str, list[Variant]], results_of: dict[str, list[Correlation]]) -> Figure:
    """Draw the outcome of each variant with its interval over the score: a column per task, a row per outcome."""
    figure = Figure(figsize=(7 * len(variants), 5 * len(OUTCOMES)), layout="constrained")
    panels = figure.subplots(len(OUTCOMES), len(variants), squeeze=False)
    for column, (task, of_task) in enumerate(variants.items()):
        for row, (key, name) in enumerate(OUTCOMES.items()):
            axes = panels[row, column]
            _draw_points(axes, _ranked(of_task), key)
            axes.set(xlabel="score before training", ylabel=f"{name} after training")
            axes.set_title(f"{task}: Spearman's rho {results_of[task][0].ranks[key].rho}")
        panels[0, column].legend(fontsize=7, loc="upper left")
    return figure


def _draw_points(axes: Axes, ranked: Sequence[Variant], key: str) -> None:
    for number, variant in enumerate(ranked, start=1):
        value, low, high = variant.outcome(key)
        colour, label = f"C{(number - 1) % 10}", f"{number} {variant.name}"
        axes.errorbar(variant.score.score, value, [[value - low], [high - value]], fmt="o", color=colour, label=label)
        axes.annotate(str(number), (variant.score.score, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.grid(alpha=0.3)
