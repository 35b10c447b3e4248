"""Labelled frames: played once, found again, and cut into cells whose content is known on paper."""

import json
from itertools import islice

import gymnasium as gym
import numpy as np
import pytest

from pr2l.data.labelled_frames import Source, cells, load_or_play, play

SOURCE = Source(environment="doom", tasks=("basic", "fetch"), frames=12, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    load_or_play(SOURCE, folder)
    return folder


def test_a_set_holds_what_was_asked_for(folder):
    frames = load_or_play(SOURCE, folder)
    assert frames.frames.shape == (12, 120, 160, 3) and len(frames) == 12
    assert {"cacodemon", "medikit"} <= set(frames.names)
    for label in (label for labels in frames.labels for label in labels):
        x0, y0, x1, y1 = label["box"]
        assert label["name"] in frames.names and 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 120


def test_the_same_source_gives_the_same_set(folder, tmp_path):
    first, second = load_or_play(SOURCE, folder), load_or_play(SOURCE, tmp_path)
    np.testing.assert_array_equal(first.frames, second.frames)
    assert first.labels == second.labels


def test_a_whole_set_is_not_played_again_and_a_cut_one_is(folder):
    played = []
    load_or_play(SOURCE, folder, played.append)
    assert played == []
    for part in ("set.json", "scenes.jsonl", "episodes.npy"):
        next(folder.glob(f"*/{part}")).unlink()
        load_or_play(SOURCE, folder, played.append)
        assert played == list(range(1, 13))
        played.clear()


def test_another_source_is_another_set(folder):
    load_or_play(SOURCE, folder)
    other = load_or_play(SOURCE.model_copy(update={"split": "evaluation"}), folder)
    assert len(list(folder.glob("*/set.json"))) == 2
    assert not np.array_equal(other.frames, load_or_play(SOURCE, folder).frames)
    cards = [json.loads(card.read_text()) for card in folder.glob("*/set.json")]
    assert {card["source"]["split"] for card in cards} == {"train", "evaluation"}


class Recorder(gym.Env):
    """Takes any action of its space, and notes it; an episode lasts 5 steps."""

    def __init__(self, action_space):
        self.action_space, self.taken = action_space, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return {"frame": np.zeros((4, 4, 3), np.uint8)}, {"labels": [{"name": "imp"}]}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.taken.append(np.asarray(action).tolist())
        self.steps += 1
        return {"frame": np.zeros((4, 4, 3), np.uint8)}, 0.0, self.steps == 5, False, {"labels": [{"name": "imp"}]}


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.Discrete(3, start=1),
        gym.spaces.MultiDiscrete([3, 2]),
        gym.spaces.MultiBinary(2),
        gym.spaces.Box(-1, 1, (2,), np.float32),
        gym.spaces.Dict(buttons=gym.spaces.MultiBinary(2), camera=gym.spaces.Box(-1, 1, (2,), np.float32)),
    ],
    ids=str,
)
def test_random_actions_are_of_the_action_space(space):
    env = Recorder(space)
    assert len(list(islice(play(env, None, np.random.default_rng(0)), 60))) == 60
    assert len({str(action) for action in env.taken}) > 2, "and they differ"
    again = Recorder(space)
    list(islice(play(again, None, np.random.default_rng(0)), 60))
    assert str(again.taken) == str(env.taken)


def test_actions_that_end_an_episode_are_not_drawn():
    env = Recorder(gym.spaces.Discrete(3, start=1))
    list(islice(play(env, None, np.random.default_rng(0), never=(2,)), 60))
    assert set(env.taken) == {1, 3}


def test_cells_by_hand():
    # A 40 x 40 frame in 4 x 4 cells of 10 pixels: the far box covers two whole cells and a tenth of two others, the
    # near one the lower right cell of them and the one to its right.
    #   . . . .
    #   . X N N     row 1; the far centre is at (1, 2), where an even split rounds up, as is the near box's left half
    #   . - - .     row 2: one pixel of ten, below 30 %
    labels = [
        [
            {"name": "medikit", "box": (20, 10, 40, 20), "distance": 0.6},
            {"name": "imp", "box": (10, 10, 30, 21), "distance": 2.5},
        ]
    ]
    content = cells(labels, ("imp", "medikit"), (40, 40), 4)
    assert content.shape == (1, 2 * 2 + 3, 4, 4)
    where = [[tuple(cell) for cell in np.argwhere(channel)] for channel in content[0]]
    assert where[0:2] == [[(1, 1), (1, 2)], [(1, 2), (1, 3)]], "shown"
    assert where[2:4] == [[(1, 2)], [(1, 3)]], "centred"
    assert where[4:7] == [[(1, 2), (1, 3)], [], [(1, 1)]], "near, middle, far of the nearest"


def test_a_small_thing_is_shown_where_its_centre_is():
    labels = [[{"name": "imp", "box": (38, 39, 40, 40), "distance": 1.0}]]
    shown = cells(labels, ("imp",), (40, 40), 4)
    assert [tuple(cell) for cell in np.argwhere(shown[0, 0])] == [(3, 3)]
