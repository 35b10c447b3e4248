"""Stores of embeddings: reading, writing, damage, and resumption after the process was killed."""

import json
import os
import shutil
import signal
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_in_fork

from pr2l.core.errors import UserError
from pr2l.core.io import read_json
from pr2l.core.types import Tokens
from pr2l.data.store import Store
from pr2l.rollout.vec_embed import HALF_MAX

KEY = {"encoder": "colour", "vlm": {"name": "tiny", "layers": (-2, -1)}, "prompt": None}
SHAPE = (5, 2, 3)


def tokens(first, count):
    """Return rows with consecutive numbers; in odd rows the second token is padding."""
    numbers = torch.arange(first * 6, (first + count) * 6).reshape(count, 2, 3) + 1 / 3
    mask = torch.ones(count, 2, dtype=torch.bool)
    mask[[row for row in range(count) if (first + row) % 2], 1] = False
    return Tokens(numbers, mask)


def expected(rows):
    """Return values and mask that a store returns: in half precision, with zeros at the padding."""
    stored = tokens(0, SHAPE[0])
    return stored.values.masked_fill(~stored.mask[..., None], 0).half()[rows], stored.mask[rows]


def assert_contains(store, rows):
    values, mask = expected(rows)
    assert store[rows].values.dtype == torch.float16
    assert torch.equal(store[rows].values, values) and torch.equal(store[rows].mask, mask)


@pytest.fixture
def finished(tmp_path):
    store = Store.create(tmp_path / "store", KEY, SHAPE)
    store.append(tokens(0, 5))
    store.flush()
    return store.path


def test_rows_are_read_as_written(finished):
    store = Store.open(finished, KEY)
    assert len(store) == 5 and store.shape == SHAPE
    for rows in (slice(None), slice(1, 4), [4, 0, 4], np.array([3]), slice(0, 0)):
        assert_contains(store, rows)
    with pytest.raises(IndexError):
        store[[5]]


def test_rows_are_copies_and_the_store_is_read_only(finished):
    store = Store.open(finished, KEY)
    store[:].values.fill_(7)
    assert_contains(store, slice(None))
    with pytest.raises(ValueError, match="read-only"):
        store.values[0] = 7


def test_files_are_npy_and_json(finished):
    assert np.load(finished / "values.npy", allow_pickle=False).dtype == np.float16
    assert np.load(finished / "mask.npy", allow_pickle=False).tolist() == [[1, 1], [1, 0], [1, 1], [1, 0], [1, 1]]
    expected = {"key": json.loads(json.dumps(KEY)), "shape": [5, 2, 3], "done": 5, "checksums": True}
    assert read_json(finished / "store.json") == expected


def test_values_beyond_half_precision_are_clipped_and_nan_raises(tmp_path):
    store = Store.create(tmp_path, KEY, (2, 1, 1))
    store.append(Tokens(torch.tensor([[[1e6]], [[-1e6]]]), torch.ones(2, 1, dtype=torch.bool)))
    assert store[:].values.flatten().tolist() == [HALF_MAX, -HALF_MAX] and store.clipped == 2
    with pytest.raises(FloatingPointError, match="NaN"):
        store.append(Tokens(torch.tensor([[[float("nan")]]]), torch.ones(1, 1, dtype=torch.bool)))
    assert store.done == 2


@pytest.mark.parametrize("during_flush", [False, True])
def test_killed_process_leaves_the_rows_of_its_last_flush(tmp_path, during_flush):
    path = tmp_path / "store"

    def write_and_kill():
        store = Store.create(path, KEY, SHAPE)
        store.append(tokens(0, 2))
        store.flush()
        store.append(tokens(2, 2))
        if during_flush:
            store.values.flush()
            (path / ".partial-store.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_in_fork(write_and_kill) == -signal.SIGKILL
    with pytest.raises(UserError, match="2 of 5 rows"):
        Store.open(path, KEY)
    store = Store.resume(path, KEY)
    assert store.done == 2
    assert_contains(store, slice(0, 2))
    with pytest.raises(IndexError):
        store[[2]]
    store.append(tokens(2, 2))
    store.flush()
    with pytest.raises(UserError, match="4 of 5 rows"):
        Store.open(path, KEY)
    store.append(tokens(4, 1))
    store.flush()
    assert_contains(Store.open(path, KEY), slice(None))


def test_flush_writes_rows_before_their_count(tmp_path, monkeypatch):
    """The order matters only for a power failure: the system writes the memory maps of a killed process."""
    store, order = Store.create(tmp_path, KEY, SHAPE), []
    monkeypatch.setattr(np.memmap, "flush", lambda array: order.append(array.ndim))
    monkeypatch.setattr("pr2l.data.store.write_json", lambda path, index: order.append(path.name))
    store.flush()
    assert order == [3, 2, 1, "store.json"]


def test_folder_without_index_is_not_a_store(tmp_path):
    Store.create(tmp_path, KEY, (9, 1, 1))
    (tmp_path / "store.json").unlink()
    with pytest.raises(UserError, match="is not a store: it has no store.json"):
        Store.resume(tmp_path, KEY)
    store = Store.create(tmp_path, KEY, SHAPE)
    assert (store.done, store.values.shape) == (0, SHAPE)
    with pytest.raises(UserError, match="is a store already"):
        Store.create(tmp_path, KEY, SHAPE)


def test_other_key_is_rejected_with_the_differences(finished):
    other = {"encoder": "colour", "vlm": {"name": "tiny", "layers": [-1], "dtype": "float16"}, "prompt": "where"}
    with pytest.raises(UserError) as error:
        Store.open(finished, other)
    differences = str(error.value).partition(": ")[2].partition(". Use that")[0].split("; ")
    assert differences == [
        "vlm.layers is [-2, -1] there and [-1] here",
        'prompt is null there and "where" here',
        'vlm.dtype is absent there and "float16" here',
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("values.npy", np.zeros(SHAPE, np.float32), r"values.npy is damaged.*float32 \[5, 2, 3\].*float16"),
        ("values.npy", np.zeros((4, 2, 3), np.float16), r"float16 \[4, 2, 3\]"),
        ("mask.npy", np.zeros((5, 2), bool), "mask.npy is damaged.*bool"),
        ("mask.npy", b"\x93NUMPY", "mask.npy is damaged"),
        ("values.npy", None, "values.npy is damaged: .*No such file"),
        ("store.json", b"{", "store.json is damaged"),
        ("store.json", b"{}", "store.json is damaged: KeyError"),
        ("store.json", b"[]", "store.json is damaged: it contains a list, not a JSON object. Delete .*store and run"),
        ("checksums.npy", None, "checksums.npy is damaged: .*No such file"),
    ],
)
def test_damaged_files_are_rejected(finished, file, content, message):
    place = finished / file
    place.unlink()
    if isinstance(content, np.ndarray):
        np.save(place, content)
    elif content is not None:
        place.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Store.open(finished, KEY)


def test_truncated_file_is_rejected(finished):
    with (finished / "values.npy").open("r+b") as file:
        file.truncate(150)
    with pytest.raises(UserError, match="values.npy is damaged"):
        Store.resume(finished, KEY)


def test_full_disk_is_rejected_before_files_are_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * (2 * (2 * 3 + 1) + 4) - 1))
    with pytest.raises(UserError, match="5 frames of 2 x 3 numbers"):
        Store.create(tmp_path, KEY, SHAPE)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * (2 * (2 * 3 + 1) + 4)))
    Store.create(tmp_path, KEY, SHAPE)


@settings(deadline=None, max_examples=30)  # the duration depends on the disk
@given(st.lists(st.sampled_from(["flush", "reopen", 1, 2]), max_size=12))
def test_reopened_store_has_the_flushed_rows(tmp_path_factory, operations):
    """A number is an operation that appends so many rows."""
    path = tmp_path_factory.mktemp("store")
    store, done, flushed = Store.create(path, KEY, SHAPE), 0, 0
    for operation in operations:
        if operation == "flush":
            store.flush()
            flushed = done
        elif operation == "reopen":
            store, done = Store.resume(path, KEY), flushed
        elif done + operation <= SHAPE[0]:
            store.append(tokens(done, operation))
            done += operation
        assert store.done == done
        assert_contains(store, slice(0, done))
