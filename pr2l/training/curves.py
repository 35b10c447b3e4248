"""Learning curves of a run, drawn from metrics.csv."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pr2l.core.io import read_json
from pr2l.training.metrics import Table

WINDOW = 100  # number of episodes in the moving average
# Metrics from 0 to 1 of algorithms that learn from recorded data, with their names in the figure
SHARES = {"train/accuracy": "agreement with the expert's actions", "train/kept": "kept trajectories"}


def draw_curves(folder: Path) -> Path:
    """Draw the learning curves of a run and write them to curves.png.

    For a run that learns from rollouts, the curves are return and success rate, with the level of the random policy if
    results.json exists. For a run that learns from recorded data, they are all losses, and the
    shares of SHARES that the algorithm logs.

    Args:
        folder: Run folder with metrics.csv.

    Returns:
        Path of the picture, curves.png in the folder.
    """
    figure = curves(Table(folder / "metrics.csv").rows(), _chance(folder / "results.json"))
    figure.suptitle(folder.name)
    figure.savefig(folder / "curves.png", dpi=120)
    return folder / "curves.png"


def curves(rows: list[dict[str, str]], chance: dict[str, float]) -> Figure:
    """Draw the learning curves in a figure of two panels.

    Args:
        rows: Rows of metrics.csv, text by column.
        chance: Mean "return" and "success" of the random policy; {} = unknown.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    if rows and "return" in rows[0]:
        rows_with_episodes = [row for row in rows if row["return"]]
        columns = {"return": "return per episode", "success": "success rate"}
        for panel, (column, name) in zip(axes, columns.items(), strict=True):
            _draw(panel, rows_with_episodes, column, name)
            if column in chance:
                panel.axhline(chance[column], color="tab:gray", linestyle="--", label="random actions (evaluation)")
            panel.legend()
    else:
        logged = dict.fromkeys(column for row in rows for column in row)
        losses = {column: column.removeprefix("train/") for column in logged if column.endswith("loss")}
        _draw_updates(axes[0], rows, losses, "loss")
        shares = {column: name for column, name in SHARES.items() if column in logged}
        _draw_updates(axes[1], rows, shares, "share")
    axes[1].set_ylim(-0.02, 1.02)
    return figure


def _chance(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    random = read_json(path)["random"]
    return {key: random[key]["value"] for key in ("return", "success")}


def smooth(values: np.ndarray, weights: np.ndarray, window: float) -> np.ndarray:
    """Compute a moving average over past values, with a window measured in weight.

    The window of value i begins at the latest value j for which the weights of j .. i sum to at least `window`, or at
    the first value. Value j counts with its full weight, so the sum may exceed `window`.

    Args:
        values: [n], values.
        weights: [n], positive weights, such as the number of episodes behind each value.
        window: Sum of weights in a window.

    Returns:
        [n], weighted means.
    """
    total = np.cumsum(weights)
    sums = np.concatenate([[0.0], np.cumsum(weights * values)])
    first = np.searchsorted(total, total - window, side="right")
    return (sums[1:] - sums[first]) / (total - np.concatenate([[0.0], total])[first])


def _draw(axes: Axes, rows: list[dict[str, str]], column: str, name: str) -> None:
    steps, values, episode_counts = (
        np.array([float(row[key]) for row in rows]) for key in ("step", column, "episodes")
    )
    axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1, label="one rollout")
    average = smooth(values, np.diff(episode_counts, prepend=0), WINDOW)
    axes.plot(steps, average, color="tab:blue", linewidth=2, label=f"last {WINDOW} episodes")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def _draw_updates(axes: Axes, rows: list[dict[str, str]], columns: dict[str, str], name: str) -> None:
    """Draw columns, which have the names in the legend, over the transitions; an algorithm may log none of them."""
    for column, label in columns.items():
        points = [(float(row["step"]), float(row[column])) for row in rows if row.get(column)]
        axes.plot(*zip(*points, strict=True), linewidth=2, label=label)
    axes.set_xlabel("transitions")
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)
    if columns:
        axes.legend()
