"""Drawings of actions: where pixels change, and that every action can be drawn on every size of frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_strategies import screen_actions_of

from pr2l.environments.common.drawing import TOUCH, draw
from pr2l.environments.common.screen_actions import ScreenAction, format

SIZES = [(448, 252), (210, 160)]


def screen(size, colour=250):
    return np.full((*size, 3), colour, np.uint8)


def changed(frame, action):
    """Bounding box (left, top, right, bottom) of the pixels that differ from the frame, as fractions."""
    rows, columns = np.nonzero((draw(frame, action) != frame).any(axis=-1))
    height, width = frame.shape[:2]
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["tap", "long_press"])
def test_touch_is_drawn_around_its_point(kind, size, colour):
    frame = screen(size, colour)
    left, top, right, bottom = changed(frame, ScreenAction(kind, 0.3, 0.6))
    assert (left + right) / 2 == pytest.approx(0.3, abs=0.01) and (top + bottom) / 2 == pytest.approx(0.6, abs=0.01)
    assert 0.06 < right - left < 0.3
    centre = draw(frame, ScreenAction(kind, 0.3, 0.6))[int(0.6 * size[0]), int(0.3 * size[1])]
    np.testing.assert_allclose(centre, TOUCH[:3], atol=12)


def test_long_press_is_larger_than_a_tap():
    frame = screen((448, 252))
    tap, press = (changed(frame, ScreenAction(kind, 0.5, 0.5)) for kind in ("tap", "long_press"))
    assert press[2] - press[0] > 1.4 * (tap[2] - tap[0])


@pytest.mark.parametrize("size", SIZES)
def test_swipe_is_drawn_from_its_start_to_its_end(size):
    left, top, right, bottom = changed(screen(size), ScreenAction("swipe", 0.5, 0.8, 0.5, 0.2))
    assert top == pytest.approx(0.2, abs=0.02) and bottom == pytest.approx(0.8, abs=0.05)
    assert (left + right) / 2 == pytest.approx(0.5, abs=0.01) and right - left < 0.15
    up, down = (draw(screen(size), ScreenAction("swipe", 0.5, a, 0.5, b)) for a, b in ((0.8, 0.2), (0.2, 0.8)))
    assert (up != down).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "action", [ScreenAction("type", text="hello " * 100), ScreenAction("back"), ScreenAction("complete"), "click(9)"]
)
def test_other_actions_are_labels_at_the_bottom(size, action):
    left, top, right, bottom = changed(screen(size), action)
    assert left >= 0.02 and right <= 0.98 and top > 0.85 and bottom < 0.99
    assert left + right == pytest.approx(1, abs=0.02)


def test_labels_differ():
    frames = [
        draw(screen((210, 160)), action) for action in ("back()", "home()", "complete()", "home(", 'type("back")')
    ]
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_texts_are_read_as_actions_and_the_frame_stays():
    frame = screen((210, 160))
    action = ScreenAction("tap", 0.5, 0.25)
    assert np.array_equal(draw(frame, format(action)), draw(frame, action))
    assert (frame == 250).all()
    same = draw(frame, None)
    assert np.array_equal(same, frame) and same is not frame


@settings(max_examples=40, deadline=None)
@given(screen_actions_of(), st.integers(1, 80), st.integers(1, 80))
def test_every_action_is_drawn_on_every_frame(action, height, width):
    drawn = draw(screen((height, width)), action)
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8
