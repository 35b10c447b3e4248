"""Stores of embeddings whose every number is known, damaged, killed and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.data.store import Store
from pr2l.rollout.vec_embed import HALF_MAX

KEY = {"encoder": "known", "vlm": {"name": "tiny", "layers": (-2, -1)}, "prompt": None}
SHAPE = (5, 2, 3)


def tokens(first, count):
    """Rows whose numbers tell their place; in odd rows the second token is padding."""
    numbers = torch.arange(first * 6, (first + count) * 6).reshape(count, 2, 3) + 1 / 3
    mask = torch.ones(count, 2, dtype=torch.bool)
    mask[[row for row in range(count) if (first + row) % 2], 1] = False
    return Tokens(numbers, mask)


def expected(rows):
    """What a store gives back: in half precision, and zero at the padding."""
    whole = tokens(0, SHAPE[0])
    return whole.values.masked_fill(~whole.mask[..., None], 0).half()[rows], whole.mask[rows]


def assert_holds(store, rows):
    values, mask = expected(rows)
    assert store[rows].values.dtype == torch.float16
    assert torch.equal(store[rows].values, values) and torch.equal(store[rows].mask, mask)


@pytest.fixture
def finished(tmp_path):
    store = Store.create(tmp_path / "store", KEY, SHAPE)
    store.append(tokens(0, 5))
    store.flush()
    return store.path


def test_rows_come_back_as_they_went_in(finished):
    store = Store.open(finished, KEY)
    assert len(store) == 5 and store.shape == SHAPE
    for rows in (slice(None), slice(1, 4), [4, 0, 4], np.array([3]), slice(0, 0)):
        assert_holds(store, rows)
    with pytest.raises(IndexError):
        store[[5]]


def test_what_is_read_can_be_written_to_and_the_store_cannot(finished):
    store = Store.open(finished, KEY)
    store[:].values.fill_(7)
    assert_holds(store, slice(None))
    with pytest.raises(ValueError, match="read-only"):
        store.values[0] = 7


def test_the_files_are_plain(finished):
    assert np.load(finished / "values.npy", allow_pickle=False).dtype == np.float16
    assert np.load(finished / "mask.npy", allow_pickle=False).tolist() == [[1, 1], [1, 0], [1, 1], [1, 0], [1, 1]]
    index = json.loads((finished / "store.json").read_text())
    assert index == {"key": json.loads(json.dumps(KEY)), "shape": [5, 2, 3], "done": 5}


def test_numbers_are_those_that_policies_see(tmp_path):
    store = Store.create(tmp_path, KEY, (2, 1, 1))
    store.append(Tokens(torch.tensor([[[1e6]], [[-1e6]]]), torch.ones(2, 1, dtype=torch.bool)))
    assert store[:].values.flatten().tolist() == [HALF_MAX, -HALF_MAX]
    with pytest.raises(FloatingPointError, match="NaN"):
        store.append(Tokens(torch.tensor([[[float("nan")]]]), torch.ones(1, 1, dtype=torch.bool)))
    assert store.done == 2


DIES = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import KEY, SHAPE, tokens
from pr2l.data.store import Store
store = Store.create(Path({path!r}), KEY, SHAPE)
store.append(tokens(0, 2))
store.flush()
store.append(tokens(2, 2))
{last}
os.kill(os.getpid(), signal.SIGKILL)
"""
CUT_SHORT = "store.values.flush(); (store.path / '.partial-store.json').write_text('{')"


@pytest.mark.parametrize("last", ["", CUT_SHORT], ids=["after rows", "while they are flushed"])
def test_a_killed_process_leaves_the_rows_of_its_last_flush(tmp_path, last):
    path = tmp_path / "store"
    script = DIES.format(tests=str(Path(__file__).parent), path=str(path), last=last)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="has 2 of 5 rows; go on with"):
        Store.open(path, KEY)
    store = Store.resume(path, KEY)
    assert store.done == 2
    assert_holds(store, slice(0, 2))
    with pytest.raises(IndexError):
        store[[2]]
    store.append(tokens(2, 2))
    store.flush()
    with pytest.raises(UserError, match="has 4 of 5 rows"):
        Store.open(path, KEY)
    store.append(tokens(4, 1))
    store.flush()
    assert_holds(Store.open(path, KEY), slice(None))


def test_rows_reach_the_disk_before_the_index_that_counts_them(tmp_path, monkeypatch):
    """A killed process leaves its maps to the system, so only a power failure would show another order."""
    store, order = Store.create(tmp_path, KEY, SHAPE), []
    monkeypatch.setattr(np.memmap, "flush", lambda array: order.append(array.ndim))
    monkeypatch.setattr("pr2l.data.store.write_json", lambda path, index: order.append(path.name))
    store.flush()
    assert order == [3, 2, "store.json"]


def test_a_store_that_was_being_made_is_none(tmp_path):
    Store.create(tmp_path, KEY, (9, 1, 1))
    (tmp_path / "store.json").unlink()
    with pytest.raises(UserError, match="is no store: it has no store.json"):
        Store.resume(tmp_path, KEY)
    store = Store.create(tmp_path, KEY, SHAPE)
    assert (store.done, store.values.shape) == (0, SHAPE)
    with pytest.raises(UserError, match="is a store already"):
        Store.create(tmp_path, KEY, SHAPE)


def test_another_key_is_refused_with_what_differs(finished):
    other = {"encoder": "known", "vlm": {"name": "tiny", "layers": [-1], "dtype": "float16"}, "prompt": "where"}
    with pytest.raises(UserError) as refusal:
        Store.open(finished, other)
    differences = str(refusal.value).partition(": ")[2].partition(". Write")[0].split("; ")
    assert differences == [
        "vlm.layers is [-2, -1] there and [-1] here",
        'prompt is null there and "where" here',
        'vlm.dtype is absent there and "float16" here',
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("values.npy", np.zeros(SHAPE, np.float32), r"values.npy is damaged: it holds float32 \[5, 2, 3\], .* float16"),
        ("values.npy", np.zeros((4, 2, 3), np.float16), r"holds float16 \[4, 2, 3\]"),
        ("mask.npy", np.zeros((5, 2), bool), "mask.npy is damaged: it holds bool"),
        ("mask.npy", b"\x93NUMPY", "mask.npy is damaged"),
        ("values.npy", None, "values.npy is damaged: .*No such file"),
        ("store.json", b"{", "store.json is damaged"),
        ("store.json", b"{}", "store.json is damaged: KeyError"),
        ("store.json", b"[]", "store.json is damaged: TypeError"),
    ],
)
def test_damage_is_noticed_at_once(finished, file, content, message):
    place = finished / file
    place.unlink()
    if isinstance(content, np.ndarray):
        np.save(place, content)
    elif content is not None:
        place.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Store.open(finished, KEY)


def test_a_file_cut_short_is_noticed(finished):
    with (finished / "values.npy").open("r+b") as file:
        file.truncate(150)
    with pytest.raises(UserError, match="values.npy is damaged"):
        Store.resume(finished, KEY)


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * 2 * (2 * 3 + 1) - 1))
    with pytest.raises(UserError, match="5 frames of 2 x 3 numbers take"):
        Store.create(tmp_path, KEY, SHAPE)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * 2 * (2 * 3 + 1)))
    Store.create(tmp_path, KEY, SHAPE)


@settings(deadline=None, max_examples=30)  # disks may be slow
@given(st.lists(st.sampled_from(["flush", "die", 1, 2]), max_size=12))
def test_it_is_a_list_that_forgets_what_was_not_flushed(tmp_path_factory, deeds):
    """Model: the number of rows, and how many of them were flushed; a death goes back to those."""
    path = tmp_path_factory.mktemp("store")
    store, done, safe = Store.create(path, KEY, SHAPE), 0, 0
    for deed in deeds:
        if deed == "flush":
            store.flush()
            safe = done
        elif deed == "die":
            store, done = Store.resume(path, KEY), safe
        elif done + deed <= SHAPE[0]:
            store.append(tokens(done, deed))
            done += deed
        assert store.done == done
        assert_holds(store, slice(0, done))
