"""Questions and answers about a labelled frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pr2l.data.questions import DIRECTIONS, View, about, direction, found, overall, vocabulary

WIDTH, HEIGHT = 160, 120


def label(name: str, x0: float, x1: float, distance: float = 1.25, y1: float = 60) -> dict[str, object]:
    return {"name": name, "box": (x0, 40, x1, y1), "distance": distance}


# columns of 32 pixels:  far left | left | ahead | right | far right
FRAME = [
    label("imp", 100, 120, distance=2.5),  # centre 110: right
    label("imp", 0, 20, distance=0.6),  # centre 10: far left, the nearer imp
    label("red torch", 40, 50, distance=1.06),  # centre 45: left
]


def answers(name: str) -> dict[str, str]:
    view = View.of(FRAME, WIDTH, HEIGHT)
    return {question.kind: question.answer for question in about(view, name)}


def test_answers_about_visible_objects():
    assert answers("imp") == {"presence": "yes", "direction": "far left", "distance": "near", "count": "two"}
    assert answers("red torch") == {"presence": "yes", "direction": "left", "distance": "middle", "count": "one"}


def test_answers_about_absent_objects():
    assert answers("medikit") == {"presence": "no", "direction": "nowhere", "distance": "nowhere", "count": "zero"}


def test_questions_about_the_whole_frame():
    view = View.of(FRAME, WIDTH, HEIGHT)
    assert [(question.text, question.answer) for question in overall(view)] == [
        ("what do you see ?", "imp and red torch"),
        ("", "imp and red torch"),
        ("what is at the left ?", "imp"),
    ]
    assert overall(View.of([], WIDTH, HEIGHT))[0].answer == "nothing"


def test_questions_about_an_object():
    view = View.of(FRAME, WIDTH, HEIGHT)
    assert [question.text for question in about(view, "imp")] == [
        "is there a imp ?",
        "where is the imp ?",
        "how far is the imp ?",
        "how many imp are there ?",
    ]


def test_no_questions_about_tiny_objects():
    speck = label("imp", 80, 84, y1=44)  # 16 of 19,200 pixels
    view = View.of([speck, label("medikit", 0, 20)], WIDTH, HEIGHT)
    assert about(view, "imp") == [] and overall(view) == []
    assert about(view, "medikit") != []


@pytest.mark.parametrize("distance, word", [(0.99, "near"), (1.0, "middle"), (2.0, "middle"), (2.01, "far")])
def test_distance_words(distance, word):
    view = View.of([label("imp", 0, 20, distance=distance)], WIDTH, HEIGHT)
    assert about(view, "imp")[2].answer == word


SCENE = {"room": "living room", "kept": {"imp": True, "medikit": False, "speck": True}}


def test_questions_about_the_room():
    speck = label("speck", 80, 84, y1=44)
    view = View.of([*FRAME, speck], WIDTH, HEIGHT, SCENE)
    questions = [question for name in ("imp", "medikit", "speck", "red torch") for question in found(view, name)]
    assert [(question.text, question.answer) for question in questions] == [
        ("Would a imp be found here?", "yes"),
        ("Would a imp be found here? Why or why not?", "yes this is a living room and a imp is far left and near"),
        ("Would a medikit be found here?", "no"),
        ("Would a medikit be found here? Why or why not?", "no this is a living room"),
        ("Would a speck be found here?", "yes"),
        ("Would a speck be found here? Why or why not?", "yes this is a living room"),
    ]
    assert [(question.text, question.answer) for question in overall(view)] == [("What room is this?", "living room")]
    assert overall(View.of(FRAME, WIDTH, HEIGHT, SCENE))[-1].kind == "room"
    assert found(View.of(FRAME, WIDTH, HEIGHT), "imp") == []


@given(st.floats(0, 159), st.floats(0, 159))
def test_direction_is_monotonic(one, other):
    left, right = sorted((one, other))
    bins = [DIRECTIONS.index(direction(label("imp", x, x), WIDTH)) for x in (left, right)]
    assert bins[0] <= bins[1]


@given(st.lists(st.tuples(st.sampled_from(["imp", "red torch"]), st.integers(0, 140)), max_size=6))
def test_vocabulary_has_all_words(objects):
    names = ["imp", "red torch", "medikit"]
    view = View.of([label(name, x, x + 20) for name, x in objects], WIDTH, HEIGHT, SCENE)
    questions = [question for name in names for question in (*about(view, name), *found(view, name))] + overall(view)
    text = " ".join(f"{question.text} {question.answer}" for question in questions).lower().replace("?", " ? ")
    assert set(text.split()) <= set(vocabulary(names, ["living room", "hall"]))
    assert not {"would", "hall"} & set(vocabulary(names))
