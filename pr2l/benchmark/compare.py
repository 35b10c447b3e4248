"""Compare several runs of one task: learning curves, a table with confidence intervals, and the numbers as JSON.

    pr2l compare runs/doom-fetch-*

Runs belong to one method if their configs differ only in the seed or in options of the simulator processes. Confidence
intervals cover the runs of a method and the evaluation episodes of each run (pr2l.core.statistics).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.statistics import FEW_SEEDS, Estimate, bootstrap_runs, episode_mean, wilson
from pr2l.training.curves import WINDOW, smooth
from pr2l.training.evaluate import Score
from pr2l.training.runs import Run

POINTS = 60  # number of points of a curve
UPDATES = 20  # number of updates that the curve of a run from recorded episodes averages over
NOT_COMPARED = {"seed", "why", "workers", "step_groups", "isolated", "timeouts", "on_bad_value"}
ROOT = Path("runs")
BELOW = "(below random)"  # mark of a method that is worse than random actions
Metrics = Sequence[Mapping[str, str]]  # rows of a metrics.csv


@dataclass(frozen=True)
class Method:
    """Runs of one method, in the order of their seeds.

    Attributes:
        name: Name in tables and figures.
        runs: Runs whose configs differ only in the keys NOT_COMPARED, such as the seed.
    """

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Content of each run's results.json; UserError if a run has not been evaluated."""
        return [run.results() for run in self.runs]

    @cached_property
    def metrics(self) -> list[Metrics]:
        """Rows of each run's metrics.csv."""
        return [run.metrics() for run in self.runs]

    def estimate(self, key: str, context: str | None = None) -> Estimate:
        """Return the mean over runs and episodes, with its 95 % confidence interval.

        Args:
            key: "success", "return" or a measure of the task.
            context: Use only episodes with this context; None = all episodes.
        """
        columns = [results["played"] for results in self.results]
        values = [
            episodes[key] if context is None else _where(episodes[key], episodes["context"], context)
            for episodes in columns
        ]
        # A measure is None in an episode that did not define it.
        values = [[value for value in episodes if value is not None] for episodes in values]
        return bootstrap_runs(values) if key == "return" else episode_mean(values)

    @property
    def measures(self) -> list[str]:
        """Names of the task's additional measures, besides success and return."""
        return list(self.results[0]["evaluation"].get("measures", {}))

    @property
    def contexts(self) -> list[str]:
        """Contexts of the evaluation episodes, sorted; empty if all episodes have the same context."""
        return sorted(self.results[0].get("by_context", {}))


def _where(values: Sequence[float], contexts: Sequence[str], context: str) -> list[float]:
    """Return the values of the episodes with a context."""
    return [value for value, of_episode in zip(values, contexts, strict=True) if of_episode == context]


def compare(paths: Sequence[Path], out: Path | None = None) -> list[Method]:
    """Print a table of methods, and write <environment>-<task>.png, .md and one JSON file for each method.

    If the episodes have several contexts, such as targets, the .md also has a table by context.

    Args:
        paths: Folders of runs of one task, evaluated on the same number of episodes with the same contexts.
        out: Folder to write to; None = runs/compare-<environment>-<task>.

    Returns:
        The methods, in the order of their first run.

    Raises:
        UserError: If the runs have different tasks or evaluations, or a run has not been evaluated.
    """
    runs = [Run.load(path) for path in paths]
    task = _task(runs)
    methods = group(runs)
    _check_evaluations(methods)
    out = out or ROOT / f"compare-{task}"
    out.mkdir(parents=True, exist_ok=True)
    for method in methods:
        write_json(out / f"{task}-{method.name}.json", _as_json(method))
    draw(methods, out / f"{task}.png")
    (out / f"{task}.md").write_text(markdown(methods), encoding="utf-8")
    console = Console()
    console.print(_table(methods), markup=False)
    console.print(f"{out}: {task}.md, {task}.png and a JSON file for each method", style="dim", markup=False)
    return methods


def group(runs: Sequence[Run]) -> list[Method]:
    """Return the methods of runs, in the order of their first run.

    Args:
        runs: Runs of one task. Those whose configs differ only in the keys NOT_COMPARED are one method.

    Raises:
        UserError: If two methods get the same name. The message lists the config keys in which they differ.
    """
    by_config: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_config[json.dumps(_method_config(run), sort_keys=True)].append(run)
    methods: dict[str, Method] = {}
    for members in by_config.values():
        name = _name(members[0])
        if name in methods:
            first, second = methods[name].runs[0], members[0]
            differences = ", ".join(_differences(_method_config(first), _method_config(second)))
            raise UserError(
                f"two methods would be called {name!r}: {first.path} and {second.path} differ in {differences}; "
                "compare one of them at a time"
            )
        methods[name] = Method(name, tuple(sorted(members, key=lambda run: run.config.seed)))
    return list(methods.values())


def _method_config(run: Run) -> dict[str, Any]:
    """Return the part of a run's config that distinguishes methods."""
    return run.config.model_dump(mode="json", exclude=NOT_COMPARED)


def _differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the keys whose values differ, as "key (value / other value)"; nested keys with dots."""
    differences = []
    for key in dict.fromkeys([*first, *second]):
        left, right = first.get(key), second.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            differences += _differences(left, right, f"{prefix}{key}.")
        elif left != right:
            differences.append(f"{prefix}{key} ({left!r} / {right!r})")
    return differences


def _name(run: Run) -> str:
    """[<algorithm>-]<encoder>, without `ppo`; for the encoder `prompted`, prompted-<prompt> or no_prompt."""
    config = run.config
    algorithm = "" if config.algorithm == "ppo" else f"{config.algorithm}-"
    if config.encoder != "prompted":
        return algorithm + config.encoder
    return algorithm + ("no_prompt" if config.prompt is None else f"prompted-{config.prompt.replace('/', '_')}")


def _task(runs: Sequence[Run]) -> str:
    tasks = sorted({f"{run.config.environment}-{run.config.task}" for run in runs})
    if len(tasks) != 1:
        raise UserError(f"these runs are of {', '.join(tasks) or 'no task'}; compare runs of one task")
    return tasks[0]


def _check_evaluations(methods: Sequence[Method]) -> None:
    """Check that episodes and contexts are the same for all runs, and steps for the runs of a method."""
    for method in methods:
        steps = [results["steps"] for results in method.results]
        problem = f"the runs of {method.name} were evaluated after different numbers of steps"
        _check_equal(method.runs, steps, problem, "`pr2l train --resume RUN` finishes a run that was stopped")
    runs = [run for method in methods for run in method.runs]
    results = [results for method in methods for results in method.results]
    episodes = [values["evaluation"]["episodes"] for values in results]
    problem = "the runs were evaluated on different numbers of episodes"
    _check_equal(runs, episodes, problem, "evaluate them again with `pr2l evaluate RUN --episodes N`")
    contexts = [", ".join(sorted(values.get("by_context", {}))) or "none" for values in results]
    problem = "the evaluation episodes have different contexts"
    _check_equal(runs, contexts, problem, "compare runs with the same contexts")


def _check_equal(runs: Sequence[Run], values: Sequence[object], problem: str, hint: str) -> None:
    if len(set(values)) > 1:
        run_values = ", ".join(f"{run.path} {value}" for run, value in zip(runs, values, strict=True))
        raise UserError(f"{problem}: {run_values}; {hint}")


def _as_json(method: Method) -> dict[str, Any]:
    """Return the scores over all runs in the format of results.json, with the success rate of each run."""
    results = method.results
    keys = ("environment", "task", "algorithm", "encoder", "vlm", "prompt", "network", "steps")
    config = {key: results[0][key] for key in keys if key in results[0]}
    scores = {key: method.estimate(key)._asdict() for key in ("success", "return")}
    measures = {name: method.estimate(name)._asdict() for name in method.measures}
    episodes = sum(values["evaluation"]["episodes"] for values in results)
    length = float(np.mean([values["evaluation"]["length"] for values in results]))
    return {
        **config,
        "evaluation": {"episodes": episodes, **scores, "length": length, "measures": measures},
        "random": results[0]["random"],
        "seeds": [values["seed"] for values in results],
        "success_of_each_seed": [values["evaluation"]["success"]["value"] for values in results],
        "commits": sorted({run.facts()["commit"] for run in method.runs}, key=str),
    }


def markdown(methods: Sequence[Method]) -> str:
    """Return the tables as Markdown, with a warning if a method has fewer than FEW_SEEDS runs.

    Args:
        methods: Methods of one task, evaluated on the same contexts; the first gives the names of measures and
            contexts.
    """
    measures = methods[0].measures
    tables = [_markdown(_header(measures), _rows(methods, measures))]
    for key in ("success", *measures) if len(methods[0].contexts) > 1 else ():
        rows = [(method.name, *(str(method.estimate(key, name)) for name in method.contexts)) for method in methods]
        tables.append(_markdown((f"{key} by context", *methods[0].contexts), rows))
    return "\n".join([*tables, f"{_caption(methods)}\n"])


def _caption(methods: Sequence[Method]) -> str:
    caption = "Brackets: 95 % confidence intervals over runs and episodes."
    if few := [method.name for method in methods if len(method.runs) < FEW_SEEDS]:
        caption += f" Fewer than {FEW_SEEDS} seeds, so intervals may be too narrow: {', '.join(few)}."
    return caption


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (header, *rows)]
    return "".join([lines[0], f"|{'---|' * len(header)}\n", *lines[1:]])


def _header(measures: Sequence[str]) -> tuple[str, ...]:
    return ("method", "success rate", *measures, "return", "each seed", "steps")


def _table(methods: Sequence[Method]) -> Table:
    """Return the table for the terminal, with the first measure only so that it fits."""
    first = methods[0].measures[:1]
    table = Table(*_header(first), title=escape(_task(methods[0].runs)), caption=_caption(methods))
    for row in _rows(methods, first):
        table.add_row(*row)
    return table


def _rows(methods: Sequence[Method], measures: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a row for each method, and one for random actions; every run has their results."""
    rows: list[tuple[str, ...]] = []
    random = random_score(methods[0].results[0])
    for method in methods:
        results = method.results
        seeds = " ".join(f"{values['evaluation']['success']['value']:.2f}" for values in results)
        estimates = [str(method.estimate(key)) for key in ("success", *measures, "return")]
        name = label(method.name, method.estimate("success"), random.success)
        rows.append((name, *estimates, seeds, f"{results[0]['steps']:,}"))
    measure_cells = [str(random.measures.get(name, "")) for name in measures]
    return [*rows, ("random", str(random.success), *measure_cells, str(random.returned), "", "")]


def label(method: str, values: Sequence[float] | None, chance: Sequence[float] | None) -> str:
    """Return the name of a method, marked with BELOW if it is worse than random actions.

    Args:
        method: Name of the method.
        values: Its estimate, with the value first; None = unknown.
        chance: The estimate of random actions, in the same form.
    """
    return f"{method} {BELOW}" if values and chance and values[0] < chance[0] else method


def random_score(results: Mapping[str, Any]) -> Score:
    """Return the score of random actions in a run's results.json.

    Intervals of success rates are computed again, because files of earlier versions have other intervals.

    Args:
        results: Content of results.json.
    """
    score = Score.from_json(results["random"])
    rates = {
        name: wilson(estimate.value, score.episodes) if estimate.value in (0, 1) else estimate
        for name, estimate in score.measures.items()
    }
    return replace(score, success=wilson(score.success.value, score.episodes), measures=rates)


def draw(methods: Sequence[Method], path: Path) -> None:
    """Write training curves as PNG: thin lines are seeds, thick lines their mean, dashed lines random actions.

    Runs that play episodes have curves of success rate and return. Runs that learn from recorded episodes have a curve
    of the accuracy, and next to it the evaluation's success rate by context.

    Args:
        methods: Methods to draw, from group.
        path: File to write.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    random = random_score(methods[0].results[0])
    if all(metrics and "success" in metrics[0] for method in methods for metrics in method.metrics):
        _draw_curves(axes[0], methods, "success", f"success rate, last {WINDOW} episodes")
        _draw_curves(axes[1], methods, "return", f"return per episode, last {WINDOW} episodes")
        for axis, estimate in zip(axes, (random.success, random.returned), strict=True):
            axis.axhline(estimate.value, color="grey", linestyle="--", linewidth=1, label="random")
    else:
        _draw_curves(axes[0], methods, "train/accuracy", f"accuracy against the expert, last {UPDATES} updates")
        _draw_contexts(axes[1], methods)
        axes[1].axhline(random.success.value, color="grey", linestyle="--", linewidth=1)
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend()
    figure.suptitle(f"{_task(methods[0].runs)}: thin lines are seeds, thick lines their mean")
    figure.savefig(path, dpi=120)


def _draw_curves(axis: Axes, methods: Sequence[Method], column: str, label: str) -> None:
    for number, method in enumerate(methods):
        steps = np.linspace(0, min(run.config.steps for run in method.runs), POINTS)
        curves = np.array([curve(metrics, column, steps) for metrics in method.metrics])
        axis.plot(steps, curves.T, color=f"C{number}", alpha=0.35, linewidth=1)
        axis.plot(steps, curves.mean(axis=0), color=f"C{number}", linewidth=2, label=method.name)
    axis.set_xlabel("steps")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)


def _draw_contexts(axis: Axes, methods: Sequence[Method]) -> None:
    """Draw success rates with their intervals, over all episodes and for each context."""
    names = [None, *methods[0].contexts]
    for number, method in enumerate(methods):
        estimates = np.array([method.estimate("success", name) for name in names])  # [names, (value, low, high)]
        x = np.arange(len(names)) + 0.12 * (number - (len(methods) - 1) / 2)
        lengths = np.abs(estimates[:, 1:] - estimates[:, :1]).T
        axis.errorbar(x, estimates[:, 0], lengths, fmt="o", capsize=3, color=f"C{number}", label=method.name)
    axis.set_xticks(range(len(names)), [name or "all" for name in names])
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("success rate in the evaluation")
    axis.grid(alpha=0.3)


def curve(metrics: Metrics, column: str, steps: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """Return the curve of a column of metrics.csv, averaged over the last episodes and interpolated.

    Args:
        metrics: Rows of metrics.csv.
        column: Name of the column.
        steps: [n] environment steps at which to evaluate the curve.
        window: Number of episodes to average over. Runs from recorded episodes use the last UPDATES updates instead.

    Returns:
        [n] values; NaN before the column's first value.
    """
    rows = [row for row in metrics if row.get(column)]
    if not rows:
        return np.full_like(steps, np.nan)
    metric_steps, values = (np.array([float(row[key]) for row in rows]) for key in ("step", column))
    if "episodes" not in rows[0]:  # a run that learns from recorded episodes
        return np.interp(steps, metric_steps, smooth(values, np.ones_like(values), UPDATES), left=np.nan)
    episode_counts = np.array([float(row["episodes"]) for row in rows])
    return np.interp(steps, metric_steps, smooth(values, np.diff(episode_counts, prepend=0), window), left=np.nan)
