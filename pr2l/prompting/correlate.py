"""Does the score of a prompt foretell what a policy reaches with it?

    suite of prompt variants --pr2l bench run--> rows ----> success rate, return after training \\
                            \\--pr2l prompts score's probes--> score, its parts --------------> rank correlations

Each method of the suite that reads a VLM's states is a variant: a prompt, VLM options, segments. Spearman's correlation
is over variants; its interval redraws the runs of each, its p-value the pairing of scores with what was reached.
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
from pr2l.core.statistics import Band, Estimate, bootstrap_runs, spearman, stratified, success_rate
from pr2l.prompting.score import PromptScore, examples_of, score_one, scoring_of
from pr2l.vlms.base import Defaults

FEWEST = 4  # variants: of three, ranks say nothing
REACHED = {"success": "success rate", "return": "return"}  # after training: keys of a row's episodes, and their names
PAIRINGS = 9_999  # of the p-value, unless all are fewer
EMPTY = Prompt(name="none", text="", why="the frame alone", source="prompt: null in a config")


@dataclass(frozen=True)
class Variant:
    """A method, its score, and what the episodes of each of its runs reached, by the keys of REACHED."""

    name: str
    score: PromptScore
    runs: Mapping[str, Sequence[Sequence[float]]]

    def reached(self, key: str) -> Estimate:
        """Over its runs and their episodes."""
        return success_rate(self.runs[key]) if key == "success" else bootstrap_runs(self.runs[key])


class Rank(NamedTuple):
    """Spearman's rank correlation; p: two-sided."""

    rho: Estimate
    p: float


@dataclass(frozen=True)
class Correlation:
    """Of something that `pr2l prompts score` measures, with what is reached, by the keys of REACHED."""

    of: str
    ranks: dict[str, Rank]


def correlate(
    name: str, results: Path, out: Path, frames: int | None = None, methods: Sequence[str] = ()
) -> dict[str, list[Correlation]]:
    """Prints and writes correlation.md, .json and .png into `out`, for each task of a suite that has been run.

    frames: to score on; None = as `pr2l prompts score`. methods: () = all of the suite's. Raises UserError where the
    suite has no such method, or a task has fewer than FEWEST variants that were run with the same seeds.
    """
    suite = load_suite(name)
    if unknown := [method for method in methods if method not in suite.methods]:
        raise UnknownName(f"methods of {suite.name}", unknown[0], suite.methods)
    rows, chosen = read_rows(results, suite), methods or suite.methods
    variants = {task: _variants(suite, task, chosen, rows, frames) for task in suite.tasks}
    found = {task: correlations(each) for task, each in variants.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "correlation.json", {task: _as_json(variants[task], found[task]) for task in suite.tasks})
    command = _command(suite.name, frames, methods)
    (out / "correlation.md").write_text(markdown(suite, variants, found, command), encoding="utf-8")
    _draw(variants, found).savefig(out / "correlation.png", dpi=110)
    console = Console()
    for task in suite.tasks:
        console.print(_table(f"{task}: {len(variants[task])} variants", found[task]))
    console.print(f"{out}: correlation.md, correlation.json, correlation.png", style="dim")
    return found


def _variants(
    suite: Suite, task: str, methods: Sequence[str], rows: Sequence[Row], frames: int | None
) -> list[Variant]:
    """Of these methods, those that read a VLM's states and have been run, each scored."""
    first = suite.definition.seeds[0]
    configs = {method: suite.plan(task, method, first).config for method in methods}
    runs = {
        name: {row.seed: row for row in rows if (row.task, row.method) == (task, name)}
        for name, config in configs.items()
        if config.encoder == "prompted"
    }
    if len({frozenset(each) for each in runs.values()}) > 1 or sum(map(bool, runs.values())) < FEWEST:
        made = "; ".join(f"{name}: {' '.join(map(str, each)) or 'none'}" for name, each in runs.items())
        raise UserError(
            f"{task} of {suite.name} needs {FEWEST} or more methods with the encoder `prompted`, each run with the same"
            f" seeds, and has ({made}); `pr2l bench run {suite.name}` makes what is missing"
        )
    variants = []
    for name, by_seed in track(runs.items(), f"{task}: variants read"):
        reached = {key: [row.played(key) for row in by_seed.values()] for key in REACHED}
        variants.append(Variant(name, _score(configs[name], frames), reached))
    return variants


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
    reached = {key: np.array([[np.mean(run) for run in one.runs[key]] for one in variants]) for key in REACHED}
    measured = [_measured(variant.score) for variant in variants]
    known = [name for name in measured[0] if all(name in each for each in measured)]
    values = {name: np.array([each[name] for each in measured]) for name in known}
    return [Correlation(name, {key: _rank(values[name], means) for key, means in reached.items()}) for name in known]


def _measured(score: PromptScore) -> dict[str, float]:
    """Every number that `pr2l prompts score` prints, but the time; without answers there are no rates of them."""
    rates = {"says yes where it is": score.present, "says no where it is not": score.absent}
    answers = {name: rate.value for name, rate in rates.items() if rate}
    return {"score": score.score, **{truth: each.accuracy.value for truth, each in score.view.items()}, **answers}


def _rank(values: NDArray[np.float64], reached: NDArray[np.float64]) -> Rank:
    """values [variants], reached [variants, runs]."""
    band: Band = stratified(lambda draws: spearman(values, draws.mean(axis=-1)), reached)
    means = reached.mean(axis=-1)
    chance = permutation_test(
        (values,),
        lambda paired: spearman(paired, means),
        permutation_type="pairings",
        n_resamples=PAIRINGS,
        rng=np.random.default_rng(0),
    )
    return Rank(Estimate(*map(float, band)), float(chance.pvalue))


def _command(name: str, frames: int | None, methods: Sequence[str]) -> str:
    options = [f" --frames {frames}" if frames else "", f" --methods {','.join(methods)}" if methods else ""]
    return f"pr2l prompts correlate {name}{''.join(options)}"


def markdown(
    suite: Suite, variants: dict[str, list[Variant]], found: dict[str, list[Correlation]], command: str
) -> str:
    """The tables, with the commands that make them again, the last of which is given."""
    definition = suite.definition
    parts = [
        f"# Does the score foretell the return? {suite.name}, version {definition.version}",
        f"{definition.why}. Spearman's rank correlation of what `pr2l prompts score` measures before training with the"
        " success rate and the return after it, over variants. The interval redraws the runs of each variant; p is of a"
        " permutation test.",
        f"```console\npr2l bench run {suite.name}\n{command}\n```",
        "![what each variant reached, over its score](correlation.png)",
    ]
    for task, each in variants.items():
        parts.append(f"## {task}, {len(each)} variants, runs of each: {len(each[0].runs['success'])}")
        parts.append(markdown_table(("what", *_head()), _cells(found[task])))
        rows = [
            (f"`{one.name}`", f"{one.score.score:.2f}", *(str(one.reached(key)) for key in REACHED))
            for one in _ranked(each)
        ]
        parts.append(markdown_table(("variant", "score", *REACHED.values()), rows))
    return "\n\n".join(parts) + "\n"


def _ranked(variants: Sequence[Variant]) -> list[Variant]:
    """The best score first."""
    return sorted(variants, key=lambda variant: -variant.score.score)


def _head() -> list[str]:
    return [*chain.from_iterable((f"with the {name}", "p") for name in REACHED.values())]


def _cells(found: Sequence[Correlation]) -> list[tuple[str, ...]]:
    """Rows below "what" and _head()."""
    numbers = [[(str(rank.rho), f"{rank.p:.3f}") for rank in one.ranks.values()] for one in found]
    return [(one.of, *chain.from_iterable(pairs)) for one, pairs in zip(found, numbers, strict=True)]


def _table(title: str, found: Sequence[Correlation]) -> Table:
    table = Table("Spearman's rho of", *_head(), title=title)
    for cells in _cells(found):
        table.add_row(*cells)
    return table


def _as_json(variants: Sequence[Variant], found: Sequence[Correlation]) -> dict[str, Any]:
    return {
        "correlations": {
            one.of: {key: {**rank.rho._asdict(), "p": rank.p} for key, rank in one.ranks.items()} for one in found
        },
        "variants": {
            one.name: one.score.as_json() | {key: one.reached(key)._asdict() for key in REACHED} for one in variants
        },
    }


def _draw(variants: dict[str, list[Variant]], found: dict[str, list[Correlation]]) -> Figure:
    """A column for each task, a row for what is reached: a point with its interval for each variant over its score."""
    figure = Figure(figsize=(7 * len(variants), 5 * len(REACHED)), layout="constrained")
    panels = figure.subplots(len(REACHED), len(variants), squeeze=False)
    for column, (task, each) in enumerate(variants.items()):
        for row, (key, name) in enumerate(REACHED.items()):
            axes = panels[row, column]
            _draw_points(axes, _ranked(each), key)
            axes.set(xlabel="score before training", ylabel=f"{name} after training")
            axes.set_title(f"{task}: Spearman's rho {found[task][0].ranks[key].rho}")
        panels[0, column].legend(fontsize=7, loc="upper left")
    return figure


def _draw_points(axes: Axes, ranked: Sequence[Variant], key: str) -> None:
    for number, one in enumerate(ranked, start=1):
        value, low, high = one.reached(key)
        colour, label = f"C{(number - 1) % 10}", f"{number} {one.name}"
        axes.errorbar(one.score.score, value, [[value - low], [high - value]], fmt="o", color=colour, label=label)
        axes.annotate(str(number), (one.score.score, value), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.grid(alpha=0.3)
