"""Memory that is kept: the second pass over a large batch asks the system for none."""

import resource
import sys

import pytest
import torch

from pr2l.vlms._allocator import keep_freed_memory


def faults(run):
    """Pages that the system had to give while a function ran."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_blocks_serve_the_next_pass():
    assert keep_freed_memory()
    pages = [faults(lambda: torch.ones(2**24)) for _ in range(4)]  # 64 MiB; at first the heap grows
    assert pages[-1] < 100  # of 16,384
