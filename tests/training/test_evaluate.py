"""Evaluation on numbered episodes, and comparison with committed results."""

import json
from contextlib import closing
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console
from stable_baselines3.common.vec_env import DummyVecEnv

from pr2l.core.config import RunConfig
from pr2l.core.io import write_json
from pr2l.encoders import pixels
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.policies.base import Actions
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.workers import Workers
from pr2l.training import evaluate, video
from pr2l.training.evaluate import Score, by_context, committed, play, random_actor, table
from pr2l.training.video import EpisodeVideo

CONFIG = RunConfig(why="", environment="doom", task="fetch", encoder="prompted", network="mlp", steps=1)


LENGTHS = (3, 1, 7, 5, 2, 6, 4)


class CountDown(gym.Env):
    """The seed is the number of the episode; it lasts LENGTHS[number] steps of reward 1."""

    observation_space = spaces.Dict({"frame": spaces.Box(0, 255, (1, 1, 3), np.uint8)})
    action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        self.left = LENGTHS[seed % 7]
        return self._observation(), {"context": {}, "success": False}

    def step(self, action):
        self.left -= 1
        return self._observation(), 1.0, self.left == 0, False, {"context": {}, "success": True}

    def _observation(self):
        return {"frame": np.zeros((1, 1, 3), np.uint8)}


def count_downs(count):
    return DummyVecEnv([lambda row=row: SeededEpisodes(CountDown(), lambda n: row + n * count) for row in range(count)])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_episodes_do_not_depend_on_the_number_of_environments(count):
    """The first seven episodes that end would not include the long ones."""
    played = play(count_downs(count), lambda observation, starts: np.zeros(count, int), 7)
    assert [(one["number"], one["l"], one["r"]) for one in played] == [(n, LENGTHS[n], LENGTHS[n]) for n in range(7)]


def test_rewound_environments_repeat_the_episodes():
    venv, act = count_downs(3), lambda observation, starts: np.zeros(3, int)
    first = play(venv, act, 7)
    venv.env_method("rewind")
    assert play(venv, act, 7) == first


class Failing(CountDown):
    """The simulator fails in the first step of episodes, failures[number] times."""

    failures: ClassVar[dict[int, int]] = {}

    def reset(self, *, seed=None, options=None):
        self.number = seed
        return super().reset(seed=seed)

    def step(self, action):
        if not self.failures.get(self.number, 0):
            return super().step(action)
        self.failures[self.number] -= 1
        return self._observation(), 0.0, False, True, {"context": {}, "success": False, "cut": "killed"}


@pytest.mark.parametrize("count", [1, 3])
def test_cut_episode_is_repeated_once(count):
    Failing.failures = {0: 1, 4: 2, 6: 1}
    envs = [lambda row=row: SeededEpisodes(Failing(), lambda n: row + n * count) for row in range(count)]
    played = play(DummyVecEnv(envs), lambda observation, starts: np.zeros(count, int), 7)
    assert [(one["number"], one["l"]) for one in played] == [(n, 1 if n == 4 else LENGTHS[n]) for n in range(7)]
    assert [one["number"] for one in played if not one["success"]] == [4]
    score = Score.of(played)
    assert (score.cut, score.episodes) == (1, 7)
    assert Score.from_json(json.loads(json.dumps(score.as_json()))) == score
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table("", {"one": score}))
    assert "7 (1 cut)" in capture.get()


def test_actor_gets_the_starts_of_episodes():
    all_starts = []

    def act(observation, starts):
        all_starts.append(starts.tolist())
        return np.zeros(2, int)

    play(count_downs(2), act, 4)  # 3 and 7 steps in one environment, 1 and 5 in the other
    assert all_starts[:4] == [[True, True], [False, True], [False, False], [True, False]]


def test_random_actor_is_seeded_and_takes_all_actions():
    rolls = [[random_actor(spaces.Discrete(5), 3, seed)(None, None).tolist() for _ in range(9)] for seed in (1, 1, 2)]
    assert rolls[0] != rolls[2]
    first, again = (random_actor(spaces.Discrete(5), 3, 1) for _ in range(2))
    assert [first(None, None).tolist() for _ in range(9)] == [again(None, None).tolist() for _ in range(9)]
    actor = random_actor(spaces.Discrete(5), 40, 0)
    assert set(actor(None, None).tolist()) == set(range(5))


def test_score_is_restored_from_json():
    score = Score.of([{"success": s, "r": r, "l": 3} for s, r in ((True, 1.0), (False, -0.5), (True, 0.75))])
    assert score.success.value == pytest.approx(2 / 3)
    assert score.returned.value == pytest.approx(1.25 / 3)
    assert Score.from_json(json.loads(json.dumps(score.as_json()))) == score


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan")])
def test_undefined_measures_are_null_and_their_episodes_are_reported(bad):
    values = (np.float32(0.5), bad, 1.0)
    played = [
        {"success": True, "r": 0.0, "l": 1, "number": n, "context": {}, "measures": {"spl": value}}
        for n, value in enumerate(values)
    ]
    assert Score.of(played).measures["spl"].value == 0.75
    columns = evaluate.columns(played)
    assert json.loads(json.dumps(columns, allow_nan=False))["spl"] == [0.5, None, 1.0]
    [sentence] = evaluate.undefined_measures(played)
    assert sentence.startswith("spl is not a finite number in evaluation episodes 1:")
    assert Score.of(played[1:2]).measures == {}


READS_PROMPT = SimpleNamespace(prompts=1, tokens=2, width=3, fit_frames=0, frame_history=1)


@pytest.mark.parametrize(
    ("changes", "encoder", "line"),
    [
        ({"prompt": "where"}, SimpleNamespace(prompts=1), "where is the imp ?"),
        ({"prompt": "where"}, CachedEncoder(READS_PROMPT, 8), "where is the imp ?"),
        ({"prompt": "where"}, SimpleNamespace(), "target: imp"),  # such as pixels, which reads no prompt
        ({"prompt": None}, SimpleNamespace(prompts=1), "target: imp"),
    ],
)
def test_line_of_a_video_is_the_question_that_the_encoder_reads(changes, encoder, line):
    assert evaluate.question_of(CONFIG.model_copy(update=changes), encoder)({"target": "imp"}) == line


def test_scores_by_context():
    ended = (("bed", True, 0.5), ("tv", False, 0.0), ("bed", True, 1.0))
    played = [
        {"success": s, "r": 0.0, "l": 3, "context": {"target": target}, "measures": {"spl": spl}}
        for target, s, spl in ended
    ]
    score, groups = Score.of(played), by_context(played)
    assert score.measures["spl"].value == 0.5
    assert {name: (one.episodes, one.measures["spl"].value) for name, one in groups.items()} == {
        "bed": (2, 0.75),
        "tv": (1, 0.0),
    }
    assert Score.from_json(json.loads(json.dumps(score.as_json()))) == score
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table("", groups, of="context"))
    assert "context" in capture.get() and "spl" in capture.get() and "0.75 [0.50, 1.00]" in capture.get()


class Touch(CountDown):
    """The action is the touched pixel of a row of five, and the frame is the number of remaining steps."""

    observation_space = spaces.Dict({"frame": spaces.Box(0, 255, (1, 5, 3), np.uint8)})

    def _observation(self):
        return {"frame": np.full((1, 5, 3), self.left, np.uint8)}

    def draw_action(self, frame, action):
        assert isinstance(action, np.int64) and (frame == self.left).all()
        frame[0, action] = 255
        return frame


def touches(n):
    return SeededEpisodes(Touch(), lambda number: n)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(DummyVecEnv, id="in process"),
        pytest.param(partial(Workers, workers=1), id="worker", marks=pytest.mark.slow),
    ],
)
def test_video_shows_actions_on_the_frames_on_which_they_are_taken(make, monkeypatch):
    """Episodes of 3, 1 and 7 steps; the third environment is not recorded."""
    monkeypatch.setattr(video, "picture", lambda frame, lines: frame[0, :, 0].tolist())
    encoder = pixels.PixelsEncoder(pixels.Defaults(size=1))
    actions = iter(([4, 0, 2], [1, 3, 2], *[[0, 3, 2]] * 5))
    recorder = EpisodeVideo(2)
    with closing(make([partial(touches, n) for n in (0, 1, 2)])) as venv:
        play(VecEmbed(venv, encoder), lambda observation, starts: np.array(next(actions)), 3, recorder)
    first = [[3, 3, 3, 3, 255], [2, 255, 2, 2, 2], [255, 1, 1, 1, 1], *[[0] * 5] * video.REPEATS]
    assert recorder.pictures() == [*first, [255, 1, 1, 1, 1], *[[0] * 5] * video.REPEATS]


@pytest.mark.parametrize("greedy", [False, True])
def test_learner_actor_passes_greedy_to_the_learner(greedy):
    class Learner:
        def act(self, observation, memory, starts, *, greedy):
            return Actions(np.array([int(greedy)]))

    act = evaluate.learner_actor(Learner(), greedy=greedy)
    assert act({}, np.ones(1, bool)).tolist() == [int(greedy)]


def test_committed_results_of_the_same_task_and_algorithm_are_shown(tmp_path, monkeypatch):
    score = Score.of([{"success": True, "r": 1.0, "l": 3}])
    for name, task, algorithm, encoder in (
        ("a", "fetch", "ppo", "image_only"),
        ("b", "hunt", "ppo", "image_only"),
        ("c", "fetch", "ppo", "prompted"),
        ("d", "fetch", "bc", "image_only"),
    ):
        result = {"environment": "doom", "task": task, "algorithm": algorithm, "encoder": encoder, "steps": 60000}
        write_json(tmp_path / f"{name}.json", {**result, "evaluation": score.as_json()})
    write_json(tmp_path / "other.json", {"something": "else"})
    monkeypatch.setattr(evaluate, "COMMITTED", tmp_path)
    rows = committed(CONFIG)
    assert rows == {"image_only (committed, 60,000 steps, a.json)": score}
    assert table("title", rows).row_count == 1


def test_no_committed_results(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "COMMITTED", tmp_path / "absent")
    assert committed(CONFIG) == {}
