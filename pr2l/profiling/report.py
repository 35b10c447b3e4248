"""Files of a measurement: a table in Markdown, JSON, and a figure of the speeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from pr2l.core.io import write_json
from pr2l.core.machine import device
from pr2l.profiling.measure import OF_PRODUCT, Measure

HEAD = ("measured", "median [95 % interval]", "goal")


def write_report(measures: Sequence[Measure], unmeasured: Mapping[str, str], folder: Path) -> None:
    """Write speed.md, speed.json and speed.png.

    Args:
        measures: The measures so far.
        unmeasured: Reason for each part that was not measured, by name.
        folder: An existing folder.
    """
    values = [measure.as_json() for measure in measures]
    write_json(folder / "speed.json", {"machine": machine(), "measures": values, "unmeasured": dict(unmeasured)})
    (folder / "speed.md").write_text(as_markdown(measures, unmeasured), encoding="utf-8")
    draw(measures, folder / "speed.png")


def machine() -> dict[str, Any]:
    """Return the device, the number of threads and the version of torch."""
    return {"device": device(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def as_table(measures: Sequence[Measure]) -> Table:
    """Return a table for a terminal."""
    table = Table(*HEAD, title="Speed")
    for measure in measures:
        table.add_row(measure.name, str(measure), measure.verdict)
    return table


def as_markdown(measures: Sequence[Measure], unmeasured: Mapping[str, str]) -> str:
    """Return a table in Markdown, and a list of what was not measured."""
    rows = [f"| {measure.name} | {measure} | {measure.verdict} |" for measure in measures]
    table = "\n".join([f"| {' | '.join(HEAD)} |", "|---|---|---|", *rows, ""])
    if not unmeasured:
        return table
    return table + "\nNot measured:\n\n" + "".join(f"- {name}: {reason}\n" for name, reason in unmeasured.items())


def draw(measures: Sequence[Measure], path: Path) -> None:
    """Draw bars of frames per second, and for a device its curves over the batch size and shares of its limit."""
    by_batch = [measure for measure in measures if "batch" in measure.labels]
    panels: list[tuple[Callable[[Axes, list[Measure]], None], list[Measure], float]] = [
        (draw_bars, [measure for measure in measures if measure.unit == "frames/s" and not measure.labels], 0.4),
        (draw_curves, [measure for measure in by_batch if measure.unit == "frames/s"], 0.0),
        (draw_shares, [measure for measure in by_batch if measure.unit == OF_PRODUCT], 0.3),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    heights = [height_of_row * len(chosen) + 1.2 if height_of_row else 4.0 for _, chosen, height_of_row in panels]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(panels), 1, height_ratios=heights))
    for axis, (draw_panel, chosen, _) in zip(axes, panels, strict=True):
        draw_panel(axis, chosen)
    figure.savefig(path, dpi=120)


def draw_bars(axes: Axes, measures: Sequence[Measure]) -> None:
    """Draw one bar per measure with its interval, the first on top, on a logarithmic scale."""
    measures = measures[::-1]
    middle = [measure.value.value for measure in measures]
    ours = ["tab:blue" if ": ours" in measure.name else "lightgray" for measure in measures]
    axes.barh([measure.name for measure in measures], middle, xerr=spreads(measures), color=ours)
    for row, value in enumerate(middle):
        axes.annotate(f"{value:,.1f}", (value, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="frames per second")
    axes.margins(x=0.15)


def draw_shares(axes: Axes, measures: Sequence[Measure]) -> None:
    """Draw the share of the matrix product's speed as one bar per measure with its interval, the first on top."""
    measures = measures[::-1]
    names = [measure.name.removesuffix(", share") for measure in measures]
    axes.barh(names, [measure.value.value for measure in measures], xerr=spreads(measures), color="tab:blue")
    axes.set(xlim=(0, 1), xlabel="operations per second, share of a matrix product's")


def draw_curves(axes: Axes, measures: Sequence[Measure]) -> None:
    """Draw frames per second over the batch size, one line per shape and implementation."""
    lines: dict[tuple[str, str], list[Measure]] = {}
    for measure in measures:
        lines.setdefault((str(measure.labels["shape"]), str(measure.labels["implementation"])), []).append(measure)
    shapes = list(dict.fromkeys(shape for shape, _ in lines))
    markers = dict(zip(dict.fromkeys(implementation for _, implementation in lines), "osD^v*", strict=False))
    for (shape, implementation), points in lines.items():
        points.sort(key=lambda measure: int(measure.labels["batch"]))
        axes.errorbar(
            [int(measure.labels["batch"]) for measure in points],
            [measure.value.value for measure in points],
            yerr=spreads(points),
            color=f"C{shapes.index(shape)}",
            marker=markers[implementation],
            label=f"{shape}, {implementation}",
        )
    sizes = sorted({int(measure.labels["batch"]) for measure in measures})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(yscale="log", xlabel="frames in a batch", ylabel="frames per second")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def spreads(measures: Sequence[Measure]) -> list[list[float]]:
    """Return the distances of the bounds from the medians, for error bars; 0 without an interval."""
    with_bounds = [(measure.value, measure.has_interval) for measure in measures]
    below = [value.value - value.low if has_interval else 0.0 for value, has_interval in with_bounds]
    above = [value.high - value.value if has_interval else 0.0 for value, has_interval in with_bounds]
    return [below, above]
