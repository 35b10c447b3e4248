"""Several runs of one task side by side: learning curves, a table with intervals, and the numbers as JSON.

    pr2l compare runs/doom-fetch-* --out docs/results

Runs that differ in nothing but their seed, or in where their simulators ran, are one method. An interval is a
two-level bootstrap: over the runs of a method, and within each over its evaluation episodes, since both differ by
chance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.statistics import Estimate, bootstrap_runs
from pr2l.training.curves import WINDOW, smooth
from pr2l.training.metrics import Table as MetricsTable
from pr2l.training.runs import Run

POINTS = 60  # of a curve
UPDATES = 20  # that a curve averages over where no episodes are played
ALIKE = {"seed", "why", "workers", "step_groups", "isolated", "timeouts"}  # what runs of one method may differ in


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone, by seed."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Each run's results.json; UserError for a run that has not been evaluated."""
        return [_results(run) for run in self.runs]

    def estimate(self, key: str, context: str | None = None) -> Estimate:
        """key: "success", "return" or a measure of the evaluation episodes; context: None = of all, whatever about."""
        played = [result["played"] for result in self.results]
        if context is None:
            return bootstrap_runs([each[key] for each in played])
        return bootstrap_runs([_where(each[key], each["context"], context) for each in played])

    @property
    def measures(self) -> list[str]:
        """What the task measures beside success and return."""
        return list(self.results[0]["evaluation"].get("measures", {}))

    @property
    def contexts(self) -> list[str]:
        """What the episodes are about, sorted; none where all are about the same."""
        return sorted(self.results[0].get("by_context", {}))


def _where(values: Sequence[float], contexts: Sequence[str], wanted: str) -> list[float]:
    return [value for value, context in zip(values, contexts, strict=True) if context == wanted]


def compare(paths: Sequence[Path], out: Path) -> list[Method]:
    """Prints the table and writes <environment>-<task>.png and .md and one JSON per method into `out`.

    Where the episodes are about several things, such as targets, the .md has a table by these too. Raises UserError if
    the runs are not all of one task, if one has not been evaluated, or if they were evaluated unevenly.
    """
    runs = [Run.load(path) for path in paths]
    place = _place(runs)
    methods = group(runs)
    _check_even(methods)
    out.mkdir(parents=True, exist_ok=True)
    for method in methods:
        write_json(out / f"{place}-{method.name}.json", _as_json(method))
    draw(methods, out / f"{place}.png")
    (out / f"{place}.md").write_text(markdown(methods), encoding="utf-8")
    Console().print(_table(methods))
    return methods


def group(runs: Sequence[Run]) -> list[Method]:
    """Methods in the order of their first run; runs of a method in the order of their seeds."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        defining = run.config.model_dump(mode="json", exclude=ALIKE)
        alike[json.dumps(defining, sort_keys=True)].append(run)
    named: dict[str, Method] = {}
    for members in alike.values():
        name = _name(members[0])
        if name in named:
            raise UserError(
                f"two methods would be called {name!r}, and their configs differ: {named[name].runs[0].path} and "
                f"{members[0].path}; compare one of them at a time"
            )
        named[name] = Method(name, tuple(sorted(members, key=lambda run: run.config.seed)))
    return list(named.values())


def _name(run: Run) -> str:
    """The encoder, and for an encoder that asks the VLM its prompt, as "no_prompt" where there is none.

    Before it the algorithm, if it is not PPO.
    """
    config = run.config
    algorithm = "" if config.algorithm == "ppo" else f"{config.algorithm}-"
    if config.encoder != "prompted":
        return algorithm + config.encoder
    return algorithm + ("no_prompt" if config.prompt is None else f"prompted-{config.prompt.replace('/', '_')}")


def _place(runs: Sequence[Run]) -> str:
    places = sorted({f"{run.config.environment}-{run.config.task}" for run in runs})
    if len(places) != 1:
        raise UserError(f"a comparison is about one task; these runs are of {', '.join(places) or 'none'}")
    return places[0]


def _results(run: Run) -> dict[str, Any]:
    path = run.path / "results.json"
    if not path.exists():
        raise UserError(f"{run.path} has not been evaluated; `pr2l evaluate {run.path}` does it")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def _check_even(methods: Sequence[Method]) -> None:
    """All on as many episodes, about the same things; the runs of a method after as many steps."""
    for method in methods:
        steps = [result["steps"] for result in method.results]
        ends = f"the runs of {method.name} were evaluated after different numbers of steps"
        _check_equal(method.runs, steps, ends, "`pr2l train --resume RUN` ends one that was stopped")
    runs = [run for method in methods for run in method.runs]
    results = [result for method in methods for result in method.results]
    episodes = [result["evaluation"]["episodes"] for result in results]
    much = "the runs were evaluated on different numbers of episodes"
    _check_equal(runs, episodes, much, "`pr2l evaluate RUN --episodes N` evens them")
    contexts = [", ".join(sorted(result.get("by_context", {}))) for result in results]
    _check_equal(runs, contexts, "the episodes were about different things", "compare runs of one kind at a time")


def _check_equal(runs: Sequence[Run], values: Sequence[object], what: str, hint: str) -> None:
    if len(set(values)) > 1:
        each = ", ".join(f"{run.path} {value}" for run, value in zip(runs, values, strict=True))
        raise UserError(f"{what}: {each}; {hint}")


def _as_json(method: Method) -> dict[str, Any]:
    """What evaluate.committed reads, with what each run contributed."""
    results = method.results
    keys = ("environment", "task", "algorithm", "encoder", "vlm", "prompt", "network", "steps")
    about = {key: results[0][key] for key in keys if key in results[0]}
    success, returned = method.estimate("success"), method.estimate("return")
    episodes = sum(result["evaluation"]["episodes"] for result in results)
    length = float(np.mean([result["evaluation"]["length"] for result in results]))
    scores = {"success": success._asdict(), "return": returned._asdict()}
    measures = {name: method.estimate(name)._asdict() for name in method.measures}
    return {
        **about,
        "evaluation": {"episodes": episodes, **scores, "length": length, "measures": measures},
        "random": results[0]["random"],
        "seeds": [result["seed"] for result in results],
        "success_of_each_seed": [result["evaluation"]["success"]["value"] for result in results],
        "commits": sorted({json.loads((run.path / "run.json").read_text())["commit"] for run in method.runs}, key=str),
    }


def markdown(methods: Sequence[Method]) -> str:
    """The tables as Markdown."""
    measures = methods[0].measures
    tables = [_markdown(_header(measures), _rows(methods, measures))]
    for key in ("success", *measures) if len(methods[0].contexts) > 1 else ():
        rows = [(method.name, *(str(method.estimate(key, name)) for name in method.contexts)) for method in methods]
        tables.append(_markdown((f"{key} by context", *methods[0].contexts), rows))
    return "\n".join(tables)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (header, *rows)]
    return "".join([lines[0], f"|{'---|' * len(header)}\n", *lines[1:]])


def _header(measures: Sequence[str]) -> tuple[str, ...]:
    return ("method", "success rate", *measures, "return", "each seed", "steps")


def _table(methods: Sequence[Method]) -> Table:
    """With the first measure alone, as a terminal is narrow."""
    first = methods[0].measures[:1]
    table = Table(*_header(first), title=_place(methods[0].runs))
    for row in _rows(methods, first):
        table.add_row(*row)
    return table


def _rows(methods: Sequence[Method], measures: Sequence[str]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for method in methods:
        results = method.results
        seeds = " ".join(f"{result['evaluation']['success']['value']:.2f}" for result in results)
        estimates = [str(method.estimate(key)) for key in ("success", *measures, "return")]
        rows.append((method.name, *estimates, seeds, f"{results[0]['steps']:,}"))
    return rows


def draw(methods: Sequence[Method], path: Path) -> None:
    """Curves of the training, each seed as a thin line and their mean as a thick one.

    Success rate and return of runs that play; of runs that learn from recorded episodes the share of right actions, and
    beside it the success rate in the evaluation, by what its episodes are about.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    if all("success" in _metrics(run)[0] for method in methods for run in method.runs):
        _draw_curves(axes[0], methods, "success", f"success rate, last {WINDOW} episodes")
        _draw_curves(axes[1], methods, "return", f"return per episode, last {WINDOW} episodes")
    else:
        _draw_curves(axes[0], methods, "train/accuracy", f"actions as the expert's, last {UPDATES} updates")
        _draw_contexts(axes[1], methods)
    axes[0].set_ylim(-0.02, 1.02)
    axes[0].legend()
    figure.suptitle(f"{_place(methods[0].runs)}: thin lines are seeds, thick ones their mean")
    figure.savefig(path, dpi=120)


def _draw_curves(axis: Axes, methods: Sequence[Method], column: str, label: str) -> None:
    for number, method in enumerate(methods):
        _draw(axis, method, column, f"C{number}")
    axis.set_xlabel("steps")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)


def _draw_contexts(axis: Axes, methods: Sequence[Method]) -> None:
    """Success rates with their intervals: of all episodes, and of those about each thing."""
    names = [None, *methods[0].contexts]
    for number, method in enumerate(methods):
        found = np.array([method.estimate("success", name) for name in names])  # [names, (value, low, high)]
        at = np.arange(len(names)) + 0.12 * (number - (len(methods) - 1) / 2)
        reach = np.abs(found[:, 1:] - found[:, :1]).T
        axis.errorbar(at, found[:, 0], reach, fmt="o", capsize=3, color=f"C{number}", label=method.name)
    axis.set_xticks(range(len(names)), [name or "all" for name in names])
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("success rate in the evaluation")
    axis.grid(alpha=0.3)


def _draw(axis: Axes, method: Method, column: str, colour: str) -> None:
    steps = np.linspace(0, min(run.config.steps for run in method.runs), POINTS)
    curves = np.array([curve(run, column, steps) for run in method.runs])
    axis.plot(steps, curves.T, color=colour, alpha=0.35, linewidth=1)
    axis.plot(steps, curves.mean(axis=0), color=colour, linewidth=2, label=method.name)


def curve(run: Run, column: str, steps: NDArray[np.float64], window: int = WINDOW) -> NDArray[np.float64]:
    """The column of a run's metrics at the given steps, averaged over `window` episodes; NaN where it has none yet."""
    rows = [row for row in _metrics(run) if row.get(column)]
    if not rows:
        return np.full_like(steps, np.nan)
    at, values = (np.array([float(row[key]) for row in rows]) for key in ("step", column))
    if "episodes" not in rows[0]:  # of a run that played none
        return np.interp(steps, at, smooth(values, np.ones_like(values), UPDATES), left=np.nan)
    ended = np.array([float(row["episodes"]) for row in rows])
    return np.interp(steps, at, smooth(values, np.diff(ended, prepend=0), window), left=np.nan)


def _metrics(run: Run) -> list[dict[str, str]]:
    return MetricsTable(run.path / "metrics.csv").rows()
