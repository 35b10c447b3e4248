"""What a run is made on, as far as its speed and the last bits of its numbers depend on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")  # on Linux


def machine() -> str:
    """System, cores, processor, and the GPU where torch sees one."""
    parts = [platform.platform(), f"{os.cpu_count()} cores", processor()]
    return ", ".join([*parts, device()] if torch.cuda.is_available() else parts)


def device() -> str:
    """The GPU where torch sees one, else the processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def processor() -> str:
    """The processor's model, and the widest instructions that torch takes it to have: "AMD EPYC 9R14 (AVX512)"."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
