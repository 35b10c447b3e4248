"""The learning curves of a run, drawn from its metrics.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pr2l.training.metrics import Table

WINDOW = 100  # episodes that the thick line averages over


def draw_curves(folder: Path) -> Path:
    """Draws <folder>/metrics.csv into <folder>/curves.png, over steps.

    Return and success rate of a run that plays, loss and accuracy of one that learns from recorded episodes.
    """
    rows = Table(folder / "metrics.csv").rows()
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    if rows and "return" in rows[0]:
        ended = [row for row in rows if row["return"]]
        _draw(axes[0], ended, "return", "return per episode")
        _draw(axes[1], ended, "success", "success rate")
    else:
        _draw_updates(axes[0], rows, "train/loss", "weighted loss")
        _draw_updates(axes[1], rows, "train/accuracy", "share of actions as the expert's")
    axes[1].set_ylim(-0.02, 1.02)
    figure.suptitle(folder.name)
    figure.savefig(folder / "curves.png", dpi=120)
    return folder / "curves.png"


def smooth(values: np.ndarray, weights: np.ndarray, window: float) -> np.ndarray:
    """For each i the weighted mean of values[j..i], with j as far back as the weights add up to `window`.

    values, weights: [n], weights > 0. The earliest of them counts in full, so a window may be exceeded.
    """
    total = np.cumsum(weights)
    sums = np.concatenate([[0.0], np.cumsum(weights * values)])
    first = np.searchsorted(total, total - window, side="right")
    return (sums[1:] - sums[first]) / (total - np.concatenate([[0.0], total])[first])


def _draw(axes: Axes, rows: list[dict[str, str]], column: str, name: str) -> None:
    steps, values, ended = (np.array([float(row[key]) for row in rows]) for key in ("step", column, "episodes"))
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="one rollout")
    average = smooth(values, np.diff(ended, prepend=0), WINDOW)
    axes.plot(steps, average, color="tab:blue", linewidth=2, label=f"last {WINDOW} episodes")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_updates(axes: Axes, rows: list[dict[str, str]], column: str, name: str) -> None:
    steps, values = (np.array([float(row[key]) for row in rows]) for key in ("step", column))
    axes.plot(steps, values, color="tab:blue", linewidth=2)
    axes.set_xlabel("transitions")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
