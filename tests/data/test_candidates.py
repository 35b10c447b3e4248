"""Candidates of a data set whose screens are numbers, so that their distances are known on paper."""

import numpy as np
import pytest
from data_sets import write
from gymnasium import spaces

from pr2l.core.errors import UserError
from pr2l.data.candidates import candidates, nearest_steps, thumbnails
from pr2l.data.recording import Recording

# Actions 0 to 7 are the letters a to h; action 8 is malformed, and action 7 where the context does not allow it.
LETTERS = """
from pydantic import BaseModel
class Defaults(BaseModel): pass
TASKS = {}
def action_text(action, context, options):
    return "" if action == 8 or (action == 7 and context["h"] == "no") else "abcdefgh"[action]
"""
YES, NO = {"h": "yes"}, {"h": "no"}


@pytest.fixture
def recording(write_plugin, tmp_path):
    """recording(actions of an episode, ...) -> data set; the frame of row r shows the number r."""
    write_plugin("environments", "letters", LETTERS)

    def make(*episodes, contexts=None, environment="letters/all", **more):
        rows = [{"actions": list(actions), "rewards": [0.0] * len(actions), "terminated": True} for actions in episodes]
        for number, row in enumerate(rows):
            row["contexts"] = contexts[number] if contexts else [NO] * (len(row["actions"]) + 1)
        more |= {"env_spec": None, "environment": environment.split("/")[0], "task": environment.split("/")[1]}
        return Recording(write(tmp_path / "episodes", rows, **more))

    return make


def test_nearest_different_actions_come_first(recording):
    """Rows of the frames:  0 a   1 b   2 c   (3)   4 b   5 malformed   6 a   (7); of equally near ones the first."""
    chosen = candidates(recording([0, 1, 2], [1, 8, 0]), 3)
    assert ["".join(texts) for texts in chosen.texts] == ["abc", "bac", "cba", "bca", "ba", "abc"]
    assert chosen.texts[4] == ["", "b", "a"]
    assert chosen.actions[..., 0].tolist() == [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0], [8, 1, 0], [0, 1, 2]]


def test_recorded_action_fills_missing_candidates(recording):
    chosen = candidates(recording([0, 1]), 4)
    assert chosen.texts == [["a", "b", "a", "a"], ["b", "a", "b", "b"]]


def test_action_that_the_context_makes_malformed_is_no_candidate(recording):
    """The letter h is an action in the second episode only."""
    chosen = candidates(recording([0, 1], [7, 0], contexts=[[NO] * 3, [YES] * 3]), 3)
    assert [set(texts) for texts in chosen.texts] == [{"a", "b"}, {"a", "b"}, {"h", "b", "a"}, {"h", "b", "a"}]


def test_chunks_do_not_change_the_order(monkeypatch):
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (50, 4)).astype(np.float64)
    texts = [str(number) for number in random.integers(0, 6, 50)]
    whole = list(nearest_steps(pictures, texts))
    monkeypatch.setattr("pr2l.data.candidates.CHUNK", 7)
    assert list(nearest_steps(pictures, texts)) == whole
    for step, order in enumerate(whole):
        expected = {}
        for other in sorted(range(50), key=lambda row: (((pictures[row] - pictures[step]) ** 2).sum(), row)):
            expected.setdefault(texts[other], other)
        assert order == list(expected.values())


def test_thumbnails_are_small_and_whole():
    frames = np.zeros((2, 448, 252, 3), np.uint8)
    frames[1, :, 126:] = 255
    pictures = thumbnails(frames)
    assert (
        pictures.shape == (2, 32 * 18 * 3) and set(np.unique(pictures)) == {0.0, 255.0} and pictures[1].mean() == 127.5
    )


def test_environment_without_texts_of_actions_is_refused(recording, write_plugin):
    write_plugin("environments", "mute", LETTERS.split("def ")[0])
    with pytest.raises(UserError, match="mute does not write its actions as texts; the environments phone"):
        candidates(recording([0, 1], environment="mute/all"), 2)


def test_actions_of_other_spaces_are_refused(recording):
    space = spaces.Dict(letter=spaces.Discrete(9))
    with pytest.raises(UserError, match="candidates need Discrete or MultiDiscrete actions, not Dict"):
        candidates(recording([{"letter": 1}], action_space=space), 2)
