"""Questions about a screen whose answers are known."""

from collections import Counter

import numpy as np
import pytest

from pr2l.data.screen_questions import (
    KINDS,
    ScreenQuestion,
    ScreenView,
    all_questions,
    balanced,
    draw_questions,
    title,
)

SIZE = (448, 252)


def label(name, role, box, value=None):
    return {"name": name, "role": role, "text": "", "value": value, "box": box, "distance": 0.0}


ROW = {
    "labels": [
        label("Settings/Back", "button", [0, 0, 25.2, 44.8]),
        label("Settings/Wi-Fi switch", "switch", [126, 44.8, 252, 89.6], True),
        label("Settings/Location switch", "switch", [126, 89.6, 252, 134.4], False),
        label("Settings/Name", "field", [0, 134.4, 252, 179.2], "Ada"),
        label("Settings/Same", "row", [0, 200, 252, 220]),
        label("Settings/Same (2)", "row", [0, 220, 252, 240]),
        label("Some text", "text", [0, 240, 252, 260]),
    ],
    "words": [["Wi-Fi", [25.2, 44.8, 75.6, 89.6]]],
    "screen": {"app": "Settings", "page": "network", "dialog": "choose", "keyboard": "letters", "shade": None},
    "actions": [["tap(0.900, 0.900)", False], ["back()", True]],
}


def texts(kind, absent=()):
    return [(question.text, question.answer) for question in all_questions(ScreenView(ROW, SIZE), absent)[kind]]


def test_questions_and_answers_of_a_screen():
    assert texts("read") == [("What is written at (0.200, 0.150)?", "Wi-Fi")]
    assert texts("tap") == [
        ("Where do I tap to press Back?", "tap(0.050, 0.050)"),
        ("Where do I tap to switch Wi-Fi?", "tap(0.750, 0.150)"),
        ("Where do I tap to switch Location?", "tap(0.750, 0.250)"),
        ("Where do I tap to edit Name?", "tap(0.500, 0.350)"),
    ]
    assert texts("here")[1] == ("What is at (0.750, 0.150)?", "switch Wi-Fi")
    assert texts("switch") == [("Is Wi-Fi on?", "yes"), ("Is Location on?", "no")]
    assert texts("field") == [("What is in Name?", "Ada")]
    assert texts("screen") == [("What is on this screen?", "Settings, network, dialog choose, keyboard")]
    assert [answer for _, answer in texts("overlay")] == ["yes", "yes", "no"]
    assert texts("changed") == [
        ("Does tap(0.900, 0.900) change the screen?", "no"),
        ("Does back() change the screen?", "yes"),
    ]
    assert set(all_questions(ScreenView(ROW, SIZE), ())) == set(KINDS)


def test_presence_asks_for_absent_titles_but_not_for_ambiguous_or_visible_ones():
    asked = texts("presence", ["Same", "Some text", "Back", "Send"])
    assert ("Is Send on this screen?", "no") in asked
    assert Counter(answer for _, answer in asked) == {"yes": 4, "no": 1}


def test_the_shade_hides_what_is_under_it():
    view = ScreenView({**ROW, "screen": {**ROW["screen"], "shade": "open"}}, SIZE)
    questions = all_questions(view, ())
    assert [question.answer for question in questions["screen"]] == ["shade"]
    assert [question.answer for question in questions["overlay"]] == ["yes"]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("tap(0.500, 0.100)", True),
        ("tap(1.000, 0.200)", True),
        ("tap(0.499, 0.150)", False),
        ("tap(0.750, 0.201)", False),
        ("long_press(0.750, 0.150)", False),
        ("tap(0.750)", False),
        ("back()", False),
        ("", False),
    ],
)
def test_a_tap_is_right_within_the_element(answer, right):
    question = ScreenQuestion("tap", "?", "tap(0.750, 0.150)", (0.5, 0.1, 1.0, 0.2))
    assert question.is_right(answer) is right


def test_other_answers_must_be_equal():
    question = ScreenQuestion("read", "?", "Ada")
    assert question.is_right("Ada") and not question.is_right("ada")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Settings/Wi-Fi switch", "Wi-Fi"),
        ("Clock/dialog/06", "06"),
        ("Contacts/Ann Lee (2)", "Ann Lee"),
        ("Tasks/Buy stamps done", "Buy stamps"),
        ("keyboard//", "/"),
        ("Some text", "Some text"),
    ],
)
def test_title(name, short):
    assert title(name) == short


def test_drawn_questions_follow_the_mix_and_balance_no():
    rng = np.random.default_rng(0)
    mix = dict.fromkeys(KINDS, 0.0) | {"changed": 1.0, "read": 3.0}
    drawn = draw_questions(ScreenView(ROW, SIZE), (), 2000, rng, mix)
    kinds = Counter(question.kind for question in drawn)
    assert set(kinds) == {"changed", "read"} and abs(kinds["read"] / 2000 - 0.75) < 0.04
    three_to_one = [ScreenQuestion("x", str(number), "yes" if number else "no") for number in range(4)]
    answers = Counter(balanced(three_to_one, rng).answer for _ in range(2000))
    assert abs(answers["no"] / 2000 - 0.5) < 0.05


def test_a_screen_without_elements_has_questions_about_itself_only():
    row = {**ROW, "labels": [], "words": [], "actions": []}
    drawn = draw_questions(ScreenView(row, SIZE), (), 20, np.random.default_rng(0), dict.fromkeys(KINDS, 1.0))
    assert {question.kind for question in drawn} == {"screen", "overlay"}
