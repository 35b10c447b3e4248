"""The encoder `dom` on screens whose tokens can be computed by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pr2l.encoders import dom

GOAL = [{"goal": "Turn Wi-Fi on"}]
SWITCH = {"name": "Settings/Wi-Fi switch", "box": (0, 0, 8, 4), "role": "switch", "text": "Wi-Fi", "value": True}
BACK = {"name": "Settings/Back", "box": (0, 0, 4, 3), "role": "button", "text": "", "value": None}
WORDS, ROLE, VALUE, BOX, OVERLAP, KIND = (
    slice(start, end) for start, end in ((0, 8), (8, 20), (20, 24), (24, 30), (30, 33), (33, 36))
)


def encoder(rows=2, columns=2, words=8, frame_shape=(8, 8, 3)):
    return dom.create(SimpleNamespace(frame_shape=frame_shape), dom.Defaults(rows=rows, columns=columns, words=words))


def encode(*elements, contexts=GOAL, **options):
    tokens = encoder(**options).encode(np.zeros((1, 8, 8, 3), np.uint8), contexts, [list(elements)])
    return tokens.values[0], tokens.mask[0].tolist()


def test_words_are_hashed_by_groups_of_three_characters():
    """CRC-32 of "<wi" is 2250306347 = 3 (mod 8), of "wi>" 3684788866 = 2; both are at least 2^31, so they subtract."""
    expected = np.zeros(8)
    expected[[2, 3]] = -(0.5**0.5)
    assert np.allclose(dom.hashed_words({"wi"}, 8), expected)
    one_letter = dom.hashed_words({"a"}, 8)  # CRC-32 of "<a>" is 1874297515 = 3 (mod 8)
    assert one_letter.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert np.allclose(
        dom.hashed_words({"a", "wi"}, 8), (expected + one_letter) / np.linalg.norm(expected + one_letter)
    )
    assert not dom.hashed_words((), 8).any()


def test_words_with_equal_parts_are_alike():
    contact, contacts, bluetooth = (dom.hashed_words({word}, 48) for word in ("contact", "contacts", "bluetooth"))
    assert contact @ contacts > 0.7 > 0.3 > abs(contact @ bluetooth)


def test_cells_have_the_smallest_element_that_covers_their_centres():
    """On a frame of 8 x 8 pixels, a switch in the upper half lies behind a button in its left part."""
    values, mask = encode(BACK, SWITCH)
    assert mask == [True, True, False, False, True, True]
    button, switch = values[0], values[1]
    assert button[ROLE].nonzero().tolist() == [[dom.ROLES.index("button")]]
    assert switch[ROLE].nonzero().tolist() == [[dom.ROLES.index("switch")]]
    assert (button[VALUE].tolist(), switch[VALUE].tolist()) == ([0, 0, 0, 0], [1, 0, 0, 0])
    # Centres in pixels: of the button (2, 1.5), of its cell (2, 2); of the switch (4, 2), of its cell (6, 2).
    assert button[BOX].tolist() == [0.25, 0.25, 0, -0.0625, 0.5, 0.375]
    assert switch[BOX].tolist() == [0.75, 0.25, -0.25, 0, 1, 0.5]
    assert not values[2:4].any()
    assert torch.equal(values, encode(SWITCH, BACK)[0])  # the order does not matter


def test_overlap_of_the_words_with_the_goal():
    """Of the goal's words {turn, wi, fi, on} the switch's {wi, fi, switch} have two. The app's name is left out."""
    values, _ = encode(BACK, SWITCH)
    assert values[0, OVERLAP].tolist() == [0, 0, 0]
    assert torch.allclose(values[1, OVERLAP], torch.tensor([2 / 3, 2 / 4, 1.0]))
    assert values[-2, OVERLAP].tolist() == [1, 1, 1]  # the goal
    # The screen has {settings, back, wi, fi, switch}.
    assert torch.allclose(values[-1, OVERLAP], torch.tensor([2 / 5, 2 / 4, 1.0]))
    assert np.allclose(values[1, WORDS], dom.hashed_words({"wi", "fi", "switch"}, 8))
    assert np.allclose(values[-2, WORDS], dom.hashed_words({"turn", "wi", "fi", "on"}, 8))
    assert values[[0, 1, -2, -1], KIND].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert not values[-2:, 8:30].any()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 0, 0, 0]),
        (True, [1, 0, 0, 0]),
        (False, [0, 1, 0, 0]),
        ("", [0, 0, 0, 0]),
        ("Ann", [0, 0, 1, 0]),
        (50, [0, 0, 0, 0.5]),
        ([1], [0, 0, 0, 0]),
    ],
)
def test_values_of_elements(value, expected):
    assert dom.value_features(value) == expected


def test_empty_screen_has_tokens_of_the_goal_and_the_screen():
    values, mask = encode()
    assert mask == [False] * 4 + [True] * 2
    assert values[-2, WORDS].any() and not values[-1, :33].any()


def test_labels_of_other_environments_need_only_a_name_and_a_box():
    values, mask = encode({"name": "imp", "box": (4, 4, 8, 8), "distance": 3.0}, contexts=[{"target": "imp"}])
    assert mask == [False, False, False, True, True, True]
    assert values[3, OVERLAP].tolist() == [1, 1, 1]
    assert not values[3, 8:24].any()


def test_size_and_key():
    default = dom.create(SimpleNamespace(frame_shape=(448, 252, 3)), dom.Defaults())
    assert (default.tokens, default.width, default.needs_labels) == (146, 76, True)
    keys = [encoder(frame_shape=shape).key() for shape in ((8, 8, 3), (8, 9, 3), (9, 8, 3))]
    assert len({json.dumps(key) for key in keys}) == 3


def test_dom_without_labels_is_refused():
    with pytest.raises(ValueError, match="labels=True"):
        encoder().encode(np.zeros((1, 8, 8, 3), np.uint8), GOAL)
