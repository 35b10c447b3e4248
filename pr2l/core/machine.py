"""Description of the machine: the parts that affect the speed of a run and the rounding of its numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # only on Linux


def machine() -> str:
    """Return the operating system, the number of cores, the processor, and the GPU if torch finds one."""
    descriptions = [platform.platform(), f"{os.cpu_count()} cores", processor()]
    return ", ".join([*descriptions, device()] if torch.cuda.is_available() else descriptions)


def device() -> str:
    """Return the name of the GPU if torch finds one, otherwise the name of the processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def processor() -> str:
    """Return the processor and the widest vector instructions that torch uses, e.g. "AMD EPYC 9R14 (AVX512)"."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
