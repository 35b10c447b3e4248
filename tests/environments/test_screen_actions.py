"""The text form of screen actions: every action comes back, and no text raises anything but MalformedAction."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from screen_strategies import COORDINATES, VALUES, screen_actions_of

from pr2l.environments.common import screen_actions
from pr2l.environments.common.screen_actions import FIELDS, TYPES, MalformedAction, ScreenAction, find, parse

FORMS = {
    "tap(0.500, 0.250)": ScreenAction("tap", 0.5, 0.25),
    "long_press(0.000, 1.000)": ScreenAction("long_press", 0.0, 1.0),
    "swipe(0.500, 0.800, 0.500, 0.200)": ScreenAction("swipe", 0.5, 0.8, 0.5, 0.2),
    'type("hello")': ScreenAction("type", text="hello"),
    'type("say \\"hi\\" (é)\\n")': ScreenAction("type", text='say "hi" (é)\n'),
    'answer("42")': ScreenAction("answer", text="42"),
    "back()": ScreenAction("back"),
    "home()": ScreenAction("home"),
    "enter()": ScreenAction("enter"),
    "complete()": ScreenAction("complete"),
    "impossible()": ScreenAction("impossible"),
}


@pytest.mark.parametrize(("text", "action"), FORMS.items())
def test_text_forms(text, action):
    assert screen_actions.format(action) == text
    assert parse(text) == action
    assert find(text) == text


def test_every_type_has_a_form_fields_and_an_effect():
    assert {action.type for action in FORMS.values()} == set(TYPES) == set(screen_actions.EFFECTS)


@given(screen_actions_of())
def test_parse_reads_what_format_writes(action):
    values = {field: round(getattr(action, field), 3) for field in FIELDS[action.type] if field != "text"}
    text = screen_actions.format(action)
    assert parse(text) == replace(action, **values)
    assert screen_actions.format(parse(text)) == text


@given(screen_actions_of(), st.text(st.characters(exclude_characters="()"), max_size=20))
def test_action_is_found_behind_a_thought(action, thought):
    text = screen_actions.format(action)
    if "\\n" not in text:
        assert find(f"{thought}\nhome()\n{thought} {text}") == text


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ("I tap(0.1, 0.1), no: tap(0.2, 0.3).", "tap(0.2, 0.3)"),
        ('```\ntype("a (b) \\" tap(0.1, 0.1)")\n```', 'type("a (b) \\" tap(0.1, 0.1)")'),
        ("go_back() or prototype(1)", "go_back() or prototype(1)"),
        ("tap(0.5, x)", "tap(0.5, x)"),
        ("", ""),
    ],
)
def test_find_takes_the_last_action(response, action):
    assert find(response) == action


@pytest.mark.parametrize("text", ["tap(0, 1)", " tap ( 0.0 ,1e0 )\n", "tap(0.0004, 0.9996)"])
def test_spaces_and_other_numbers_are_read(text):
    assert screen_actions.format(parse(text)) == "tap(0.000, 1.000)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("click(0.5, 0.5)", r"'click' is not an action\. Actions: tap, long_press"),
        ("taps(0.5, 0.5)", "Did you mean tap?"),
        ("tap(180, 0.5)", r"x = 180 is outside 0\.\.1; coordinates are fractions .* not pixels"),
        ("tap(0.5, NaN)", "y = nan is outside"),
        ("tap(0.5, -0.001)", "outside"),
        ("tap(0.5, 1e999)", "outside"),
        ("tap(0.5)", r"tap needs 2 values, not 1; write tap\(x, y\)"),
        ("tap(x=0.5, y=0.5)", r"cannot read .*write tap\(x, y\)"),
        ("tap(0.5, '0.5')", "cannot read"),
        ('tap(0.5, "0.5")', "y of tap must be a number"),
        ("tap(0.5, true)", "y of tap must be a number, not True"),
        ("tap(0.5, [0.5])", "must be a number"),
        ("type(hello)", 'write type\\("text"\\), texts in double quotes'),
        ("type('hello')", "double quotes"),
        ("type(5)", "needs a text in double quotes, not 5"),
        ('type("a" "b")', "cannot read"),
        ('type("\\ud800")', "surrogate"),
        ("back(1)", r"back needs 0 values, not 1"),
        ("tap", "is not an action; write one such as tap"),
        ("tap(0.5, 0.5", "is not an action"),
        ("tap(0.5, 0.5) tap(0.5, 0.5)", "cannot read"),
        ("", "is not an action"),
        ("type(" + "[" * 100_000 + ")", "cannot read"),
        ("tap(" + "9" * 5000 + ", 0.5)", "cannot read"),
        ("tap(" + "9" * 4000 + ", 0.5)", r"outside 0\.\.1"),
        (None, "an action is a text"),
        (b"back()", "an action is a text"),
    ],
)
def test_message_for_a_malformed_action(text, message):
    with pytest.raises(MalformedAction, match=message) as error:
        parse(text)
    assert isinstance(error.value, ValueError) and len(str(error.value)) < 300


PIECES = st.sampled_from([*TYPES, "(", ")", ", ", '"', "'", "\\", "0.5", "-1", "1e400", "NaN", "null", "[", "{", " "])


@given(st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join)))
@example("\ud800(")
def test_any_text_is_an_action_or_malformed(text):
    for read in (parse, lambda text: parse(find(text))):
        try:
            action = read(text)
        except MalformedAction:
            continue
        assert parse(screen_actions.format(action)).type == action.type


@given(st.one_of(st.sampled_from(TYPES), VALUES), VALUES, VALUES, VALUES, VALUES, VALUES)
def test_any_values_are_an_action_or_malformed(action, x, y, to_x, to_y, text):
    try:
        made = ScreenAction(action, x, y, to_x, to_y, text)
    except MalformedAction:
        return
    parse(screen_actions.format(made))


def test_coordinates_become_floats():
    action = ScreenAction("tap", np.float32(0.5), Fraction(1, 4))
    assert action == ScreenAction("tap", 0.5, 0.25) and type(action.x) is type(action.y) is float
    with pytest.raises(MalformedAction, match="back has no x; write back"):
        ScreenAction("back", x=0.5)


def test_description_has_the_forms_and_effects_of_the_types():
    text = screen_actions.describe()
    assert [line.partition("(")[0] for line in text.splitlines()[:-1]] == list(TYPES)
    assert "swipe(x, y, to_x, to_y): move a finger" in text and 'type("text"): ' in text
    assert parse(find(text.splitlines()[-1])) == ScreenAction("tap", 0.5, 0.8)
    assert screen_actions.describe(["back"]).splitlines()[0] == "back(): go back to the previous screen"
    for action in TYPES:
        assert parse(screen_actions.example(action)).type == action


@given(st.integers(1, 3000), st.data())
def test_pixels_and_coordinates(size, data):
    number = data.draw(st.integers(0, size - 1))
    assert screen_actions.pixel(screen_actions.coordinate(number, size), size) == number
    assert 0 <= screen_actions.pixel(data.draw(COORDINATES), size) < size


def test_edges_are_the_first_and_last_pixel():
    assert [screen_actions.pixel(x, 10) for x in (0.0, math.nextafter(0.1, 0), 0.1, 1.0)] == [0, 0, 1, 9]
