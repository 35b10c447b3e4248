"""Metrics of a run, one row per update, in metrics.csv, TensorBoard and optionally Weights & Biases."""

from __future__ import annotations

import csv
import os
import warnings
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, sync

CHECKSUM = "checksum"  # last column of metrics.csv
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
            self._table.keep_until(after)
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

    def sync(self) -> None:
        """Wait until all rows are on the disk, so that a checkpoint is never newer than its rows."""
        self._table.sync()

    def close(self) -> None:
        """Close TensorBoard and Weights & Biases."""
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class Table:
    """CSV file to which rows can add columns, which are blank in earlier rows.

    The last column is a checksum over the row and all rows before it, so that `rows` detects changed, torn and missing
    rows. Files of earlier versions have no such column, and are not verified.

    Args:
        path: The file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []  # known once this object has written the file
        self._checksum = 0  # of all rows that it has written

    def rows(self) -> list[dict[str, str]]:
        """Return all rows, each with every column but the checksum; "" = no value.

        Raises:
            DamagedFile: The file is not CSV, or a row does not have its checksum.
        """
        _, rows, problem = self._read()
        if problem:
            raise DamagedFile(
                self.path,
                problem,
                "If the run is finished, train it again; otherwise "
                f"`pr2l train --resume {self.path.parent}` keeps the rows before the damage and continues.",
            )
        return rows

    def complete_rows(self) -> list[dict[str, str]]:
        """Return the rows before the first damage; for a file to which another process may be writing."""
        return self._read()[1]

    def keep_until(self, step: int) -> None:
        """Remove the rows after a step, and rows that are damaged; warn if those are not after the step.

        Args:
            step: Last step to keep.
        """
        self.columns, rows, problem = self._read()
        kept_rows = [row for row in rows if row["step"].isdigit() and int(row["step"]) <= step]
        if problem and (not kept_rows or int(kept_rows[-1]["step"]) < step):
            warnings.warn(
                f"{self.path} is damaged: {problem}. Its rows up to step {step:,} after the damage are lost",
                stacklevel=2,
            )
        self.rewrite(kept_rows)

    def append(self, row: Row) -> None:
        """Append a row, and rewrite the file if the row has new columns.

        Args:
            row: Values by name; None = blank. Columns that it lacks are blank too.

        Raises:
            DamagedFile: The file has to be rewritten, and is damaged.
        """
        text = {key: "" if value is None else str(value) for key, value in row.items()}
        if not set(text) <= set(self.columns):
            self.rewrite([*self.rows(), text])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, [*self.columns, CHECKSUM], restval="").writerow(self._signed(text))

    def rewrite(self, rows: list[dict[str, str]]) -> None:
        """Replace all rows; columns remain even if no row has them.

        Args:
            rows: All rows, texts by name; their checksums are computed anew.
        """
        self.columns = list(dict.fromkeys([*self.columns, *(key for row in rows for key in row)]))
        self._checksum = 0
        partial = self.path.with_name(f".partial-{self.path.name}")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*self.columns, CHECKSUM], restval="")
            writer.writeheader()
            writer.writerows(map(self._signed, rows))
        sync(partial)
        os.replace(partial, self.path)

    def sync(self) -> None:
        """Wait until the file, if it exists, is on the disk."""
        if self.path.exists():
            sync(self.path)

    def _signed(self, row: Mapping[str, str]) -> dict[str, str]:
        ordered = {key: row[key] for key in self.columns if key in row}  # as a reader finds them
        self._checksum = _checksum(ordered, self._checksum)
        return {**ordered, CHECKSUM: f"{self._checksum:08x}"}

    def _read(self) -> tuple[list[str], list[dict[str, str]], str]:
        """Return the columns, the rows before the first damage, and what the damage is; "" = none."""
        if not self.path.exists():
            return [], [], ""
        rows: list[dict[str, str]] = []
        header: list[str] = []
        checksum = 0
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, [])
                for values in reader:
                    if len(values) != len(header):
                        raise ValueError(f"row {len(rows) + 1} has {len(values)} of {len(header)} values")
                    row = dict(zip(header, values, strict=True))
                    written = row.pop(CHECKSUM, None)
                    if written is None and _last_is_checksum(row):
                        raise ValueError(f"the name {CHECKSUM!r} of its last column differs")
                    checksum = _checksum(row, checksum)
                    if written is not None and written != f"{checksum:08x}":
                        raise ValueError(f"row {len(rows) + 1} differs from its checksum")
                    rows.append(row)
        except (csv.Error, ValueError) as error:  # ValueError: also text that is not UTF-8
            return _without_checksum(header), rows, str(error)
        return _without_checksum(header), rows, ""


def _last_is_checksum(row: dict[str, str]) -> bool:
    """Return whether the last value of a first row is the checksum of the others; then its name was damaged."""
    *others, (_, last) = row.items()
    return last == f"{_checksum(dict(others), 0):08x}"


def _without_checksum(header: list[str]) -> list[str]:
    return [name for name in header if name != CHECKSUM]


def _checksum(row: Mapping[str, str], before: int) -> int:
    """Return the checksum of a row; blank values do not count, because later rows may add columns."""
    return zlib.crc32("".join(f"{key}={value}\n" for key, value in row.items() if value).encode(), before)


def check_tracking(config: RunConfig) -> None:
    """Check that Weights & Biases is installed if the config turns it on.

    Args:
        config: Config of the run; its `wandb` is used.

    Raises:
        UserError: It is on, but the package wandb is not installed.
    """
    if config.wandb != "off" and find_spec("wandb") is None:
        raise UserError(f"wandb={config.wandb} needs the package wandb: pip install 'pr2l[wandb]', or use wandb=off")


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
