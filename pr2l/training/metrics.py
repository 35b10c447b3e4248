"""Metrics of a run, one row per update, in metrics.csv, TensorBoard and optionally Weights & Biases."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError

Row = Mapping[str, float | None]


class Metrics:
    """Writer of metrics.

    Args:
        folder: Run folder.
        config: Config of the run; its key `wandb` turns on Weights & Biases.
        after: Step of the checkpoint from which the run resumes. Later rows of earlier processes are removed, because
            the run writes them again. None = a new run.
    """

    def __init__(self, folder: Path, config: RunConfig, after: int | None = None) -> None:
        self._table = Table(folder / "metrics.csv")
        if after is not None:
            self._table.rewrite([row for row in self._table.rows() if int(row["step"]) <= after])
        purge = None if after is None else after + 1
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        self._wandb = _start_wandb(folder, config) if config.wandb != "off" else None

    def write(self, row: Row) -> None:
        """Append a row.

        Args:
            row: Values by name, with "step"; None = no value, such as the return if no episode ended.
        """
        self._table.append(row)
        numbers = {key: value for key, value in row.items() if value is not None and key != "step"}
        step = int(row["step"] or 0)
        for key, value in numbers.items():
            self._tensorboard.add_scalar(key if "/" in key else f"rollout/{key}", value, step)
        self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Close TensorBoard and Weights & Biases."""
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class Table:
    """CSV file to which rows can add columns, which are blank in earlier rows.

    Args:
        path: The file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = self.rows()
        self.columns = list(rows[0]) if rows else []

    def rows(self) -> list[dict[str, str]]:
        """Return all rows, each with every column; "" = no value."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def append(self, row: Row) -> None:
        """Append a row, and rewrite the file if the row has new columns."""
        text = {key: "" if value is None else str(value) for key, value in row.items()}
        if not set(text) <= set(self.columns):
            self.rewrite([*self.rows(), text])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(text)

    def rewrite(self, rows: list[dict[str, str]]) -> None:
        """Replace all rows; columns remain even if no row has them."""
        self.columns = list(dict.fromkeys([*self.columns, *(key for row in rows for key in row)]))
        partial = self.path.with_name(f".partial-{self.path.name}")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, self.path)


def check_tracking(config: RunConfig) -> None:
    """Raise UserError if the config turns on Weights & Biases but the package is not installed."""
    if config.wandb != "off" and find_spec("wandb") is None:
        raise UserError(
            f"wandb={config.wandb} needs a package that is not installed: pip install 'pr2l[wandb]', or wandb=off"
        )


def _start_wandb(folder: Path, config: RunConfig) -> Any:
    check_tracking(config)
    import wandb

    return wandb.init(
        project="pr2l",
        id=folder.name,  # a resumed run continues the same chart
        name=folder.name,
        resume="allow",
        mode=config.wandb,
        dir=str(folder),
        config=config.model_dump(mode="json"),
    )
