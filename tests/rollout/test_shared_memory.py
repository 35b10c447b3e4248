"""Shared memory for frames on a system with too little of it."""

import errno
import os

import pytest

from pr2l.core.disk import DiskFull
from pr2l.rollout.workers import SHARED, _shared_memory


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared memory is not in /dev/shm")
def test_too_little_shared_memory_is_explained(monkeypatch):
    def fallocate(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = set(SHARED.iterdir())
    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(DiskFull, match=r"frames of 8 environments in shared memory take 12.0 kB.*num_envs.*--shm-size"):
        _shared_memory(12_000, envs=8)
    assert not {path for path in set(SHARED.iterdir()) - before if path.stat().st_size == 12_000}


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared memory is not in /dev/shm")
def test_shared_memory_is_reserved():
    memory = _shared_memory(1_000_000, envs=8)
    try:
        assert (SHARED / memory.name).stat().st_blocks * 512 >= 1_000_000
    finally:
        memory.close()
        memory.unlink()
