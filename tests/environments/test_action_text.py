"""Recorded actions as texts, in each environment with a screen."""

import numpy as np
import pytest

from pr2l.environments import android, miniwob, phone
from pr2l.environments.base import UserError
from pr2l.environments.common.screen_action_space import ScreenActionSpace
from pr2l.environments.common.screen_actions import ScreenAction

GOAL = {"goal": "Call Ann now"}
# Module, and rows and columns of its cells: the ninth in the middle of cell 0 is half a cell away from the corner.
MODULES = [(phone, 16, 9), (android, 20, 9), (miniwob, 14, 10)]


@pytest.mark.parametrize(("module", "rows", "columns"), MODULES, ids=lambda value: getattr(value, "__name__", ""))
def test_action_text_by_hand(module, rows, columns):
    options = module.Defaults()
    tap = np.array([0, 0, 4, 3, 1, 1])  # the last three heads have no effect on a tap
    assert module.action_text(tap, GOAL, options) == f"tap({0.5 / columns:.3f}, {0.5 / rows:.3f})"
    assert module.action_text([3, 7, 7, 0, 1, 1], GOAL, options) == 'type("Ann now")'
    assert module.action_text([3, 0, 0, 0, 3, 0], GOAL, options) == ""  # the instruction has three words
    texts = module.Defaults(actions="text")
    assert module.action_text("I tap. tap(0.5, 0.25)", GOAL, texts) == "tap(0.500, 0.250)"
    assert module.action_text("I give up", GOAL, texts) == ""


def test_action_text_is_the_inverse_of_the_row_with_other_options():
    options = phone.Defaults(rows=14, columns=8, words=4)
    row = ScreenActionSpace(rows=14, columns=8, words=4).encode(ScreenAction("tap", 13 / 48, 19 / 84))
    assert phone.action_text(row, GOAL, options) == f"tap({13 / 48:.3f}, {19 / 84:.3f})"


def test_texts_of_words_on_the_screen_are_not_known():
    with pytest.raises(UserError, match="screen_words=false"):
        phone.action_text([3, 0, 0, 0, 0, 0], GOAL, phone.Defaults(screen_words=True))
