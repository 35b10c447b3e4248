"""Memory that is kept: after a few passes over a large batch the system is asked for next to none."""

import resource
import sys

import pytest
import torch

from pr2l.vlms.allocator import keep_freed_memory

NARROW, WIDE, ROWS = 64, 4096, 4096  # 64 MiB between the two products
PAGES = ROWS * WIDE * 4 // resource.getpagesize()


def faults(run):
    """Pages that the system had to give while a function ran."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_blocks_serve_the_next_pass():
    assert keep_freed_memory()
    rows, up, down = torch.randn(ROWS, NARROW), torch.randn(NARROW, WIDE), torch.randn(WIDE, NARROW)
    passes = [faults(lambda: torch.nn.functional.gelu(rows @ up) @ down) for _ in range(12)]
    assert sum(passes[6:]) < 6 * PAGES / 2  # without it each pass asks for twice PAGES
