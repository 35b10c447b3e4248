"""Freed memory is reused: after a few passes over a large batch, the process requests almost no new pages."""

import resource
import sys

import pytest
import torch

from pr2l.vlms.allocator import keep_freed_memory

NARROW, WIDE, ROWS = 64, 4096, 4096  # 64 MiB between the two products
PAGES = ROWS * WIDE * 4 // resource.getpagesize()


def page_faults(run):
    """Return the number of page faults while a function runs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_reused_by_the_next_pass():
    assert keep_freed_memory()
    rows, up, down = torch.randn(ROWS, NARROW), torch.randn(NARROW, WIDE), torch.randn(WIDE, NARROW)
    passes = [page_faults(lambda: torch.nn.functional.gelu(rows @ up) @ down) for _ in range(12)]
    assert sum(passes[6:]) < 6 * PAGES / 2  # otherwise each pass requests twice PAGES
