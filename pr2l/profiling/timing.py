"""Timings, memory peaks and operation counts that remain comparable on a busy machine.

round 1   A B C      All variants run in turn, round after round. Other work slows down neighbouring runs equally, so
round 2   A B C      the ratio A / B of a round is reliable even if the seconds are not.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class MedianRange:
    """Median, minimum and maximum of a few measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> MedianRange:
        """Compute median, minimum and maximum of at least one value.

        Args:
            values: Measurements in any unit, such as seconds.
        """
        return cls(float(np.median(values)), min(values), max(values))


def time_in_turn(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time several functions in turn, after one warm-up run of each.

    Args:
        variants: Functions by name.
        rounds: Timed runs of each function.

    Returns:
        Seconds of each round by name.
    """
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def speedup(slow: Sequence[float], fast: Sequence[float]) -> MedianRange:
    """Compute how many times as fast one variant is as another, round by round.

    Args:
        slow: Seconds per round of the slower variant, from `time_in_turn`.
        fast: Seconds per round of the faster variant.
    """
    return MedianRange.of([slow_seconds / seconds for slow_seconds, seconds in zip(slow, fast, strict=True)])


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
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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


def matrix_ceiling(dtype: torch.dtype, device: torch.device, side: int = 2048) -> Callable[[], object]:
    """Return a function that multiplies two square matrices, whose speed is the limit of a machine.

    Args:
        dtype: Data type of the matrices.
        device: Device of the matrices.
        side: Rows and columns; the product takes 2 side^3 operations.
    """
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: left @ right


def _return_freed_memory() -> None:
    """Return freed memory to the system, because the next run could use it without a higher peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # a function of glibc
    if trim is not None:
        trim(0)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(key: str) -> int:
    """Read a line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
