"""Detection of hanging simulator calls, from another thread or another process.

The observer adds up the intervals between its own checks. So a program that was stopped as a whole (Ctrl-Z, a suspended
laptop) does not count as hanging.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Literal, TextIO

from pr2l.environments.isolation.isolated import Timeouts

Call = Literal["start", "reset", "step"]
CALLS: tuple[Call, ...] = ("start", "reset", "step")
INTERVAL = 1.0  # seconds between two checks


class CallRecord:
    """Record of a simulator's running call, in memory that another thread or process may read.

    Args:
        memory: 4 integers: the number of calls so far; 1 + the index of the running call in CALLS, or 0 if none runs;
            the seed of the episode; the step in the episode. None = a new list.

    Attributes:
        thread: The identifier of the thread that made the last call.
    """

    SIZE = 4

    def __init__(self, memory: MutableSequence[int] | None = None) -> None:
        self.memory = [0] * self.SIZE if memory is None else memory
        self.thread = threading.get_ident()

    @contextmanager
    def during(self, call: Call, seed: int = 0, step: int = 0) -> Iterator[None]:
        """Record that a call runs, for the duration of a `with` block.

        Args:
            call: The kind of the call.
            seed: The seed of the episode.
            step: The step in the episode, 0 = none yet.
        """
        self.thread = threading.get_ident()
        self.memory[0] += 1
        self.memory[2], self.memory[3] = seed, step
        self.memory[1] = 1 + CALLS.index(call)
        try:
            yield
        finally:
            self.memory[1] = 0


class HangDetector:
    """Timer of the running call, which reports a call that exceeds its time limit.

    Args:
        record: The record of the running call.
        timeouts: The time limits, in seconds.
    """

    def __init__(self, record: CallRecord, timeouts: Timeouts) -> None:
        self.record, self._timeouts = record, timeouts
        self._number, self._seconds = 0, 0.0

    def after(self, seconds: float) -> str | None:
        """Add a waiting time to the running call and describe the call if it has exceeded its time limit.

        Args:
            seconds: The time since the previous call of this method, in seconds.

        Returns:
            A description for an error message; None if no call exceeds its limit.
        """
        number, code, seed, step = self.record.memory
        if not code or number != self._number:
            self._number, self._seconds = number, 0.0
            return None
        self._seconds += seconds
        call = CALLS[code - 1]
        limit: float = getattr(self._timeouts, call)
        if self._seconds < limit:
            return None
        episode = f"the episode with seed {seed}"
        reset, steps = f"the reset of {episode}", f"step {step} of {episode}"
        what = {"start": "making an environment", "reset": reset, "step": steps}
        return f"{what[call]} has not ended for {self._seconds:.0f} s (timeouts.{call} is {limit:g} s)"


class Watchdog:
    """Thread that reports once where a simulator's call hangs, without interrupting it.

    Args:
        records: The records of the environments in this process.
        timeouts: The time limits of the calls, in seconds.
        stream: The output for reports; None = stderr.
    """

    def __init__(self, records: Sequence[CallRecord], timeouts: Timeouts, stream: TextIO | None = None) -> None:
        self._detectors = [HangDetector(record, timeouts) for record in records]
        self._stream = stream
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="pr2l-watchdog").start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _watch(self) -> None:
        reported: set[int] = set()  # environments whose running call was reported
        while not self._closed.wait(INTERVAL):
            for row, detector in enumerate(self._detectors):
                hang = detector.after(INTERVAL)
                if hang and row not in reported:
                    print(self._report(row, hang, detector.record.thread), file=self._stream or sys.stderr, flush=True)
                    reported.add(row)
                if not hang:
                    reported.discard(row)

    def _report(self, row: int, hang: str, thread: int) -> str:
        frame = sys._current_frames().get(thread)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        return (
            f"environment {row}: {hang}. It runs in this process, which waits for it here:\n{stack}"
            "With isolated=true such a simulator is replaced and the run goes on (docs/simulators.md)"
        )
