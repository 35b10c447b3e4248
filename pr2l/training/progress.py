"""Progress of a training: a bar on a terminal, or a line every 30 seconds in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

from pr2l.core.console import Console

INTERVAL = 30  # seconds between lines in a log


class TrainingProgress:
    """Context manager that shows the progress of a training.

    Args:
        console: Console to print to.
        total: Steps of the whole run.
        done: Steps before this process.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console, self._total = console, total
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, numbers="")
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, numbers: str) -> None:
        """Show the current step.

        Args:
            step: Steps so far.
            numbers: Text beside the step, such as the success rate.
        """
        self._bar.update(self._task, completed=min(step, self._total), numbers=numbers)
        if not self._console.is_terminal and time.monotonic() - self._last_line >= INTERVAL:
            self._last_line = time.monotonic()
            self._console.print(f"{step:,} of {self._total:,} steps, {numbers}", markup=False)
