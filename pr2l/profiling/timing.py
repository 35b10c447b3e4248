"""Timings, memory peaks and operation counts that remain comparable on a busy machine.

round 1   A B C      All variants run in turn, in many short rounds. Other work slows down neighbouring runs equally,
round 2   A B C      so the ratio A / B of a round is reliable even if the seconds are not. The median of the ratios
...                  has an interval between two of the sorted ratios.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from pr2l.core.statistics import Estimate, median_interval


@dataclass(frozen=True)
class Effort:
    """Effort of a measurement.

    Args:
        frames: Frames in a batch.
        rounds: Smallest number of rounds of timing. An interval needs 6; 9 leave out the slowest and the fastest.
        seconds: Rounds go on until so many seconds have passed.
        deadline: Time of `time.perf_counter` at which the rounds have to end; one round always runs.
    """

    frames: int = 16
    rounds: int = 9
    seconds: float = 10.0
    deadline: float = math.inf


@dataclass(frozen=True)
class Variant:
    """A function to time, which processes some frames.

    Args:
        run: The function.
        frames: Number of frames that it processes.
    """

    run: Callable[[], object]
    frames: int = 1


def rounds(effort: Effort) -> Iterator[int]:
    """Yield the numbers of the rounds of a measurement, from 0 on, until the effort is spent."""
    began = before = time.perf_counter()
    for number in count():
        now = time.perf_counter()
        is_enough = number >= effort.rounds and now - began >= effort.seconds
        is_late = number > 0 and now + (now - before) > effort.deadline
        if is_enough or is_late:
            return
        before = now
        yield number


def time_in_turn(variants: Mapping[str, Variant], effort: Effort) -> dict[str, list[float]]:
    """Time several functions in turn, after one warm-up run of each.

    Args:
        variants: Functions by name.
        effort: Number of rounds.

    Returns:
        Seconds per frame in each round, by name.
    """
    for variant in variants.values():
        variant.run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in rounds(effort):
        for name, variant in variants.items():
            synchronize()
            start = time.perf_counter()
            variant.run()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / variant.frames)
    return seconds


def rate(seconds: Sequence[float], amount: float = 1.0) -> Estimate:
    """Compute an amount per second over the rounds.

    Args:
        seconds: Seconds of each round.
        amount: Amount of work of a round, such as its number of frames.
    """
    return median_interval([amount / duration for duration in seconds])


def speedup(slow: Sequence[float], fast: Sequence[float]) -> Estimate:
    """Compute how many times as fast one variant is as another, from the ratio of each round.

    Args:
        slow: Seconds of the slower variant in each round, from `time_in_turn`.
        fast: Seconds of the faster variant.
    """
    return median_interval([slow_seconds / seconds for slow_seconds, seconds in zip(slow, fast, strict=True)])


def peak_memory(run: Callable[[], object]) -> int:
    """Measure the additional peak memory of a run in bytes, on the GPU if there is one.

    On systems other than Linux without a GPU, this returns the peak memory of the whole process.

    Args:
        run: Function to run once.
    """
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    marks = Path("/proc/self/clear_refs")
    if not marks.exists():  # not Linux: the peak of the whole process
        run()
        return highest_memory()
    _return_freed_memory()
    marks.write_text("5")  # resets the peak to what is allocated now
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def highest_memory() -> int:
    """Return the peak main memory of this process so far, in bytes."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def flops(run: Callable[[], object]) -> int:
    """Count the floating-point operations of a run with torch's counter, which covers matrix products.

    Args:
        run: Function that is called once. A multiplication and an addition count as two operations.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


# Group of operations of a transformer -> substrings of the names of its torch operations.
OPERATIONS = {
    "linear layers": ("linear", "mm"),
    "attention": ("scaled_dot_product", "softmax"),
    "activations": ("gelu", "silu", "relu", "sigmoid"),
}


def profile(run: Callable[[], object]) -> dict[str, float]:
    """Profile a run and return the fraction of its time in each group of OPERATIONS and in the rest, each in 0..1.

    Args:
        run: Function that is called once, without a warm-up.

    Returns:
        Fractions by group, and "the rest". The time is that of the GPU if there is one, otherwise of the CPU.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # silences the profiler's messages
    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *on_gpu]) as profiler:
        run()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = {event.key: getattr(event, time_of) for event in profiler.key_averages()}
    time_of_group = {
        group: sum(time for key, time in spent.items() if any(name in key for name in names))
        for group, names in OPERATIONS.items()
    }
    total = sum(spent.values())
    return {
        group: time / total
        for group, time in {**time_of_group, "the rest": total - sum(time_of_group.values())}.items()
    }


def matrix_product(dtype: torch.dtype, device: torch.device, side: int | None = None) -> Callable[[], object]:
    """Return a function that multiplies two square matrices, whose speed is the limit of a machine.

    Args:
        dtype: Data type of the matrices.
        device: Device of the matrices.
        side: Rows and columns; the product takes 2 side^3 operations. None = 8192 on a GPU, since smaller products do
            not use all of it, otherwise 2048.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: left @ right


def _return_freed_memory() -> None:
    """Return freed memory to the system, because the next run could use it without a higher peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a function of glibc
    if trim is not None:
        trim(0)


def synchronize() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(key: str) -> int:
    """Read a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
