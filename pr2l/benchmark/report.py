"""`pr2l bench report`: a suite's rows as statistics with their intervals, in Markdown, CSV, JSON and figures.

Aggregates over tasks are of success rates, which need no normalisation: interquartile mean, mean, median, performance
profile and probability of improvement over the baseline, with stratified bootstrap intervals over runs. Numbers of one
task are two-level bootstraps, over its runs and each run's episodes. All generators are seeded: the same rows give the
same report.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pr2l.benchmark.rows import RECENT, Row, read_rows
from pr2l.benchmark.suites import Suite, load_suite
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.statistics import (
    Band,
    bootstrap,
    bootstrap_runs,
    first_reached,
    improvement,
    iqm,
    mean,
    median,
    over_tasks,
    performance_profile,
    stratified,
    stratified_rates,
    success_rate,
)

THRESHOLDS = np.linspace(0, 1, 51)  # of the performance profile
AGGREGATES = {"iqm": over_tasks(iqm), "mean": over_tasks(mean), "median": median}
HEAD = ("method", "IQM", "mean", "median", "P(better)", "runs", "frames/s", "memory", "GFLOP/frame")
TASK_HEAD = ("method", "success rate", "return", "each seed", "steps to threshold", "frames/s", "memory")

Values = dict[str, Any]


def report(name: str, results: Path, out: Path | None = None) -> Values:
    """Writes report.md, .csv, .json and figures of a suite's rows below `results`, prints the table; the summary.

    out: None = <results>/<suite>/report. Raises UserError if there are no rows, or one is not what the suite asks for.
    """
    suite = load_suite(name)
    summary = summarise(suite, read_rows(results, suite))
    out = out or results / suite.name / "report"
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", summary)
    (out / "report.md").write_text(markdown(summary), encoding="utf-8")
    with (out / "report.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("task", "method", "statistic", "value", "low", "high"), *long_table(summary)])
    _draw(summary, out)
    table = Table(*HEAD[:6], title=f"{suite.name} after {summary['rows']} of {summary['wanted']} runs")
    for row in overall(summary):
        table.add_row(*row[:6])  # what a terminal is wide enough for
    Console().print(table)
    Console().print(f"{out}: report.md, report.csv, report.json, figures", style="dim")
    return summary


def summarise(suite: Suite, rows: Sequence[Row]) -> Values:
    """All statistics, as JSON values: "methods" over the tasks, "tasks" one by one; an estimate is [value, low, high].

    A method's aggregates are over the seeds that all tasks have of it, the same number for each; None where there is
    none. Raises UserError without rows.
    """
    if not rows:
        raise UserError(f"there is no row of {suite.name}; `pr2l bench run {suite.name}` makes them")
    definition, baseline = suite.definition, suite.definition.baseline
    methods = list(dict.fromkeys(row.method for row in sorted(rows, key=lambda row: row.method not in suite.methods)))
    by_place = {
        (task, method): [row for row in rows if (row.task, row.method) == (task, method)]
        for task in suite.tasks
        for method in methods
    }
    scores = {method: _whole([by_place[task, method] for task in suite.tasks]) for method in methods}
    reference = scores.get(baseline)
    return {
        "suite": suite.name,
        "why": definition.why,
        "version": definition.version,
        "baseline": baseline,
        "threshold": definition.threshold,
        "seeds": list(definition.seeds),
        "steps": {task: entry.steps or definition.steps for task, entry in definition.tasks.items()},
        "rows": len(rows),
        "wanted": len(suite.tasks) * len(definition.seeds) * len({*suite.methods, *methods}),
        "methods": {
            method: _over_tasks(scores[method], reference if method != baseline else None)
            | _cost([row for row in rows if row.method == method])
            for method in methods
        },
        "tasks": {
            task: {
                method: _of_task(by_place[task, method], definition.threshold)
                for method in methods
                if by_place[task, method]
            }
            for task in suite.tasks
        },
    }


def _whole(tasks: Sequence[Sequence[Row]]) -> list[list[Row]] | None:
    """Of each task the rows of those seeds that all tasks have; None if there are none."""
    shared = set.intersection(*({row.seed for row in rows} for rows in tasks))
    return [[row for row in rows if row.seed in shared] for rows in tasks] if shared else None


def _over_tasks(tasks: list[list[Row]] | None, reference: list[list[Row]] | None) -> Values:
    keys = (*AGGREGATES, "improvement", "profile", "curve")
    if tasks is None:
        return {"runs": 0, **dict.fromkeys(keys)}
    scores, episodes = _success(tasks), len(tasks[0][0].played("success"))  # as many for every run of a suite
    found: Values = {"runs": scores.size}
    sizes = {"episodes": episodes, "trials": scores.size * episodes}
    found |= {name: _estimate(stratified_rates(statistic, scores, **sizes)) for name, statistic in AGGREGATES.items()}
    profile = stratified_rates(
        lambda draws: performance_profile(draws, THRESHOLDS), scores, episodes=episodes, trials=scores.size
    )
    better = None
    if reference is not None:
        theirs = _success(reference)
        pairs = len(tasks) * min(scores.shape[1], theirs.shape[1])
        better = _estimate(stratified_rates(improvement, scores, theirs, episodes=episodes, trials=pairs))
    return found | {
        "improvement": better,
        "profile": {"at": THRESHOLDS.tolist(), **_band(profile)},
        "curve": _curve([row for rows in tasks for row in rows], len(tasks), relative=True),
    }


def _of_task(rows: Sequence[Row], threshold: float) -> Values:
    reached = [first_reached(row.curve.steps, row.curve.success, threshold) for row in rows]
    return {
        "runs": len(rows),
        "success": list(success_rate([row.played("success") for row in rows])),
        "return": list(bootstrap_runs([row.played("return") for row in rows])),
        "random": rows[0].results["random"]["success"]["value"],
        "each_seed": [row.success for row in rows],
        "steps_to_threshold": {"median": _median(reached), "each_seed": reached},
        "curve": _curve(rows, 1),
        **_cost(rows),
    }


def _median(reached: Sequence[float | None]) -> float | None:
    """Of all seeds, those that never got there counting as infinite; None where that is what it is."""
    middle = float(np.median([np.inf if step is None else step for step in reached]))
    return middle if np.isfinite(middle) else None


def _success(tasks: Sequence[Sequence[Row]]) -> NDArray[np.float64]:
    """Success rates [tasks, runs]."""
    return np.array([[row.success for row in rows] for rows in tasks])


def _curve(rows: Sequence[Row], tasks: int, relative: bool = False) -> Values | None:
    """Interquartile mean of the success rate in training, at steps where all runs have one; None if there are none.

    rows: those of each task together, the same number of each. relative: as shares of each run's steps, for tasks that
    have not all the same.
    """
    values = np.array([row.curve.success for row in rows], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values).any(axis=0))
    if not len(known):
        return None
    steps = rows[0].curve.steps
    at = [steps[place] / (steps[-1] if relative else 1) for place in known]
    shaped = values[:, known].reshape(tasks, -1, len(known))
    return {"at": at, **_band(stratified(lambda draws: over_tasks(iqm)(np.moveaxis(draws, -1, -3)), shaped))}


def _cost(rows: Sequence[Row]) -> Values:
    memory = [row.cost.peak_memory for row in rows if row.cost.peak_memory]
    gflop = [row.cost.gflop for row in rows if row.cost.gflop is not None]
    return {
        "frames_per_second": list(bootstrap([row.frames_per_second for row in rows])),
        "peak_memory": max(memory, default=None),
        "gflop": float(np.mean(gflop)) if gflop else None,
    }


def _estimate(band: Band) -> list[float]:
    return [float(part) for part in band]


def _band(band: Band) -> Values:
    return {name: np.round(part, 5).tolist() for name, part in band._asdict().items()}


# As tables.


def overall(summary: Values) -> list[tuple[str, ...]]:
    """The table over all tasks: rows under HEAD, the best interquartile mean first."""
    ranked = sorted(summary["methods"].items(), key=lambda item: -(item[1]["iqm"] or [-1])[0])
    return [
        (
            method,
            *(interval(found[key]) for key in (*AGGREGATES, "improvement")),
            str(found["runs"]),
            interval(found["frames_per_second"], digits=0),
            _gigabytes(found["peak_memory"]),
            _number(found["gflop"]),
        )
        for method, found in ranked
    ]


def of_task(summary: Values, task: str) -> list[tuple[str, ...]]:
    """The table of a task: rows under TASK_HEAD, the best first."""
    ranked = sorted(summary["tasks"][task].items(), key=lambda item: -item[1]["success"][0])
    return [
        (
            method,
            interval(found["success"]),
            interval(found["return"]),
            " ".join(f"{value:.2f}" for value in found["each_seed"]),
            to_threshold(found),
            interval(found["frames_per_second"], digits=0),
            _gigabytes(found["peak_memory"]),
        )
        for method, found in ranked
    ]


def to_threshold(found: Values) -> str:
    """Median, lowest and highest of the seeds that reached it; the median is over all seeds, if most of them did."""
    each = found["steps_to_threshold"]["each_seed"]
    reached = [step for step in each if step is not None]
    count = f"{len(reached)} of {len(each)} seeds"
    if not reached:
        return f"never ({count})"
    middle = found["steps_to_threshold"]["median"]
    spread = f"[{min(reached):,.0f}, {max(reached):,.0f}]"
    return f"{'not by most' if middle is None else f'{middle:,.0f}'} {spread} ({count})"


def interval(values: Sequence[float] | None, digits: int = 2) -> str:
    """ "0.50 [0.40, 0.60]"; a dash for None."""
    if values is None:
        return "-"
    value, low, high = (f"{each:,.{digits}f}" for each in values)
    return f"{value} [{low}, {high}]"


def _gigabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.1f} GB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def markdown(summary: Values) -> str:
    """The report, with the commands that make it again."""
    parts = [f"# {summary['suite']}, version {summary['version']}", f"{summary['why']}."]
    parts.append(
        f"{summary['rows']} of {summary['wanted']} runs, {len(summary['seeds'])} seeds. Success rates on evaluation"
        " episodes; brackets are 95 % bootstrap intervals. P(better): that a run is better than one of"
        f" `{summary['baseline']}` on the same task. Curves and steps to threshold are of the last {RECENT} episodes in"
        " training."
    )
    parts.append(f"```console\npr2l bench run {summary['suite']}\npr2l bench report {summary['suite']}\n```")
    parts += ["## All tasks", markdown_table(HEAD, overall(summary)), "![](aggregates.png)", "![](efficiency.png)"]
    for task in summary["tasks"]:
        parts.append(f"## {task}, {summary['steps'][task]:,} steps")
        parts += [markdown_table(TASK_HEAD, of_task(summary, task)), f"![]({task.replace('/', '-')}.png)"]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that hold no bar."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def long_table(summary: Values) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Every estimate as (task, method, statistic, value, low, high); "all" is the aggregate over the tasks."""
    for task, methods in (("all", summary["methods"]), *summary["tasks"].items()):
        for method, found in methods.items():
            for key in (*AGGREGATES, "improvement", "success", "return", "frames_per_second"):
                if found.get(key) is not None:
                    value, low, high = found[key]
                    yield task, method, key, value, low, high


# As figures.


def _draw(summary: Values, out: Path) -> None:
    methods = summary["methods"]
    colours = {method: f"C{number}" for number, method in enumerate(methods)}
    figure = Figure(figsize=(12, 1.2 + 0.35 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    titles = ("interquartile mean", "mean", "median", f"P(better than {summary['baseline']})")
    for axis, key, title in zip(axes, (*AGGREGATES, "improvement"), titles, strict=True):
        _draw_intervals(axis, {method: found[key] for method, found in methods.items()}, colours)
        axis.set_title(title)
    axes[0].invert_yaxis()
    figure.savefig(out / "aggregates.png", dpi=120)
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_bands(left, {method: found["curve"] for method, found in methods.items()}, colours)
    left.set(xlabel="share of the steps", ylabel="success rate in training, IQM", ylim=(-0.02, 1.02))
    _draw_bands(right, {method: found["profile"] for method, found in methods.items()}, colours)
    right.set(xlabel="success rate s", ylabel="share of runs above s", ylim=(-0.02, 1.02))
    _legend(left)
    figure.savefig(out / "efficiency.png", dpi=120)
    for task, found_of in summary["tasks"].items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        _draw_bands(axis, {method: found["curve"] for method, found in found_of.items()}, colours)
        axis.set(xlabel="environment steps", ylabel="success rate in training, IQM", ylim=(-0.02, 1.02), title=task)
        _legend(axis)
        figure.savefig(out / f"{task.replace('/', '-')}.png", dpi=120)


def _draw_intervals(axis: Axes, estimates: Mapping[str, list[float] | None], colours: Mapping[str, str]) -> None:
    for place, (method, found) in enumerate(estimates.items()):
        if found is not None:
            value, low, high = found
            axis.barh(place, high - low, left=low, color=colours[method], alpha=0.4)
            axis.plot([value, value], [place - 0.4, place + 0.4], color=colours[method], linewidth=3)
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3, axis="x")


def _draw_bands(axis: Axes, bands: Mapping[str, Values | None], colours: Mapping[str, str]) -> None:
    for method, band in bands.items():
        if band is not None:
            axis.plot(band["at"], band["value"], color=colours[method], label=method)
            axis.fill_between(band["at"], band["low"], band["high"], color=colours[method], alpha=0.2, linewidth=0)
    axis.grid(alpha=0.3)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:  # runs that learned from recorded episodes have no curve
        axis.legend()
