"""The memory before an encoder that says which rows it was asked for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.core.types import Tokens
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import Remembering

NAMES = "abc"


class Diary(Encoder):
    """A token [brightness + what was fitted, the context's letter], and a second one, padding; keeps its batches."""

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
        return {"encoder": "diary"}

    def fit(self, frames, contexts):
        self.shift = torch.tensor([float(frames.max())])

    def state_dict(self):
        return {"shift": self.shift}

    def load_state_dict(self, state):
        self.shift = state["shift"]


def batch(*rows):
    """Frames and contexts of rows such as (7, "a"): brightness and target."""
    frames = np.stack([np.full((2, 3, 3), value, np.uint8) for value, _ in rows])
    return frames, [{"target": letter, "item": "x"} for _, letter in rows]


def assert_equal(ours, theirs):
    assert ours.values.dtype == theirs.values.dtype
    assert torch.equal(ours.values, theirs.values) and torch.equal(ours.mask, theirs.mask)


def test_only_rows_that_are_new_are_asked_for_in_one_batch_and_each_once():
    memory = Remembering(Diary(), capacity=10)
    memory.encode(*batch((1, "a"), (2, "a"), (1, "a")))
    assert memory.encoder.batches == [[(1, "a"), (2, "a")]]
    given = batch((3, "a"), (1, "b"), (2, "a"), (3, "a"), (1, "a"))
    tokens = memory.encode(*given)
    assert memory.encoder.batches[1:] == [[(3, "a"), (1, "b")]]
    assert memory.answers() == ["a3", "b1", "a2", "a3", "a1"]
    assert_equal(tokens, Diary().encode(*given))
    memory.encode(*given)
    assert len(memory.encoder.batches) == 2  # nothing was new


def test_the_same_bytes_in_another_shape_are_another_frame():
    memory = Remembering(Diary(), capacity=10)
    frames, contexts = batch((1, "a"))
    memory.encode(frames, contexts)
    memory.encode(frames.transpose(0, 2, 1, 3), contexts)
    assert len(memory.encoder.batches) == 2


def test_a_context_is_its_names_with_their_values_in_any_order():
    memory = Remembering(Diary(), capacity=10)
    frames, _ = batch((1, "a"))
    for context in ({"target": "a", "item": "x"}, {"item": "x", "target": "a"}, {"target": "x", "item": "a"}):
        memory.encode(frames, [context])
    assert memory.encoder.batches == [[(1, "a")], [(1, "x")]]


def test_the_least_recently_used_row_goes_first():
    memory = Remembering(Diary(), capacity=2)
    for row in ((1, "a"), (2, "a"), (1, "a"), (3, "a"), (1, "a"), (2, "a")):
        memory.encode(*batch(row))
    asked = [value for rows in memory.encoder.batches for value, _ in rows]
    assert asked == [1, 2, 3, 2]  # 3 took the place of 2, since 1 had been asked for again


def test_a_batch_larger_than_the_memory_comes_out_whole():
    memory = Remembering(Diary(), capacity=1)
    given = batch((1, "a"), (2, "b"), (3, "c"))
    assert_equal(memory.encode(*given), Diary().encode(*given))


def test_rows_keep_no_larger_batch_alive():
    memory = Remembering(Diary(), capacity=1)
    memory.encode(*batch((1, "a"), (2, "b"), (3, "c")))
    (row,) = memory._rows.values()
    assert row.values.untyped_storage().nbytes() == 2 * 2 * 2
    assert memory.bytes == 2 * (4 * 2 + 1)


@pytest.mark.parametrize("change", ["fit", "load", "forget"])
def test_what_was_made_before_a_change_is_not_remembered(change):
    memory, given = Remembering(Diary(), capacity=9), batch((1, "a"))
    before = memory.encode(*given).values[0, 0, 0]
    if change == "fit":
        memory.fit(*batch((5, "a")))
    elif change == "load":
        memory.load_state_dict({"shift": torch.tensor([5.0])})
    else:
        memory.forget()
    assert memory.encode(*given).values[0, 0, 0] == before + (0 if change == "forget" else 5)
    assert len(memory.encoder.batches) == 2
    assert memory.state_dict() is not None and memory.state_dict().keys() == {"shift"}


def test_it_says_how_many_rows_it_spared_the_encoder_since_it_forgot():
    memory = Remembering(Diary(), capacity=9)
    assert memory.metrics() == {}
    memory.encode(*batch((1, "a"), (2, "a"), (1, "a")))  # one that comes twice in its batch
    memory.encode(*batch((1, "a"), (3, "a"), (2, "a"), (2, "b"), (1, "a")))
    assert memory.metrics() == {"memory/hit_rate": 4 / 8}
    memory.forget()
    assert memory.metrics() == {}


def test_it_stands_for_the_encoder_in_everything_else():
    memory = Remembering(Diary(), capacity=9)
    assert (memory.tokens, memory.width, memory.fit_frames, memory.needs_labels) == (2, 2, 3, False)
    assert memory.key() == Diary().key()


def test_an_encoder_that_asks_nothing_has_no_answers():
    class Silent(Diary):
        def answers(self):
            return []

    memory = Remembering(Silent(), capacity=9)
    for _ in range(2):
        memory.encode(*batch((1, "a"), (1, "b")))
        assert memory.answers() == []


rows = st.tuples(st.integers(0, 4), st.sampled_from(NAMES))


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.lists(rows, min_size=1, max_size=5), max_size=12))
def test_it_is_a_list_of_the_last_rows(capacity, batches):
    """Model: a plain list, the row that was used last at its end."""
    memory, kept, asked = Remembering(Diary(), capacity), [], []
    for each in batches:
        tokens = memory.encode(*batch(*each))
        bare = Diary()
        assert_equal(tokens, bare.encode(*batch(*each)))
        assert memory.answers() == bare.answers()
        if new := [row for row in dict.fromkeys(each) if row not in kept]:
            asked.append(new)
        for row in each:
            kept = [*(other for other in kept if other != row), row]
        kept = kept[-capacity:]
    assert memory.encoder.batches == asked
