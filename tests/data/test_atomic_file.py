"""A file that changes completely or not at all, wherever the process is killed and wherever the disk is full."""

import errno
import io
import os
import random
import shutil

import h5py
import numpy as np
import pytest

from pr2l.core.io import DamagedFile
from pr2l.data.atomic_file import PAGE, AtomicFile


@pytest.fixture
def path(tmp_path):
    """An HDF5 file with one group."""
    file = tmp_path / "data" / "main.hdf5"
    file.parent.mkdir()
    with h5py.File(file, "w", track_order=True) as stored:
        stored.create_group("a")["numbers"] = np.arange(5000)
    return file


def append(path, names, count=9000):
    """Append groups in one commit."""
    file = AtomicFile(path)
    for name in names:
        with h5py.File(file, "r+") as stored:
            stored.create_group(name)["numbers"] = np.arange(count)
    file.commit()


def content(path):
    with h5py.File(path) as file:
        return {name: len(group["numbers"]) for name, group in file.items()}


def test_random_reads_and_writes_equal_those_of_a_file_in_memory(tmp_path):
    rng, path = random.Random(0), tmp_path / "file"
    path.write_bytes(rng.randbytes(2 * PAGE + 100))
    atomic, expected = AtomicFile(path), io.BytesIO(path.read_bytes())
    for _ in range(100):
        place, count = rng.randrange(5 * PAGE), rng.randrange(2 * PAGE)
        for file in (atomic, expected):
            assert file.seek(place) == place
        action = rng.choice(["read", "write", "write", "commit"])
        if action == "read":
            assert atomic.read(count) == expected.read(count)
        elif action == "write":
            written = rng.randbytes(count)
            assert atomic.write(written) == expected.write(written)
        else:
            atomic.commit()
            assert path.read_bytes() == expected.getvalue()


def test_nothing_is_written_before_commit(path):
    before, file = path.read_bytes(), AtomicFile(path)
    with h5py.File(file, "r+") as stored:
        stored.create_group("b")
    assert path.read_bytes() == before and file.pending
    file.discard()
    assert content(path) == {"a": 5000} and not file.pending


def test_kill_between_any_two_calls_of_the_system_leaves_all_or_nothing(path, tmp_path, monkeypatch):
    """Before each call, the files are copied, as a process that is killed there would leave them."""
    copies = []

    def copied(function):
        def call(*arguments):
            copies.append(tmp_path / str(len(copies)))
            shutil.copytree(path.parent, copies[-1])
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("pwrite", "fsync", "replace", "ftruncate"):
            patch.setattr(os, name, copied(getattr(os, name)))
        append(path, ["b"], count=600)
    found = []
    for folder in copies:
        AtomicFile(folder / path.name)
        found.append(content(folder / path.name))
        append(folder / path.name, ["c"])
        assert content(folder / path.name) == {**found[-1], "c": 9000}
        assert not (folder / f".journal-{path.name}").exists()
    before, after = {"a": 5000}, {"a": 5000, "b": 600}
    assert found == [before] * found.count(before) + [after] * found.count(after)
    assert min(found.count(before), found.count(after)) > 2


@pytest.mark.parametrize("place", ["pwrite", "replace"])
def test_full_disk_leaves_the_old_content(path, monkeypatch, place):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, place, full)
        append(path, ["b"])
    assert content(path) == {"a": 5000} and [file.name for file in path.parent.iterdir()] == [path.name]
    append(path, ["b", "c"])
    assert content(path) == {"a": 5000, "b": 9000, "c": 9000}


def test_damaged_journal_is_named(path):
    journal = path.with_name(f".journal-{path.name}")
    journal.write_bytes(b"PK half a journal")
    with pytest.raises(DamagedFile, match="journal-main.hdf5 is damaged"):
        AtomicFile(path)
