"""Stores whose bytes have changed on the disk, stores of earlier versions, and disks without space."""

import errno
import json
import os
import resource

import numpy as np
import pytest
import torch
from processes import run_in_fork

from pr2l.core.disk import DiskFull, in_units
from pr2l.core.io import DamagedFile
from pr2l.core.types import Tokens
from pr2l.data.store import Store, is_complete

KEY, SHAPE = {"encoder": "any"}, (6, 2, 3)


def tokens(count):
    return Tokens(torch.arange(count * 6).reshape(count, 2, 3).float(), torch.ones(count, 2, dtype=torch.bool))


@pytest.fixture
def path(tmp_path):
    """A complete store, appended in two parts."""
    store = Store.create(tmp_path / "store", KEY, SHAPE)
    store.append(tokens(4))
    store.flush()
    store = Store.resume(store.path, KEY)
    store.append(tokens(2))
    store.flush()
    return store.path


def flip(file, position):
    with file.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(("name", "row_bytes"), [("values.npy", 12), ("mask.npy", 2), ("checksums.npy", 4)])
def test_flipped_bit_is_found_when_its_row_is_read(path, name, row_bytes):
    size = (path / name).stat().st_size
    flip(path / name, size - 2 * row_bytes)  # in row 4 of 6
    store = Store.open(path, KEY)
    assert torch.equal(store[[0, 3, 5, 3]].values[1], tokens(4).values[3].half())
    for rows in (slice(None), [1, 4], np.array([4])):
        with pytest.raises(DamagedFile, match=r"row 4 of the embeddings differs.*Delete .*store and run `pr2l embed`"):
            store[rows]
    assert len(store[slice(0, 4)].mask) == 4


def test_row_is_verified_once(path, monkeypatch):
    store, rows = Store.open(path, KEY), []
    monkeypatch.setattr("pr2l.core.digest.crc32", lambda arrays: rows.append(1) or 0)
    store._checksums = np.zeros(6, np.uint32)
    store[[0, 1]], store[0:3], store[[2, 1]]
    assert len(rows) == 3


def test_edited_index_is_found(path):
    index = path / "store.json"
    index.write_text(index.read_text().replace('"done": 6', '"done": 5'))
    for function in (is_complete, lambda folder: Store.resume(folder, KEY)):
        with pytest.raises(DamagedFile, match="store.json is damaged: its values differ.*Delete .*store and run"):
            function(path)


def test_store_of_an_earlier_version_is_read_and_continued(path):
    """It has no checksums, and no digest of store.json."""
    (path / "checksums.npy").unlink()
    (path / "store.json").write_text(json.dumps({"key": KEY, "shape": SHAPE, "done": 4}))
    assert not is_complete(path)
    store = Store.resume(path, KEY)
    store.append(tokens(2))
    store.flush()
    assert torch.equal(Store.open(path, KEY)[:].values[4:], tokens(2).values.half())
    assert not (path / "checksums.npy").exists() and is_complete(path)


@pytest.fixture
def full_disk(monkeypatch):
    def fallocate(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)


def test_full_disk_is_explained_before_rows_are_written(tmp_path, full_disk):
    with pytest.raises(DiskFull, match=r"6 frames of 2 x 3 numbers take 108 bytes, and .* are free at .*--output"):
        Store.create(tmp_path, KEY, SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_explained_when_a_store_is_continued(path, full_disk):
    with pytest.raises(DiskFull, match="No space left on device"):
        Store.resume(path, KEY)
    assert len(Store.open(path, KEY)[:].mask) == 6


def test_largest_allowed_file_is_explained(tmp_path):
    """The system refuses the file in a process with a limit; without a reservation, SIGBUS or SIGXFSZ would end it."""

    def create():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(DiskFull, match=r"take 1.8 MB, .*File too large"):
            Store.create(tmp_path, KEY, (100_000, 2, 3))

    assert run_in_fork(create) == 0
    assert list(tmp_path.iterdir()) == []


def test_space_is_reserved(tmp_path):
    store = Store.create(tmp_path, KEY, (1000, 2, 100))
    assert (tmp_path / "values.npy").stat().st_blocks * 512 >= store.values.nbytes


def test_sizes_are_in_readable_units():
    assert [in_units(size) for size in (0, 999, 1_500, 2_000_000, 33.4e9, 2e15)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.0 MB",
        "33.4 GB",
        "2,000.0 TB",
    ]
