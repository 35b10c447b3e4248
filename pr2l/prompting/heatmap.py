"""Heat maps of probe accuracies by layer and segment, for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pr2l.core.prompt import Prompt
from pr2l.prompting.probes import LayerSegment, Probe

ORDER = ("generated", "prompt", "image")  # rows of a heat map from top to bottom


class ProbedPrompt(Protocol):
    """A prompt with its score and its probes: what a row of heat maps shows."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def score(self) -> float: ...

    @property
    def view(self) -> dict[str, Probe]: ...

    @property
    def cells(self) -> dict[str, dict[LayerSegment, Probe]]: ...


def draw_scores(scores: Sequence[ProbedPrompt], path: Path | None = None) -> Figure:
    """Draw heat maps: one row per prompt and one column per label.

    Args:
        scores: Scores with probes on each layer and segment (`cells`).
        path: PNG file to write; None = write no file.
    """
    labels = list(scores[0].view)
    layers = max(len({layer for layer, _ in score.cells[labels[0]]}) for score in scores)
    figure = Figure(figsize=((1.6 + 0.62 * layers) * len(labels), 0.9 + 1.75 * len(scores)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(scores), len(labels), squeeze=False)
    for row, score in zip(grid, scores, strict=True):
        for axes, label in zip(row, labels, strict=True):
            draw_cells(axes, score.cells[label])
            view = score.view[label]
            title = f"{label}: {view.accuracy.value:.2f} combined, chance {view.chance:.2f}"
            axes.set_title(title, fontsize=8)
        name = score.prompt.name.rpartition("/")[2]
        row[0].set_ylabel(f"{name}\nscore {score.score:.2f}", fontweight="bold", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("layer, from the end", fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=100)
    return figure


def draw_cells(axes: Axes, cells: dict[LayerSegment, Probe]) -> None:
    """Draw the heat map of one label: layers from left to right, colours from chance to 1.

    Args:
        axes: Axes to draw on.
        cells: Probes on each layer and segment.
    """
    layers = list(dict.fromkeys(layer for layer, _ in cells))
    segments = [name for name in ORDER if any(segment == name for _, segment in cells)]
    values = np.full((len(segments), len(layers)), np.nan)
    for (layer, segment), probe in cells.items():
        values[segments.index(segment), layers.index(layer)] = probe.accuracy.value
    chance = next(iter(cells.values())).chance
    axes.imshow(values, vmin=chance, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = (value - chance) / (1 - chance) < 0.6
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers], fontsize=8)
    axes.set_yticks(range(len(segments)), segments, fontsize=8)
