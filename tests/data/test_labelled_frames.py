"""Sets of labelled frames, and the content of grid cells."""

import json
from itertools import islice

import gymnasium as gym
import numpy as np
import pytest
from pydantic import ValidationError
from toy_runs import TOY_WORLD

from pr2l.core.errors import UserError
from pr2l.data import labelled_frames
from pr2l.data.labelled_frames import Source, cells, load_or_play, play
from pr2l.environments.isolation import Timeouts
from pr2l.rollout import watchdog
from pr2l.rollout.contract import ContractError

SOURCE = Source(environment="doom", tasks=("basic", "fetch"), frames=12, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    load_or_play(SOURCE, folder)
    return folder


def test_set_has_frames_and_labels(folder):
    frames = load_or_play(SOURCE, folder)
    assert frames.frames.shape == (12, 120, 160, 3) and len(frames) == 12
    assert {"cacodemon", "medikit"} <= set(frames.names)
    for label in (label for labels in frames.labels for label in labels):
        x0, y0, x1, y1 = label["box"]
        assert label["name"] in frames.names and 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 120


def test_equal_sources_give_equal_sets(folder, tmp_path):
    first, second = load_or_play(SOURCE, folder), load_or_play(SOURCE, tmp_path)
    np.testing.assert_array_equal(first.frames, second.frames)
    assert first.labels == second.labels


def test_only_incomplete_sets_are_played_again(folder):
    progress = []
    load_or_play(SOURCE, folder, progress.append)
    assert progress == []
    for file in ("set.json", "scenes.jsonl", "episodes.npy"):
        next(folder.glob(f"*/{file}")).unlink()
        load_or_play(SOURCE, folder, progress.append)
        assert progress == list(range(1, 13))
        progress.clear()


def test_history_adds_earlier_frames_and_changes_nothing_else(folder, tmp_path):
    alone = load_or_play(SOURCE, folder)
    after = load_or_play(SOURCE, tmp_path, frame_history=3)
    assert after.frames.shape == (12, 3, 120, 160, 3) and np.array_equal(after.frames[:, -1], alone.frames)
    assert (after.labels, after.scenes, after.episodes) == (alone.labels, alone.scenes, alone.episodes)


def test_sources_have_separate_sets(folder):
    load_or_play(SOURCE, folder)
    other = load_or_play(SOURCE.model_copy(update={"split": "evaluation"}), folder)
    assert len(list(folder.glob("*/set.json"))) == 2
    assert not np.array_equal(other.frames, load_or_play(SOURCE, folder).frames)
    cards = [json.loads(card.read_text()) for card in folder.glob("*/set.json")]
    assert {card["source"]["split"] for card in cards} == {"train", "evaluation"}


WRONG_FRAMES = """
class Wrong(Colours):
    def _observation(self):
        observation = super()._observation()
        return {**observation, "frame": observation["frame"] / 255}
"""
SHIFTED_ACTIONS = """
class Wrong(Colours):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.action_space = gym.spaces.Discrete(3, start=1)
"""
MAKE_WRONG = """
def make(task, options=None, *, split="train", labels=False):
    return Wrong(options or Defaults(), split, labels)
"""
TOY_SOURCE = Source(environment="toy", tasks=("colours",), frames=4)


@pytest.mark.parametrize(
    ("world", "message"),
    [(WRONG_FRAMES, r"toy/colours, .* reset: frame is float64 \[6, 8, 3\]"), (SHIFTED_ACTIONS, "has start=1")],
)
def test_environment_that_violates_the_contract_is_refused(write_plugin, tmp_path, world, message):
    """Frames in 0..1 were stored as zeros."""
    write_plugin("environments", "toy", TOY_WORLD + world + MAKE_WRONG)
    with pytest.raises(ContractError, match=message):
        load_or_play(TOY_SOURCE, tmp_path)


def test_hanging_step_is_reported(write_plugin, tmp_path, monkeypatch, capfd):
    write_plugin("environments", "toy", TOY_WORLD)
    monkeypatch.setenv("TOY_DELAY", "0.2")
    monkeypatch.setattr(watchdog, "INTERVAL", 0.01)
    monkeypatch.setattr(labelled_frames, "Timeouts", lambda: Timeouts(step=0.03))
    load_or_play(TOY_SOURCE.model_copy(update={"frames": 2}), tmp_path)
    assert "step 1 of the episode with seed" in capfd.readouterr().err


class Recorder(gym.Env):
    """Records its actions; an episode lasts 5 steps."""

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


class Clock(Recorder):
    """Frame number n of an episode has value n, in an array that every step reuses."""

    frame = np.zeros((4, 4, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        _, info = super().reset(seed=seed)
        self.frame[:] = 0
        return {"frame": self.frame}, info

    def step(self, action):
        _, *others = super().step(action)
        self.frame[:] += 1
        return {"frame": self.frame}, *others


def test_frames_come_with_those_before_them_in_their_episode():
    """An episode has the frames 0 to 4; the frame of its last step is not yielded."""
    frames = islice(play(Clock(gym.spaces.Discrete(2)), None, np.random.default_rng(0), frame_history=3), 40)
    histories = {tuple(history[:, 0, 0, 0].tolist()) for history, _ in frames}
    assert histories == {(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)}


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
def test_random_actions_are_in_the_action_space_and_seeded(space):
    env = Recorder(space)
    assert len(list(islice(play(env, None, np.random.default_rng(0)), 60))) == 60
    assert len({str(action) for action in env.taken}) > 2
    same = Recorder(space)
    list(islice(play(same, None, np.random.default_rng(0)), 60))
    assert str(same.taken) == str(env.taken)


def test_random_actions_exclude_ending_actions():
    env = Recorder(gym.spaces.Discrete(3, start=1))
    list(islice(play(env, None, np.random.default_rng(0), never=(2,)), 60))
    assert set(env.taken) == {1, 3}


def test_cells_of_two_boxes():
    # A 40 x 40 frame has 4 x 4 cells of 10 pixels. The far box (X) covers two cells and a tenth of the two below, the
    # near box (N) covers the right one of the two and the cell to its right.
    #   . . . .
    #   . X N N     row 1; the centre of the far box is on the border of (1, 2), which counts as (1, 2)
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
    assert where[0:2] == [[(1, 1), (1, 2)], [(1, 2), (1, 3)]], "covered"
    assert where[2:4] == [[(1, 2)], [(1, 3)]], "with a centre"
    assert where[4:7] == [[(1, 2), (1, 3)], [], [(1, 1)]], "nearest box is near, middle, far"


def test_small_box_covers_the_cell_of_its_centre():
    labels = [[{"name": "imp", "box": (38, 39, 40, 40), "distance": 1.0}]]
    content = cells(labels, ("imp",), (40, 40), 4)
    assert [tuple(cell) for cell in np.argwhere(content[0, 0])] == [(3, 3)]


def test_unknown_option_and_missing_tasks_are_refused(write_plugin, tmp_path):
    write_plugin("environments", "toy", TOY_WORLD)
    with pytest.raises(UserError, match="options of 'toy': unknown key 'speed'"):
        load_or_play(Source(environment="toy", tasks=("colours",), frames=2, options={"speed": 3}), tmp_path)
    with pytest.raises(ValidationError, match="tasks"):
        Source(environment="toy", tasks=(), frames=2)
