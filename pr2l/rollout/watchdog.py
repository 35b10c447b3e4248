"""Notice that a simulator's call hangs, from another thread or another process.

Waiting is measured by the watcher, in the intervals in which it looked. So a program that was stopped as a whole
(Ctrl-Z, a suspended laptop) is not taken for one that hangs.
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
INTERVAL = 1.0  # seconds between two looks


class CallRecord:
    """The call of a simulator that is under way, in memory that another thread or process may read.

    Args:
        memory: Of 4 integers: the number of calls so far; 1 + the index of the current one in CALLS, 0 = none; its
            episode's seed; its step in the episode. None = a list of this object's own.

    Attributes:
        thread: The identifier of the thread that made the last call.
    """

    SIZE = 4

    def __init__(self, memory: MutableSequence[int] | None = None) -> None:
        self.memory = [0] * self.SIZE if memory is None else memory
        self.thread = threading.get_ident()

    @contextmanager
    def during(self, call: Call, seed: int = 0, step: int = 0) -> Iterator[None]:
        """Record that a call is under way."""
        self.thread = threading.get_ident()
        self.memory[0] += 1
        self.memory[2], self.memory[3] = seed, step
        self.memory[1] = 1 + CALLS.index(call)
        try:
            yield
        finally:
            self.memory[1] = 0


class HangDetector:
    """Add up how long the same call has been under way.

    Args:
        record: Where the calls are recorded.
        timeouts: The limits, in seconds.
    """

    def __init__(self, record: CallRecord, timeouts: Timeouts) -> None:
        self.record, self._timeouts = record, timeouts
        self._number, self._seconds = 0, 0.0

    def after(self, seconds: float) -> str | None:
        """What hangs, in words, once a call has taken longer than its limit, and each time after that.

        Args:
            seconds: How long the caller has waited since it last asked.
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
    """A thread that says once where a simulator's call hangs; it can do nothing about it.

    Args:
        records: Of the environments that are stepped in this process.
        timeouts: When a call counts as hanging.
        stream: Where it says that; None = stderr.
    """

    def __init__(self, records: Sequence[CallRecord], timeouts: Timeouts, stream: TextIO | None = None) -> None:
        self._detectors = [HangDetector(record, timeouts) for record in records]
        self._stream = stream
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="pr2l-watchdog").start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        reported: set[int] = set()  # environments of which the current call was reported
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
