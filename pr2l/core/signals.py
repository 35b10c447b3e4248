"""Signals that end a program after it has saved: SIGINT (Ctrl-C), SIGTERM (schedulers) and SIGHUP (a lost terminal)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SAVING_TIME = 30.0  # seconds after the first signal in which the program may save and close its simulators

_stopped_at: list[float] = []  # time of the signal that stops the program; empty = none arrived


@contextmanager
def stops_once(*numbers: int) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT, and SystemExit on other signals, but only on the first of them.

    Later signals, such as those of a user who presses Ctrl-C several times, would interrupt the saving that the first
    one has started. They are ignored for `SAVING_TIME`. A signal that the program was started to ignore, as with
    nohup, is still ignored. Outside the main thread, which alone may handle signals, this does nothing. Blocks may be
    nested.

    Args:
        numbers: The signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    if _stop not in before.values():
        _stopped_at.clear()
    for number in handled:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _stopped_at and now - _stopped_at[0] < SAVING_TIME:
        return
    _stopped_at[:] = [now]
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Delay the stop signals until the end of the block, so that it does all or nothing.

    Outside the main thread, which alone may handle signals, this does nothing. Blocks may be nested.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    handled = [number for number in STOP_SIGNALS if before[number] is not None]  # None: not set by Python
    for number in handled:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
    for number in arrived:
        signal.raise_signal(number)
