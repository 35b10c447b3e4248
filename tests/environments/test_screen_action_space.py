"""The six heads of a screen action: cells and words worked out by hand, and round trips."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from screen_strategies import screen_actions_of

from pr2l.environments.common.screen_action_space import (
    DIRECTIONS,
    HEADS,
    USED_HEADS,
    ActionText,
    ScreenActionSpace,
    TextActions,
    find_span,
    text_of,
    text_of_span,
    words_of,
)
from pr2l.environments.common.screen_actions import FIELDS, TYPES, MalformedAction, ScreenAction, UnsupportedAction
from pr2l.environments.common.screen_actions import parse as parse_text

SMALL = ScreenActionSpace(rows=2, columns=4, words=8, longest=3, swipe=0.5)
GOAL = 'Send "Hello, Bob!" to ann@example.org at 10:30.'
WORDS = ["Send", '"', "Hello", ",", "Bob", "!", '"', "to", "ann@example.org", "at", "10:30", "."]


def row(action, cell=0, offset=0, direction=0, start=0, length=0):
    return [TYPES.index(action), cell, offset, direction, start, length]


def test_space_has_a_number_per_head():
    assert SMALL.space == gym.spaces.MultiDiscrete([10, 8, 9, 4, 8, 3])
    assert ScreenActionSpace().space.nvec.tolist() == [10, 144, 9, 4, 48, 12]
    assert list(SMALL.space.nvec.shape) == [len(HEADS)]


@pytest.mark.parametrize(
    ("action", "numbers", "back"),
    [
        # Ninths are 1/12 wide and 1/6 high. The touch is in column 3 and row 0 of the cells, at its lower left ninth.
        (ScreenAction("tap", 0.76, 0.49), row("tap", 3, 6), ScreenAction("tap", 9.5 / 12, 2.5 / 6)),
        (ScreenAction("tap", 0.0, 0.0), row("tap"), ScreenAction("tap", 0.5 / 12, 0.5 / 6)),
        (ScreenAction("long_press", 1.0, 1.0), row("long_press", 7, 8), ScreenAction("long_press", 11.5 / 12, 5.5 / 6)),
        (
            ScreenAction("swipe", 0.51, 0.67, 0.56, 0.1),
            row("swipe", 6, 3, 0),
            ScreenAction("swipe", 6.5 / 12, 4.5 / 6, 6.5 / 12, 4.5 / 6 - 0.5),
        ),
        (  # a swipe to the right ends at the edge
            ScreenAction("swipe", 0.99, 0.01, 1.0, 0.01),
            row("swipe", 3, 2, 3),
            ScreenAction("swipe", 11.5 / 12, 0.5 / 6, 1.0, 0.5 / 6),
        ),
        (ScreenAction("type", text="Hello, Bob"), row("type", 0, 0, 0, 2, 2), ScreenAction("type", text="Hello, Bob")),
        (ScreenAction("back"), row("back"), ScreenAction("back")),
        (ScreenAction("impossible"), row("impossible"), ScreenAction("impossible")),
    ],
)  # fmt: skip
def test_rows_by_hand(action, numbers, back):
    encoded = SMALL.encode(action, GOAL)
    assert encoded.tolist() == numbers and encoded.dtype == np.int64 and SMALL.space.contains(encoded)
    decoded = SMALL.decode(encoded, GOAL)
    assert (decoded.type, decoded.text) == (back.type, back.text)
    for field in ("x", "y", "to_x", "to_y"):
        assert getattr(decoded, field) == pytest.approx(getattr(back, field))


@given(st.data())
def test_decoded_rows_come_back(data):
    """Heads that the type does not use have no effect, and encode sets them to 0."""
    size = data.draw(st.sampled_from([SMALL, ScreenActionSpace(), ScreenActionSpace(7, 5, 12, 12, 1.0)]))
    numbers = [data.draw(st.integers(0, int(n) - 1)) for n in size.space.nvec]
    numbers[4] = min(numbers[4], len(WORDS) - 1)
    numbers[5] = min(numbers[5], len(WORDS) - 1 - numbers[4])
    if numbers[4] == 6 and numbers[5] == 0:  # the second quotation mark: encode finds the first one
        numbers[4] = 1
    used = USED_HEADS[numbers[0]]
    encoded = size.encode(size.decode(numbers, GOAL), GOAL)
    assert encoded.tolist() == np.where(used, numbers, 0).tolist()


@given(screen_actions_of(types=("tap", "long_press", "swipe")), st.integers(1, 30), st.integers(1, 30))
def test_decoded_touch_is_at_most_a_sixth_of_a_cell_away(action, rows, columns):
    size = ScreenActionSpace(rows, columns)
    back = size.decode(size.encode(action))
    assert abs(back.x - action.x) <= 1 / (6 * columns) + 1e-9
    assert abs(back.y - action.y) <= 1 / (6 * rows) + 1e-9


@pytest.mark.parametrize(
    ("end", "direction"), [((0.5, 0.4), "up"), ((0.5, 0.9), "down"), ((0.1, 0.55), "left"), ((0.61, 0.56), "right")]
)
def test_direction_of_a_swipe(end, direction):
    number = SMALL.encode(ScreenAction("swipe", 0.5, 0.5, *end))[HEADS.index("direction")]
    assert list(DIRECTIONS)[number] == direction


def test_direction_compares_pixels_and_not_fractions():
    """On a screen of 9:16, 0.1 of the width is shorter than 0.08 of the height."""
    action = ScreenAction("swipe", 0.5, 0.5, 0.6, 0.58)
    assert ScreenActionSpace(16, 9).encode(action)[3] == list(DIRECTIONS).index("down")
    assert ScreenActionSpace(9, 9).encode(action)[3] == list(DIRECTIONS).index("right")


def test_words_of_an_instruction():
    assert words_of(GOAL) == WORDS
    assert words_of("it's +1-555, l'été_2 ($5.20)?") == [
        "it's",
        "+",
        "1-555",
        ",",
        "l'été_2",
        "(",
        "$",
        "5.20",
        ")",
        "?",
    ]
    assert words_of(" \n ") == []


def test_text_is_a_part_of_the_instruction():
    assert text_of_span(GOAL, 2, 4) == "Hello, Bob!"
    assert text_of_span(GOAL, 10, 99) == "10:30."
    assert find_span("Hello, Bob!", GOAL, 12, 12) == (2, 4)
    assert find_span("to", "to Bob to", 3, 1) == (0, 1)
    for text in ("Hell", "ello", "Hello,  Bob", "hello", "", " Bob", "example"):
        assert find_span(text, GOAL, 12, 12) is None
    assert find_span("Hello, Bob!", GOAL, 12, 3) is None and find_span("10:30", GOAL, 10, 3) is None


@given(st.text(), st.integers(0, 20), st.integers(1, 20))
def test_texts_of_spans_are_found(instruction, start, length):
    if start < len(words_of(instruction)):
        text = text_of_span(instruction, start, length)
        begin, count = find_span(text, instruction, 21, 20)
        assert begin <= start and text_of_span(instruction, begin, count) == text


def test_texts_that_no_row_expresses():
    assert SMALL.can_express("Hello, Bob", GOAL) and not SMALL.can_express("Hello, Bob!", GOAL)
    with pytest.raises(UnsupportedAction, match="'Paris' is not among the first 8 words"):
        SMALL.encode(ScreenAction("answer", text="Paris"), GOAL)
    assert SMALL.encode(ScreenAction("answer", text="Paris"), "where? Paris").tolist() == row("answer", start=2)


@pytest.mark.parametrize("numbers", [row("type", start=3), [0, 0, 0, 0, 0], [10, 0, 0, 0, 0, 0], [0, -1, 0, 0, 0, 0]])
def test_rows_without_an_action_are_malformed(numbers):
    with pytest.raises(MalformedAction, match="starts at word 3, but the instruction has 2|is not in MultiDiscrete"):
        SMALL.decode(numbers, "two words")


def test_used_heads():
    used = {
        action: [head for head, flag in zip(HEADS, flags, strict=True) if flag]
        for action, flags in zip(TYPES, USED_HEADS, strict=True)
    }
    touch = ["type", "cell", "offset"]
    text = ["type", "start", "length"]
    assert used == {
        **dict.fromkeys(TYPES, ["type"]),
        "tap": touch,
        "long_press": touch,
        "swipe": [*touch, "direction"],
        "type": text,
        "answer": text,
    }


def test_samples_of_the_text_space_are_actions():
    space = ActionText(seed=3)
    texts = [space.sample() for _ in range(200)]
    assert {parse_text(text).type for text in texts} == set(FIELDS)
    assert texts[:20] == [ActionText(seed=3).sample(), *texts[1:20]]
    assert all(space.contains(text) for text in texts)
    assert space.contains("日本 click!") and not space.contains("x" * 1025) and not space.contains(5)
    copy = pickle.loads(pickle.dumps(space))
    assert isinstance(copy, gym.spaces.Text) and copy.contains("日本")


@given(screen_actions_of())
def test_texts_are_read_back(action):
    actions = TextActions()
    text = actions.encode(action)
    assert text in actions.space and actions.decode(f"not home(), rather: {text}") == parse_text(text)


def test_text_form_of_both_spaces():
    assert text_of(row("type", start=2, length=2), SMALL, GOAL) == 'type("Hello, Bob")'
    assert text_of("I go back().", TextActions()) == "back()"
    assert text_of(row("type", start=7, length=2), SMALL, "no such word") == ""
    assert text_of("tap(7, 3)", TextActions()) == ""
