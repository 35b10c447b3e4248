"""Actions in the formats of DigiRL and AndroidWorld: strings and numbers read in their code, and round trips."""

import json
from contextlib import suppress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from screen_strategies import VALUES, screen_actions_of

from pr2l.environments.common.android_world import SCROLLS, SWIPES, from_json_action, to_json_action
from pr2l.environments.common.autoui import autoui_prompt, from_autoui, to_autoui, to_autoui_history
from pr2l.environments.common.screen_actions import (
    TYPES,
    MalformedAction,
    ScreenAction,
    UnsupportedAction,
    coordinate,
    pixel,
)

NO_POINTS = '"touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]"'
AUTOUI = {
    ScreenAction("tap", 0.5, 0.25): (
        '"action_type": "DUAL_POINT", "touch_point": "[0.2500, 0.5000]", "lift_point": "[0.2500, 0.5000]", '
        '"typed_text": ""'
    ),
    ScreenAction("swipe", 0.5, 0.8, 0.4999, 0.2): (
        '"action_type": "DUAL_POINT", "touch_point": "[0.8000, 0.5000]", "lift_point": "[0.2000, 0.4999]", '
        '"typed_text": ""'
    ),
    ScreenAction("type", text="Paris"): f'"action_type": "TYPE", {NO_POINTS}, "typed_text": "Paris"',
    ScreenAction("back"): f'"action_type": "PRESS_BACK", {NO_POINTS}, "typed_text": ""',
    ScreenAction("home"): f'"action_type": "PRESS_HOME", {NO_POINTS}, "typed_text": ""',
    ScreenAction("enter"): f'"action_type": "PRESS_ENTER", {NO_POINTS}, "typed_text": ""',
    ScreenAction("complete"): f'"action_type": "STATUS_TASK_COMPLETE", {NO_POINTS}, "typed_text": ""',
    ScreenAction("impossible"): f'"action_type": "TASK_IMPOSSIBLE", {NO_POINTS}, "typed_text": ""',
}
PLAN = "Action Plan: [DUAL_POINT,DUAL_POINT,STATUS_TASK_COMPLETE] ; Action Decision: "


@pytest.mark.parametrize(("action", "text"), AUTOUI.items())
def test_autoui_strings(action, text):
    assert to_autoui(action) == text
    assert from_autoui(text) == from_autoui(PLAN + text) == action


def test_autoui_prompt_has_the_last_action():
    tap, back = ScreenAction("tap", 0.5, 0.25), ScreenAction("back")
    assert autoui_prompt("Go home", []) == "Previous Actions: Goal: Go home</s>"
    assert autoui_prompt("Go home", [tap, back]) == f"Previous Actions: {AUTOUI[back]} Goal: Go home</s>"
    assert to_autoui_history(ScreenAction("impossible")) == AUTOUI[ScreenAction("complete")]


def dual_point(touch, lift):
    return f'"action_type": "DUAL_POINT", "touch_point": "{touch}", "lift_point": "{lift}", "typed_text": ""'


def test_autoui_points_nearer_than_the_limit_are_a_tap():
    """The code taps if dx^2 + dy^2 < 10: 3 pixels to the right are 9, and 1 pixel up is 10 with them."""
    exact = dual_point("[0.5, 0.5]", "[0.4990234375, 0.5029296875]")  # 1 and 3 of 1024 pixels
    assert from_autoui(exact, (1024, 1024)) == ScreenAction("swipe", 0.5, 0.5, 0.5029296875, 0.4990234375)
    size = (1000, 1000)
    assert from_autoui(dual_point("[0.5, 0.5]", "[0.5, 0.503]"), size) == ScreenAction("tap", 0.5, 0.5)
    assert from_autoui(dual_point("[0.5, 0.5]", "[0.5, 0.503]"), (2000, 1000)).type == "swipe"
    with pytest.raises(UnsupportedAction, match="so short"):
        to_autoui(ScreenAction("swipe", 0.5, 0.5, 0.503, 0.5), size)


@given(screen_actions_of(types=tuple(t for t in TYPES if t not in ("long_press", "answer", "type"))))
def test_autoui_round_trip(action):
    try:
        text = to_autoui(action)
    except UnsupportedAction:
        assume(False)
    back = from_autoui(text)
    assert back.type == action.type and to_autoui(back) == text
    for field in ("x", "y", "to_x", "to_y"):
        assert getattr(back, field) == (None if getattr(action, field) is None else round(getattr(action, field), 4))


@pytest.mark.parametrize(
    ("typed", "parsed"), [("a b", "a b"), ("10:30", "10:30"), ("to: Bob", "to"), ('"hi" she', 'hi" she'), ("", "")]
)
def test_autoui_typed_texts_as_the_released_parser_reads_them(typed, parsed):
    assert from_autoui(to_autoui(ScreenAction("type", text=typed))) == ScreenAction("type", text=parsed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 parts"),
        (to_autoui(ScreenAction("type", text="Paris, Texas")), "7 parts"),
        (AUTOUI[ScreenAction("back")].replace("PRESS_BACK", "PRESS_MENU"), "'PRESS_MENU' is not an action of Auto-UI"),
        (AUTOUI[ScreenAction("back")].replace(": ", ":", 1), "no value behind"),
        (dual_point("[-1.0, -1.0]", "[-1.0, -1.0]"), "outside"),
        (dual_point("[0.5, x]", "[0.5, 0.5]"), "is not a point"),
        (dual_point("[nan, 0.5]", "[0.5, 0.5]"), "outside"),
    ],
)
def test_autoui_malformed_strings(text, message):
    with pytest.raises(MalformedAction, match=message):
        from_autoui(text)


@pytest.mark.parametrize("action", [ScreenAction("answer", text="42"), ScreenAction("long_press", 0.5, 0.5)])
def test_autoui_lacks_types(action):
    with pytest.raises(UnsupportedAction, match=f"Auto-UI has no {action.type}"):
        to_autoui(action)


AUTOUI_PIECES = st.sampled_from(
    ['"action_type"', ": ", ", ", '"DUAL_POINT"', '"TYPE"', '"[0.5', '9]"', "nan", "Action Decision: "]
)


@given(st.one_of(st.text(), st.lists(AUTOUI_PIECES, max_size=20).map("".join)))
@example(dual_point("[1e999, 0.5]", "[inf, 0.5]"))
def test_any_text_is_an_autoui_action_or_malformed(text):
    with suppress(MalformedAction):
        assert isinstance(from_autoui(text), ScreenAction)


SIZE = (1080, 2400)
JSON_ACTIONS = {
    ScreenAction("tap", coordinate(540, 1080), coordinate(1200, 2400)): {"action_type": "click", "x": 540, "y": 1200},
    ScreenAction("long_press", coordinate(0, 1080), coordinate(2399, 2400)): {
        "action_type": "long_press",
        "x": 0,
        "y": 2399,
    },
    ScreenAction("back"): {"action_type": "navigate_back"},
    ScreenAction("home"): {"action_type": "navigate_home"},
    ScreenAction("enter"): {"action_type": "keyboard_enter"},
    ScreenAction("answer", text="42"): {"action_type": "answer", "text": "42"},
    ScreenAction("complete"): {"action_type": "status", "goal_status": "complete"},
    ScreenAction("impossible"): {"action_type": "status", "goal_status": "infeasible"},
    ScreenAction("swipe", 0.5, 0.5, 0.5, 0.0): {"action_type": "scroll", "direction": "down"},
    ScreenAction("swipe", 0.5, 0.5, 1.0, 0.5): {"action_type": "scroll", "direction": "left"},
}


@pytest.mark.parametrize(("action", "values"), JSON_ACTIONS.items())
def test_json_actions(action, values):
    assert to_json_action(action, SIZE) == values
    assert from_json_action(values, SIZE) == (action,)
    assert from_json_action({"index": None, "text": None, "x": None, "y": None, **values}, SIZE) == (action,)


@given(screen_actions_of(), st.integers(50, 3000), st.integers(50, 3000))
def test_json_action_round_trip(action, width, height):
    """Points keep their pixel, swipes only their direction, and a text is followed by the enter key."""
    size = width, height
    values = to_json_action(action, size)
    assert json.loads(json.dumps(values)) == values
    first, *more = from_json_action(values, size) or [action]  # nothing for an empty text
    assert first.type == action.type and first.text == action.text
    assert more == ([ScreenAction("enter")] if action.type == "type" and action.text else [])
    assert to_json_action(first, size) == values
    if action.type in ("tap", "long_press"):
        assert pixel(first.x, width) == pixel(action.x, width) and pixel(first.y, height) == pixel(action.y, height)


@pytest.mark.parametrize(
    ("action", "direction"),
    [
        (ScreenAction("swipe", 0.5, 0.8, 0.5, 0.2), "down"),
        (ScreenAction("swipe", 0.5, 0.2, 0.5, 0.8), "up"),
        (ScreenAction("swipe", 0.9, 0.5, 0.1, 0.5), "right"),
        (ScreenAction("swipe", 0.5, 0.5, 0.6, 0.55), "up"),  # 108 pixels to the right, 120 down
    ],
)
def test_swipe_becomes_the_scroll_of_its_longer_side(action, direction):
    assert to_json_action(action, SIZE) == {"action_type": "scroll", "direction": direction}


def test_scroll_moves_the_finger_against_a_swipe_of_the_same_name():
    for direction in ("down", "up"):
        (_, y, _, to_y), (_, from_y, _, end_y) = SCROLLS[direction], SWIPES[direction]
        assert (to_y - y) * (end_y - from_y) < 0
    (swipe,) = from_json_action({"action_type": "swipe", "direction": "left"}, SIZE)
    assert swipe == ScreenAction("swipe", 0.0, 0.5, 1.0, 0.5)


BOXES = [(0, 0, 1080, 100), (100, 1000, 301, 1200)]


def test_elements_are_resolved_by_their_boxes():
    tap = ScreenAction("tap", coordinate(200, 1080), coordinate(1100, 2400))
    assert from_json_action({"action_type": "click", "index": 1}, SIZE, BOXES) == (tap,)
    entered = from_json_action({"action_type": "input_text", "text": "hi", "index": 1}, SIZE, BOXES)
    assert entered == (tap, ScreenAction("type", text="hi"), ScreenAction("enter"))
    (scroll,) = from_json_action({"action_type": "scroll", "direction": "down", "index": 1}, SIZE, BOXES)
    assert (scroll.x, scroll.y, scroll.to_x, scroll.to_y) == pytest.approx(
        (200.5 / 1080, 1100 / 2400, 200.5 / 1080, 1000 / 2400)
    )
    with pytest.raises(UnsupportedAction, match="element 1 of a list of elements; pass their boxes, or use x and y"):
        from_json_action({"action_type": "click", "index": 1}, SIZE)
    with pytest.raises(MalformedAction, match="no element 2; the screen has 2 elements"):
        from_json_action({"action_type": "click", "index": 2}, SIZE, BOXES)


def test_json_actions_without_effect_on_the_screen():
    assert from_json_action({"action_type": "wait"}, SIZE) == ()
    assert from_json_action({"action_type": "input_text", "text": ""}, SIZE) == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action_type": "double_tap", "x": 1, "y": 1}, "double tap has no counterpart"),
        ({"action_type": "open_app", "app_name": "Clock"}, "tap the icon"),
        ({"action_type": "input_text", "text": "a", "clear_text": True}, "clear the field"),
        ({"action_type": "unknown"}, "'unknown' is not an action_type"),
        ({"action_type": "click"}, "x = None is not a pixel of the screen, 0 to 1079"),
        ({"action_type": "click", "x": 1080, "y": 0}, "x = 1080"),
        ({"action_type": "scroll", "direction": "in"}, "direction must be one of down, up"),
        ({"action_type": "status", "goal_status": "done"}, "goal_status must be one of complete, infeasible"),
        ({"action_type": "answer"}, "answer needs a text"),
        ({}, "None is not an action_type"),
        ("click", "a JSONAction is a dict"),
    ],
)
def test_json_actions_that_are_refused(values, message):
    with pytest.raises(MalformedAction, match=message):
        from_json_action(values, SIZE)


KINDS = st.sampled_from(
    ["click", "long_press", "scroll", "swipe", "input_text", "answer", "status", "wait", "open_app"]
)
KEYS = ("index", "x", "y", "text", "direction", "goal_status", "clear_text")


@given(st.fixed_dictionaries({"action_type": st.one_of(KINDS, VALUES)}, optional=dict.fromkeys(KEYS, VALUES)))
def test_any_values_are_a_json_action_or_malformed(values):
    for boxes in (None, BOXES):
        with suppress(MalformedAction):
            assert all(isinstance(action, ScreenAction) for action in from_json_action(values, SIZE, boxes))
