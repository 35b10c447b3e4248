"""`pr2l bench report`: statistics of a suite's rows with confidence intervals, as Markdown, CSV, JSON and figures.

Statistics over all tasks use success rates, because these need no normalisation: interquartile mean (IQM), mean,
median, performance profile and probability of improvement over the baseline. Confidence intervals cover the runs and
the episodes of each run (pr2l.core.statistics). All random generators are seeded: the same rows give the same report.
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
from rich.markup import escape
from rich.table import Table

from pr2l.benchmark.compare import label, random_score
from pr2l.benchmark.order import order
from pr2l.benchmark.rows import RECENT, Row, read_rows
from pr2l.benchmark.suites import Definition, Suite, load_suite
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.statistics import (
    FEW_SEEDS,
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

RANDOM = "random"  # name of random actions in tables and figures
THRESHOLDS = np.linspace(0, 1, 51)  # of the performance profile
AGGREGATES = {"iqm": over_tasks(iqm), "mean": over_tasks(mean), "median": median}
HEAD = ("method", "IQM", "mean", "median", "P(better)", "runs", "frames/s", "memory", "GFLOP/frame")
TASK_HEAD = ("method", "success rate", "return", "each seed", "steps to threshold", "frames/s", "memory")
PAPER_HEAD = ("method", "paper", "here")
PAIR_HEAD = ("better in the paper", "than", "difference here", "order")
OTHER = "success rate, {}"  # column of one of the config's `evaluations`

Values = dict[str, Any]
Cells = list[tuple[str, ...]]


def report(name: str, results: Path, out: Path | None = None) -> Values:
    """Print the table of a suite, and write report.md, report.csv, report.json and figures.

    Args:
        name: Name or file of the suite, as for load_suite.
        results: Folder with a sub-folder of rows for each suite.
        out: Folder of the report; None = <results>/<suite>/report.

    Returns:
        The statistics, as from summarise.

    Raises:
        UserError: If there are no rows, or a row does not belong to the suite.
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
    title = f"{suite.name}: {summary['rows']} of {summary['wanted']} runs"
    table = Table(*HEAD[:6], title=escape(title), caption=few_seeds(summary) or None)
    for row in overall(summary):
        table.add_row(*row[:6])  # to fit a terminal
    Console().print(table, markup=False)
    Console().print(f"{out}: report.md, report.csv, report.json, figures", style="dim", markup=False)
    return summary


def summarise(suite: Suite, rows: Sequence[Row]) -> Values:
    """Return all statistics of a suite as JSON values.

    Args:
        suite: The suite.
        rows: Checked rows of the suite.

    Returns:
        "methods": statistics of each method over all tasks, from the seeds that all its tasks share; None if it has no
        such seed. "tasks": statistics of each method on each task. "random": statistics of random actions on each task
        and over all tasks. "paper": the comparison with a paper's order, see order.py; None if the suite names none.
        Other keys describe the suite. An estimate is [value, low, high].

    Raises:
        UserError: If there are no rows.
    """
    if not rows:
        raise UserError(f"there are no result rows of {suite.name}; make them with `pr2l bench run {suite.name}`")
    definition, baseline = suite.definition, suite.definition.baseline
    methods = list(dict.fromkeys(row.method for row in sorted(rows, key=lambda row: row.method not in suite.methods)))
    rows_of = {
        (task, method): [row for row in rows if (row.task, row.method) == (task, method)]
        for task in suite.tasks
        for method in methods
    }
    complete = {method: _complete([rows_of[task, method] for task in suite.tasks]) for method in methods}
    reference = complete.get(baseline)
    return {
        "suite": suite.name,
        "why": definition.why,
        "version": definition.version,
        "baseline": baseline,
        "threshold": definition.threshold,
        "seeds": list(definition.seeds),
        "evaluation_episodes": definition.evaluation_episodes,
        "about": {method: entry.about for method, entry in definition.methods.items()},
        "steps": {task: entry.steps or definition.steps for task, entry in definition.tasks.items()},
        "dates": [min(row.started for row in rows)[:10], max(row.started for row in rows)[:10]],
        "rows": len(rows),
        "wanted": len(suite.tasks) * sum(len(suite.seeds_of(method)) for method in {*suite.methods, *methods}),
        "evaluations": {task: _evaluations(suite, task) for task in suite.tasks},
        "methods": {
            method: _over_tasks(complete[method], reference if method != baseline else None)
            | _cost([row for row in rows if row.method == method])
            for method in methods
        },
        "tasks": {
            task: {
                method: _of_task(rows_of[task, method], definition.threshold)
                for method in methods
                if rows_of[task, method]
            }
            for task in suite.tasks
        },
        "random": _random(suite, rows, reference),
        "paper": _paper(definition, complete),
    }


def _evaluations(suite: Suite, task: str) -> list[str]:
    """Return the names of the further evaluations of a task."""
    return list(suite.plan(task, suite.methods[0], suite.definition.seeds[0]).config.evaluations)


def _paper(definition: Definition, complete: Mapping[str, list[list[Row]] | None]) -> Values | None:
    if definition.paper is None:
        return None
    paper, rates = definition.paper, {method: _success(rows) for method, rows in complete.items() if rows}
    orders = {
        representation: order(success, rates, definition.evaluation_episodes)
        for representation, success in paper.comparisons.items()
    }
    return {"source": paper.source, "caveat": paper.caveat, "orders": orders}


def _random(suite: Suite, rows: Sequence[Row], reference: list[list[Row]] | None) -> Values:
    """Return statistics of random actions; every row has their results on the same episodes."""
    # Players may act in other ways than policies, such as by text, so random actions of a policy's row come first.
    first = {row.task: row for row in sorted(reversed(rows), key=lambda row: suite.player_of(row.method) is None)}
    of_task = {task: random_score(row.results) for task, row in first.items()}
    scores = {
        task: {
            "success": list(score.success),
            "return": list(score.returned),
            "evaluations": {
                name: list(random_score(values).success)
                for name, values in first[task].results.get("evaluations", {}).items()
            },
        }
        for task, score in of_task.items()
    }
    if missing := set(suite.tasks) - set(of_task):
        return {"tasks": scores, **dict.fromkeys((*AGGREGATES, "improvement")), "missing": sorted(missing)}
    rates = np.array([[of_task[task].success.value] for task in suite.tasks])
    episodes = min(score.episodes for score in of_task.values())
    return {"tasks": scores, **_aggregates(rates, episodes, None if reference is None else _success(reference))}


def _complete(tasks: Sequence[Sequence[Row]]) -> list[list[Row]] | None:
    """Return for each task the rows of the seeds that all tasks share; None if they share no seed."""
    common_seeds = set.intersection(*({row.seed for row in rows} for rows in tasks))
    return [[row for row in rows if row.seed in common_seeds] for rows in tasks] if common_seeds else None


def _over_tasks(tasks: list[list[Row]] | None, reference: list[list[Row]] | None) -> Values:
    """Return statistics of a method over all tasks, and P(better) against the rows of a reference."""
    if tasks is None:
        return {"runs": 0, **dict.fromkeys((*AGGREGATES, "improvement", "profile", "curve"))}
    scores, episodes = _success(tasks), len(tasks[0][0].played("success"))  # the same number in every run of a suite
    profile = stratified_rates(
        lambda draws: performance_profile(draws, THRESHOLDS), scores, episodes=episodes, trials=scores.size
    )
    return {
        "runs": scores.size,
        **_aggregates(scores, episodes, None if reference is None else _success(reference)),
        "profile": {"at": THRESHOLDS.tolist(), **_band(profile)},
        "curve": _curve([row for rows in tasks for row in rows], len(tasks), relative=True),
    }


def _aggregates(scores: NDArray[np.float64], episodes: int, reference: NDArray[np.float64] | None) -> Values:
    """Return aggregates of success rates [tasks, runs], and P(better) against a reference [tasks, runs]."""
    trials = scores.size * episodes
    values: Values = {
        name: _estimate(stratified_rates(statistic, scores, episodes=episodes, trials=trials))
        for name, statistic in AGGREGATES.items()
    }
    values["improvement"] = None
    if reference is not None:
        pairs = len(scores) * min(scores.shape[1], reference.shape[1])
        better = stratified_rates(improvement, scores, reference, episodes=episodes, trials=pairs)
        values["improvement"] = _estimate(better)
    return values


def _of_task(rows: Sequence[Row], threshold: float) -> Values:
    first_steps = [first_reached(row.curve.steps, row.curve.success, threshold) for row in rows]
    return {
        "runs": len(rows),
        "success": list(success_rate([row.played("success") for row in rows])),
        "return": list(bootstrap_runs([row.played("return") for row in rows])),
        "evaluations": {
            name: list(success_rate([row.played("success", name) for row in rows])) for name in rows[0].evaluations
        },
        "each_seed": [row.success for row in rows],
        "steps_to_threshold": {"median": _median(first_steps), "each_seed": first_steps},
        "curve": _curve(rows, 1),
        **_cost(rows),
    }


def _median(first_steps: Sequence[float | None]) -> float | None:
    """Return the median over all seeds; None if it is infinite. A seed below the threshold counts as infinity."""
    middle = float(np.median([np.inf if step is None else step for step in first_steps]))
    return middle if np.isfinite(middle) else None


def _success(tasks: Sequence[Sequence[Row]]) -> NDArray[np.float64]:
    """Return success rates [tasks, runs]."""
    return np.array([[row.success for row in rows] for rows in tasks])


def _curve(rows: Sequence[Row], tasks: int, relative: bool = False) -> Values | None:
    """Return the IQM of the training success rate, with a band over runs, at steps where every run has a value.

    Args:
        rows: Rows grouped by task, with the same number of rows per task.
        tasks: Number of tasks.
        relative: Whether to give steps as fractions of each run's steps.

    Returns:
        None if the runs share no step.
    """
    values = np.array([row.curve.success for row in rows], dtype=np.float64)
    indices = np.flatnonzero(~np.isnan(values).any(axis=0))
    if not len(indices):
        return None
    steps = rows[0].curve.steps
    at = [steps[index] / (steps[-1] if relative else 1) for index in indices]
    success_rates = values[:, indices].reshape(tasks, -1, len(indices))
    return {"at": at, **_band(stratified(lambda draws: over_tasks(iqm)(np.moveaxis(draws, -1, -3)), success_rates))}


def _cost(rows: Sequence[Row]) -> Values:
    memory = [row.cost.peak_memory for row in rows if row.cost.peak_memory]
    gflop = [row.cost.gflop for row in rows if row.cost.gflop is not None]
    return {
        "frames_per_second": list(bootstrap([row.frames_per_second for row in rows])),
        "peak_memory": max(memory, default=None),
        "gflop": float(np.mean(gflop)) if gflop else None,
    }


def _estimate(band: Band) -> list[float]:
    return [float(number) for number in band]


def _band(band: Band) -> Values:
    return {name: np.round(values, 5).tolist() for name, values in band._asdict().items()}


# Tables.


def overall(summary: Values) -> list[tuple[str, ...]]:
    """Return the table over all tasks.

    Args:
        summary: From summarise.

    Returns:
        One tuple of cells per method, with the columns of HEAD, and one for random actions; the best IQM is first.
    """
    chance = summary["random"]
    rows = {
        label(method, values["iqm"], chance["iqm"]): (
            values,
            str(values["runs"]),
            interval(values["frames_per_second"], digits=0),
            _gigabytes(values["peak_memory"]),
            _number(values["gflop"]),
        )
        for method, values in summary["methods"].items()
    }
    rows[RANDOM] = (chance, "-", "-", "-", "-")
    ranked = sorted(rows.items(), key=lambda item: -(item[1][0]["iqm"] or [-1])[0])
    return [
        (name, *(interval(values[key]) for key in (*AGGREGATES, "improvement")), *cost)
        for name, (values, *cost) in ranked
    ]


def of_task(summary: Values, task: str) -> list[tuple[str, ...]]:
    """Return the table of one task.

    Args:
        summary: From summarise.
        task: "<environment>/<task>".

    Returns:
        One tuple of cells per method, with the columns of `task_head`, and one for random actions if the task has rows;
        the best success rate is first.
    """
    others = summary["evaluations"][task]
    chance = summary["random"]["tasks"].get(task)
    rows = {
        label(method, values["success"], chance["success"]): (
            values,
            " ".join(f"{value:.2f}" for value in values["each_seed"]),
            to_threshold(values),
            interval(values["frames_per_second"], digits=0),
            _gigabytes(values["peak_memory"]),
        )
        for method, values in summary["tasks"][task].items()
    }
    if chance:
        rows[RANDOM] = (chance, "-", "-", "-", "-")
    ranked = sorted(rows.items(), key=lambda item: -item[1][0]["success"][0])
    return [
        (
            name,
            interval(values["success"]),
            *(interval(values["evaluations"][other]) for other in others),
            interval(values["return"]),
            *columns,
        )
        for name, (values, *columns) in ranked
    ]


def task_head(summary: Values, task: str) -> tuple[str, ...]:
    """Return the columns of `of_task`: those of TASK_HEAD, and one for each further evaluation of the task.

    Args:
        summary: From summarise.
        task: "<environment>/<task>".
    """
    return (*TASK_HEAD[:2], *map(OTHER.format, summary["evaluations"][task]), *TASK_HEAD[2:])


def of_paper(comparison: Values) -> tuple[Cells, Cells]:
    """Return two tables of a comparison with a paper: its success rates beside ours, and all pairs of methods.

    Args:
        comparison: Result of `order`.
    """
    methods: Cells = [
        (method, f"{theirs:.3f}", "-" if ours is None else f"{ours:.3f}")
        for method, (theirs, ours) in comparison["methods"].items()
    ]
    pairs: Cells = [
        (better, other, interval(estimate), verdict or "no runs")
        for better, other, estimate, verdict in comparison["pairs"]
    ]
    return methods, pairs


def few_seeds(summary: Values) -> str:
    """Return a warning if a method has rows of fewer than FEW_SEEDS seeds of a task, otherwise "".

    Args:
        summary: Result of `summarise`.
    """
    runs = [values["runs"] for methods in summary["tasks"].values() for values in methods.values()]
    if min(runs) >= FEW_SEEDS:
        return ""
    seeds = "1 seed" if min(runs) == 1 else f"{min(runs)} seeds"
    subject = "Only" if min(runs) == max(runs) else "Some methods have only"
    return f"{subject} {seeds}: intervals over runs may be too narrow."


def to_threshold(values: Values) -> str:
    """Return the steps to the threshold as text: median over all seeds, and range over the seeds that reached it.

    Args:
        values: Statistics of a method on a task, from summarise.
    """
    of_seeds = values["steps_to_threshold"]["each_seed"]
    first_steps = [step for step in of_seeds if step is not None]
    count = f"{len(first_steps)} of {len(of_seeds)} seeds"
    if not first_steps:
        return f"not reached ({count})"
    middle = values["steps_to_threshold"]["median"]
    spread = f"[{min(first_steps):,.0f}, {max(first_steps):,.0f}]"
    return f"{'not by most' if middle is None else f'{middle:,.0f}'} {spread} ({count})"


def interval(values: Sequence[float] | None, digits: int = 2) -> str:
    """Return an estimate as text, such as "0.50 [0.40, 0.60]"; "-" for None.

    Args:
        values: Value, low and high end of the interval.
        digits: Number of decimal places.
    """
    if values is None:
        return "-"
    value, low, high = (f"{number:,.{digits}f}" for number in values)
    return f"{value} [{low}, {high}]"


def _gigabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.1f} GB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def markdown(summary: Values) -> str:
    """Return the report as Markdown, with the commands that produce it.

    Args:
        summary: Result of `summarise`. The figures of the report must be in the same folder.
    """
    sections = [f"# {summary['suite']}, version {summary['version']}", f"{summary['why']}."]
    sections.append(
        f"{summary['rows']} of {summary['wanted']} runs, {len(summary['seeds'])} seeds, "
        f"{summary['evaluation_episodes']} evaluation episodes per run. Brackets are 95 % confidence intervals over"
        f" runs and episodes. {RANDOM}: uniformly random actions. P(better): probability that a run is better than a"
        f" run of `{summary['baseline']}` on the same task. Curves and steps to threshold"
        f" ({summary['threshold']:g}) are success rates over the last {RECENT} training episodes. {few_seeds(summary)}"
    )
    sections.append(f"```console\npr2l bench run {summary['suite']}\npr2l bench report {summary['suite']}\n```")
    sections += ["## All tasks", markdown_table(HEAD, overall(summary))]
    sections += ["![aggregates](aggregates.png)", "![sample efficiency and performance profile](efficiency.png)"]
    if descriptions := [(method, text) for method, text in summary["about"].items() if text]:
        sections += ["## Methods", markdown_table(("method", "what it is"), descriptions)]
    if summary["paper"]:
        sections += _paper_sections(summary)
    for task in summary["tasks"]:
        steps = summary["steps"][task]
        sections.append(f"## {task}" if steps is None else f"## {task}, {steps:,} steps")
        sections.append(markdown_table(task_head(summary, task), of_task(summary, task)))
        sections.append(f"![training curves]({task.replace('/', '-')}.png)")
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _paper_sections(summary: Values) -> list[str]:
    paper = summary["paper"]
    sections = [
        "## Does the order of the paper hold?",
        f"Paper: {paper['source']}. {paper['caveat']} The difference is that of the success rates here. The order holds"
        " if the interval of the difference is above 0, and is reversed if it is below 0.",
    ]
    for representation, comparison in paper["orders"].items():
        methods, pairs = of_paper(comparison)
        sections.append(f"With `{representation}`: {comparison['answer']}" if representation else comparison["answer"])
        sections += [markdown_table(PAPER_HEAD, methods), markdown_table(PAIR_HEAD, pairs)]
    return sections


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        head: Column names.
        rows: Cells of each row, as many as there are columns. They must not contain a vertical bar.
    """
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def long_table(summary: Values) -> Iterator[tuple[str, str, str, float, float, float]]:
    """Yield every estimate as (task, method, statistic, value, low, high); the task "all" stands for all tasks.

    Args:
        summary: Result of `summarise`. Estimates that are None are left out.

    Yields:
        `low` and `high` are the ends of the 95 % confidence interval.
    """
    chance = summary["random"]
    tables = {"all": summary["methods"] | {RANDOM: chance}}
    for task, methods in summary["tasks"].items():
        tables[task] = methods | {name: scores for name, scores in ((RANDOM, chance["tasks"].get(task)),) if scores}
    for task, methods in tables.items():
        for method, values in methods.items():
            for key in (*AGGREGATES, "improvement", "success", "return", "frames_per_second"):
                if values.get(key) is not None:
                    value, low, high = values[key]
                    yield task, method, key, value, low, high
            for name, (value, low, high) in values.get("evaluations", {}).items():
                yield task, method, f"success, {name}", value, low, high


# Figures.


def _draw(summary: Values, out: Path) -> None:
    methods, chance = summary["methods"], summary["random"]
    styles = {method: _style(number) for number, method in enumerate(methods)} | {RANDOM: {"color": "grey"}}
    figure = Figure(figsize=(12, 1.5 + 0.35 * len(methods)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    titles = ("interquartile mean", "mean", "median", f"P(better than {summary['baseline']})")
    for axis, key, title in zip(axes, (*AGGREGATES, "improvement"), titles, strict=True):
        estimates = {method: values[key] for method, values in (methods | {RANDOM: chance}).items()}
        _draw_intervals(axis, estimates, styles)
        axis.set_title(title)
    axes[0].invert_yaxis()
    figure.savefig(out / "aggregates.png", dpi=120)
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_bands(left, {method: values["curve"] for method, values in methods.items()}, styles)
    left.set(xlabel="share of the steps", ylabel="training success rate, IQM", ylim=(-0.02, 1.02))
    _draw_bands(right, {method: values["profile"] for method, values in methods.items()}, styles)
    right.set(xlabel="success rate s", ylabel="share of runs above s", ylim=(-0.02, 1.02))
    _legend(left)
    figure.savefig(out / "efficiency.png", dpi=120)
    for task, of_methods in summary["tasks"].items():
        figure = Figure(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        _draw_bands(axis, {method: values["curve"] for method, values in of_methods.items()}, styles)
        if task in chance["tasks"]:
            axis.axhline(chance["tasks"][task]["success"][0], color="grey", linestyle="--", label=RANDOM)
        axis.set(xlabel="environment steps", ylabel="training success rate, IQM", ylim=(-0.02, 1.02), title=task)
        _legend(axis)
        figure.savefig(out / f"{task.replace('/', '-')}.png", dpi=120)


def _style(number: int) -> dict[str, str]:
    """Return the colour and dashes of a method's line; only those of the first 40 methods differ."""
    return {"color": f"C{number % 10}", "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}


def _draw_intervals(
    axis: Axes, estimates: Mapping[str, list[float] | None], styles: Mapping[str, dict[str, str]]
) -> None:
    for row, (method, estimate) in enumerate(estimates.items()):
        if estimate is not None:
            value, low, high = estimate
            axis.barh(row, high - low, left=low, color=styles[method]["color"], alpha=0.4)
            axis.plot([value, value], [row - 0.4, row + 0.4], color=styles[method]["color"], linewidth=3)
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.set_xlim(0, 1)
    axis.grid(alpha=0.3, axis="x")


def _draw_bands(axis: Axes, bands: Mapping[str, Values | None], styles: Mapping[str, dict[str, str]]) -> None:
    for method, band in bands.items():
        if band is not None:
            colour, line = styles[method]["color"], styles[method]["linestyle"]
            axis.plot(band["at"], band["value"], label=method, color=colour, linestyle=line)
            axis.fill_between(band["at"], band["low"], band["high"], color=colour, alpha=0.2, linewidth=0)
    axis.grid(alpha=0.3)


def _legend(axis: Axes) -> None:
    if axis.get_legend_handles_labels()[0]:  # runs that learn from recorded episodes have no curve
        axis.legend()
