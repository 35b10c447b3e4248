"""The cache of an encoder, with an encoder that records the rows that it encodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import CachedEncoder

NAMES = "abc"


class RecordingEncoder(Encoder):
    """Record batches; a row becomes a token [brightness + fitted shift, letter of the context] and a padding token."""

    tokens, width, fit_frames, costly = 2, 2, 3, True

    def __init__(self):
        self.batches, self.shift = [], torch.zeros(1)

    def encode(self, frames, contexts, labels=None):
        letters = [context["target"] for context in contexts]
        self.batches.append([(int(frame.max()), letter) for frame, letter in zip(frames, letters, strict=True)])
        rows = [[[value + self.shift.item(), ord(letter)], [9, 9]] for value, letter in self.batches[-1]]
        return Tokens(torch.tensor(rows, dtype=torch.float16), torch.tensor([[True, False]]).repeat(len(frames), 1))

    def answers(self):
        return [f"{letter}{value}" for value, letter in self.batches[-1]]

    def key(self):
        return {"encoder": "recording"}

    def fit(self, frames, contexts):
        self.shift = torch.tensor([float(frames.max())])

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


def batch(*rows):
    """Return frames and contexts of rows such as (7, "a"): brightness and target."""
    frames = np.stack([np.full((2, 3, 3), value, np.uint8) for value, _ in rows])
    return frames, [{"target": letter, "item": "x"} for _, letter in rows]


def assert_equal(ours, theirs):
    assert ours.values.dtype == theirs.values.dtype
    assert torch.equal(ours.values, theirs.values) and torch.equal(ours.mask, theirs.mask)


def test_new_rows_are_encoded_once_in_one_batch():
    cache = CachedEncoder(RecordingEncoder(), capacity=10)
    cache.encode(*batch((1, "a"), (2, "a"), (1, "a")))
    assert cache.encoder.batches == [[(1, "a"), (2, "a")]]
    rows = batch((3, "a"), (1, "b"), (2, "a"), (3, "a"), (1, "a"))
    tokens = cache.encode(*rows)
    assert cache.encoder.batches[1:] == [[(3, "a"), (1, "b")]]
    assert cache.answers() == ["a3", "b1", "a2", "a3", "a1"]
    assert_equal(tokens, RecordingEncoder().encode(*rows))
    cache.encode(*rows)
    assert len(cache.encoder.batches) == 2  # no row was new


def test_frames_of_another_shape_are_other_rows():
    cache = CachedEncoder(RecordingEncoder(), capacity=10)
    frames, contexts = batch((1, "a"))
    cache.encode(frames, contexts)
    cache.encode(frames.transpose(0, 2, 1, 3), contexts)
    assert len(cache.encoder.batches) == 2


def test_contexts_are_compared_regardless_of_order():
    cache = CachedEncoder(RecordingEncoder(), capacity=10)
    frames, _ = batch((1, "a"))
    for context in ({"target": "a", "item": "x"}, {"item": "x", "target": "a"}, {"target": "x", "item": "a"}):
        cache.encode(frames, [context])
    assert cache.encoder.batches == [[(1, "a")], [(1, "x")]]


def test_least_recently_used_row_is_evicted():
    cache = CachedEncoder(RecordingEncoder(), capacity=2)
    for row in ((1, "a"), (2, "a"), (1, "a"), (3, "a"), (1, "a"), (2, "a")):
        cache.encode(*batch(row))
    encoded = [value for rows in cache.encoder.batches for value, _ in rows]
    assert encoded == [1, 2, 3, 2]  # 3 replaced 2, because 1 had been used again


def test_batch_may_be_larger_than_the_cache():
    cache = CachedEncoder(RecordingEncoder(), capacity=1)
    rows = batch((1, "a"), (2, "b"), (3, "c"))
    assert_equal(cache.encode(*rows), RecordingEncoder().encode(*rows))


def test_stored_rows_do_not_keep_their_batch_in_memory():
    cache = CachedEncoder(RecordingEncoder(), capacity=1)
    cache.encode(*batch((1, "a"), (2, "b"), (3, "c")))
    (row,) = cache._rows.values()
    assert row.values.untyped_storage().nbytes() == 2 * 2 * 2
    assert cache.bytes == 2 * (4 * 2 + 1)


@pytest.mark.parametrize("change", ["fit", "load", "clear_cache"])
def test_fit_load_and_clear_cache_remove_stored_rows(change):
    cache, rows = CachedEncoder(RecordingEncoder(), capacity=9), batch((1, "a"))
    before = cache.encode(*rows).values[0, 0, 0]
    if change == "fit":
        cache.fit(*batch((5, "a")))
    elif change == "load":
        cache.load_state_dict({"shift": torch.tensor([5.0])})
    else:
        cache.clear_cache()
    assert cache.encode(*rows).values[0, 0, 0] == before + (0 if change == "clear_cache" else 5)
    assert len(cache.encoder.batches) == 2
    assert cache.state_dict() is not None and cache.state_dict().keys() == {"shift"}


def test_hit_rate_since_clear_cache():
    cache = CachedEncoder(RecordingEncoder(), capacity=9)
    assert cache.metrics() == {}
    cache.encode(*batch((1, "a"), (2, "a"), (1, "a")))  # one row occurs twice in its batch
    cache.encode(*batch((1, "a"), (3, "a"), (2, "a"), (2, "b"), (1, "a")))
    assert cache.metrics() == {"cache/hit_rate": 4 / 8}
    cache.clear_cache()
    assert cache.metrics() == {}


def test_attributes_and_key_are_those_of_the_encoder():
    cache = CachedEncoder(RecordingEncoder(), capacity=9)
    assert (cache.tokens, cache.width, cache.fit_frames, cache.needs_labels) == (2, 2, 3, False)
    assert cache.key() == RecordingEncoder().key()


def test_encoder_without_answers():
    class NoAnswers(RecordingEncoder):
        def answers(self):
            return []

    cache = CachedEncoder(NoAnswers(), capacity=9)
    for _ in range(2):
        cache.encode(*batch((1, "a"), (1, "b")))
        assert cache.answers() == []


rows = st.tuples(st.integers(0, 4), st.sampled_from(NAMES))


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.lists(rows, min_size=1, max_size=5), max_size=12))
def test_cache_behaves_like_a_list_of_the_last_rows(capacity, batches):
    """The reference is a list with the most recently used row at its end."""
    cache, stored, encoded = CachedEncoder(RecordingEncoder(), capacity), [], []
    for batch_rows in batches:
        tokens = cache.encode(*batch(*batch_rows))
        encoder = RecordingEncoder()
        assert_equal(tokens, encoder.encode(*batch(*batch_rows)))
        assert cache.answers() == encoder.answers()
        if new := [row for row in dict.fromkeys(batch_rows) if row not in stored]:
            encoded.append(new)
        for row in batch_rows:
            stored = [*(other for other in stored if other != row), row]
        stored = stored[-capacity:]
    assert cache.encoder.batches == encoded


def test_metrics_contain_those_of_the_encoder():
    class Counting(RecordingEncoder):
        rows = 0

        def encode(self, frames, contexts, labels=None):
            self.rows += len(frames)
            return super().encode(frames, contexts)

        def metrics(self):
            return {"rows": self.rows}

        def clear_cache(self):
            self.rows = 0

    cache = CachedEncoder(Counting(), capacity=9)
    cache.encode(*batch((1, "a"), (1, "a")))
    assert cache.metrics() == {"rows": 1, "cache/hit_rate": 1 / 2}
    cache.clear_cache()
    assert cache.metrics() == {"rows": 0}
