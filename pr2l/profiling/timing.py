"""Timings that can be compared on a machine that does other things too: all ways in turn, round after round.

    round 1   A B C      a slow moment of the machine falls on neighbours alike, so that a round's ratio A / B
    round 2   A B C      holds where its seconds do not; the median over rounds is quoted, with its spread
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
class Spread:
    """Median, lowest and highest of a few measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(float(np.median(values)), min(values), max(values))


def race(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, once per round, after one run of each that does not count."""
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            _wait()
            began = time.perf_counter()
            run()
            _wait()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times as fast the second is, paired by round."""
    return Spread.of([one / other for one, other in zip(slow, fast, strict=True)])


def peak_memory(run: Callable[[], object]) -> int:
    """Bytes that a run takes at its highest, beyond what was there before it: on the GPU if there is one."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    marks = Path("/proc/self/clear_refs")
    if not marks.exists():  # no Linux: the process' highest ever
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _return_freed_memory()
    marks.write_text("5")  # sets the peak to what is there now
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def highest_memory() -> int:
    """Bytes of main memory that this process has taken at its highest."""
    if Path("/proc/self/status").exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def flops(run: Callable[[], object]) -> int:
    """Floating-point operations of a run's matrix products, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


# What torch calls the parts of a transformer's pass.
PARTS = {
    "linear layers": ("linear", "mm"),
    "attention": ("scaled_dot_product", "softmax"),
    "activations": ("gelu", "silu", "relu", "sigmoid"),
}


def profile(run: Callable[[], object]) -> dict[str, float]:
    """Shares of a run's time in PARTS, by the names of torch's operations, and in all others."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it says that it starts and stops
    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, *on_gpu]) as seen:
        run()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = {each.key: getattr(each, time_of) for each in seen.key_averages()}
    parts = {
        part: sum(time for key, time in spent.items() if any(name in key for name in names))
        for part, names in PARTS.items()
    }
    whole = sum(spent.values())
    return {part: time / whole for part, time in {**parts, "the rest": whole - sum(parts.values())}.items()}


def matrix_ceiling(dtype: torch.dtype, device: torch.device, side: int = 2048) -> Callable[[], object]:
    """A product of two square matrices, 2 side^3 operations: as fast as this machine multiplies."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: one @ other


def _return_freed_memory() -> None:
    """What earlier runs have freed may still be the process', and would serve the next one unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
