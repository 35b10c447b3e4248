"""Parts of a measurement, run one after the other within a time limit; what does not fit is listed with its reason.

    minutes left      8.0   ------------------------------------------
    part A, weight 3  |= 4.0 at most ======|
    part B, weight 1          |= 1.6 at most =|     A took 1.0, and left its time to the others
    ...

The limit of a part holds in the middle of loading or compiling too: an alarm raises OutOfTime.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, is_user_error
from pr2l.core.signals import not_interrupted
from pr2l.profiling.measure import Measure, Unmeasured
from pr2l.profiling.timing import Effort

AGAIN = 5.0  # seconds between two alarms


class OutOfTime(BaseException):
    """Exception that ends a part at its limit; no `except Exception` on the way stops it."""


@dataclass(frozen=True)
class Part:
    """A part of a measurement.

    Args:
        shape: Name of the VLM's shape.
        section: Name of the part among those of the shape.
        measure: Function that yields measures, and what could not be measured.
        weight: Share of the time limit, relative to the weights of the other parts.
    """

    shape: str
    section: str
    measure: Callable[[Effort], Iterator[Measure | Unmeasured]]
    weight: float = 1.0

    @property
    def name(self) -> str:
        """Name of the part, by which `select` finds it."""
        return f"{self.shape}:{self.section}"


def select(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """Return the parts of some shapes, in their order.

    Args:
        parts: All parts.
        names: Shapes, such as "tiny", and single parts, such as "tiny:ppo".

    Raises:
        UserError: There is no such shape or part.
    """
    chosen: list[Part] = []
    for name in names:
        shape, _, section = name.partition(":")
        of_shape = [part for part in parts if part.shape == shape]
        matching = [part for part in of_shape if section in ("", part.section)]
        if not of_shape:
            raise UnknownName("models", shape, {part.shape for part in parts})
        if not matching:
            raise UnknownName(f"parts of {shape}", section, [part.section for part in of_shape])
        chosen += matching
    return [part for part in parts if part in chosen]


@dataclass
class Results:
    """What a measurement has given so far.

    Args:
        measures: The measures.
        unmeasured: Reason for each part that was not measured, or not completely, by name.
        failed: Whether a part raised an error that is no UserError.
        interrupted: Whether the user pressed Ctrl-C.
    """

    measures: list[Measure] = field(default_factory=list)
    unmeasured: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    interrupted: bool = False


def run_parts(
    parts: Sequence[Part],
    effort: Effort,
    minutes: float | None,
    console: Console,
    save: Callable[[Results], None],
) -> Results:
    """Run parts, print each measure, and show the progress.

    Ctrl-C ends the measurement and keeps its results so far. A part that fails does not stop the others.

    Args:
        parts: The parts, the most important first.
        effort: Effort of each measurement.
        minutes: Time limit; None = no limit.
        console: Console for measures and progress.
        save: Function that is called with the results after each part.
    """
    end = math.inf if minutes is None else time.perf_counter() + 60 * minutes
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    results = Results()
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("", total=len(parts))
        for index, part in enumerate(parts):
            bars.update(bar, description=part.name, completed=index)
            share = part.weight / sum(later.weight for later in parts[index:])
            seconds = (end - time.perf_counter()) * share
            if results.interrupted or seconds <= 0:
                results.unmeasured[part.name] = "interrupted" if results.interrupted else "no time was left"
                continue
            run_part(part, effort, seconds, console, results)
            with not_interrupted():
                save(results)
        bars.update(bar, description="done", completed=len(parts))
    return results


def run_part(part: Part, effort: Effort, seconds: float, console: Console, results: Results) -> None:
    """Run one part and add what it gives to the results; for the arguments see `run_parts`."""
    limited = replace(effort, deadline=time.perf_counter() + seconds)
    try:
        with ctrl_c(results), alarm(seconds):
            for measure in part.measure(limited):
                add(measure, results, console)
                if results.interrupted:
                    raise KeyboardInterrupt
    except OutOfTime:
        results.unmeasured[part.name] = f"not complete after its {seconds:.0f} seconds"
    except KeyboardInterrupt:
        results.interrupted, results.unmeasured[part.name] = True, "interrupted"
    except (torch.OutOfMemoryError, MemoryError):
        results.unmeasured[part.name] = "out of memory"
    except Exception as error:
        if is_user_error(error):
            results.unmeasured[part.name] = str(error)
            return
        results.failed, results.unmeasured[part.name] = True, f"{type(error).__name__}: {error}"
        console.print_exception()


def add(result: Measure | Unmeasured, results: Results, console: Console) -> None:
    """Add a result to the others, and print it."""
    if isinstance(result, Unmeasured):
        results.unmeasured[result.name] = result.reason
        line = f"{result.name}: not measured, {result.reason}"
    else:
        results.measures.append(result)
        line = f"{result.name}: {result} {result.verdict}".rstrip()
    console.print(line, markup=False)


@contextmanager
def ctrl_c(results: Results) -> Iterator[None]:
    """Note Ctrl-C in the results and raise KeyboardInterrupt, each time that it is pressed.

    Python ignores an exception in a destructor, where the signal may arrive. The part then ends with its next measure.

    Args:
        results: Results of the measurement.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not is_main or before in (signal.SIG_IGN, None):
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        results.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after some seconds, inf = never.

    Only the main thread of a Unix system can do this; elsewhere a part ends between its rounds only.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if math.isinf(seconds) or not is_main or not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _out_of_time)
    # Python ignores an exception in a destructor, where the signal may arrive; so it comes again.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _out_of_time(number: int, frame: object) -> None:
    raise OutOfTime
