"""MiniWoB++: tasks, determinism, oracles, labels and failures of pages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pr2l.environments import miniwob
from pr2l.environments.base import UserError
from pr2l.environments.browser import PageFailure
from pr2l.environments.common.screen_actions import ScreenAction, format
from pr2l.environments.miniwob import ORACLES, TASKS, Defaults, pages
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.in_process import InProcessVecEnv
from tests.environments.browser_pages import needs_chromium

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(importlib.util.find_spec("miniwob") is None, reason="the package miniwob is not installed"),
]
FAST = ("click-test", "login-user", "choose-list", "email-inbox-delete")


@pytest.fixture(scope="module", autouse=True)
def browser() -> Iterator[None]:
    """Keep one browser open for all tests of this file."""
    env = miniwob.make("click-test")
    env.reset(seed=0)
    yield
    env.close()


def solve(task: str, seed: int, **options: object) -> tuple[dict[str, object], float, int]:
    """Play an episode by the oracle; return the last info, the last reward and the number of steps."""
    env = miniwob.make(task, Defaults(**options))  # type: ignore[arg-type]
    decide = miniwob.oracle(task)
    env.reset(seed=seed)
    for step in range(1, env.horizon + 1):
        _, reward, terminated, truncated, info = env.step(decide(env))
        if terminated or truncated:
            env.close()
            return info, reward, step
    raise AssertionError("the episode has no end")


def play(task: str, seed: int, steps: int = 6) -> list[np.ndarray]:
    """Return the frames of an episode with random touches, which are the same for all episodes."""
    env = miniwob.make(task)
    actions = np.random.default_rng(5)
    frames = [env.reset(seed=seed)[0]["frame"]]
    for step in range(steps):
        action = actions.integers(env.action_space.nvec)
        action[0] = (0, 0, 2, 3, 1, 0)[step % 6]  # taps, a swipe, a text, a long press
        observation, _, terminated, _, _ = env.step(action)
        frames.append(observation["frame"])
        if terminated:
            break
    env.close()
    return frames


def test_tasks_are_pages() -> None:
    assert len(TASKS) == 87 and "enter-date" not in TASKS
    assert [name for name in TASKS if not (pages.folder() / f"{name}.html").is_file()] == []
    assert set(ORACLES) <= set(TASKS) and len(ORACLES) >= 30


def test_gymnasium_accepts_it() -> None:
    env = miniwob.make("click-button-sequence")
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task in ("email-inbox-nl-turk", "use-slider") else pytest.mark.slow)
        for task in TASKS
    ],
)
def test_seed_determines_the_pixels(task: str) -> None:
    first, second = play(task, 3), play(task, 3)
    assert len(first) == len(second)
    for frame, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(frame, again)


def test_seeds_and_splits_differ() -> None:
    train, other, evaluation = (
        miniwob.make("enter-text", split=split)  # type: ignore[arg-type]
        for split in ("train", "train", "evaluation")
    )
    goals = [env.reset(seed=seed)[1]["context"]["goal"] for env, seed in ((train, 1), (other, 2), (evaluation, 1))]
    for env in (train, other, evaluation):
        env.close()
    assert len(set(goals)) == 3
    assert all(goal.startswith('Enter "') for goal in goals)


@pytest.mark.parametrize(
    ("task", "seed"),
    [(task, 0) for task in FAST]
    + [pytest.param(task, seed, marks=pytest.mark.slow) for task in ORACLES for seed in range(1, 4)],
)
def test_oracle_solves_the_task(task: str, seed: int) -> None:
    info, reward, _ = solve(task, seed, actions="text")
    assert info["success"] is True and reward == 1.0, info


@pytest.mark.parametrize("task", ["enter-text", "click-checkboxes"])
def test_oracle_solves_the_task_with_heads(task: str) -> None:
    info, reward, _ = solve(task, 1)
    assert info["success"] is True and reward == 1.0


def test_a_wrong_answer_ends_the_episode() -> None:
    for raw, expected in ((False, 0.0), (True, -1.0)):
        env = miniwob.make("click-test-2", Defaults(actions="text", raw_reward=raw))
        env.reset(seed=0)
        box = env.evaluate("(b => [b.left + b.width / 2, b.top + b.height / 2])(subbtn2.getBoundingClientRect())")
        observation, reward, terminated, truncated, info = env.step(
            format(ScreenAction("tap", box[0] / pages.WIDTH, box[1] / pages.HEIGHT))
        )
        assert (reward, terminated, truncated, info["success"]) == (expected, True, False, False)
        assert info["measures"]["raw_reward"] == -1.0
        assert (observation["frame"][100, :20] == 255).any()  # the page, not the cover of a next episode
        env.close()


@pytest.mark.slow
def test_random_touches_rarely_succeed() -> None:
    env = miniwob.make("login-user")
    env.action_space.seed(0)
    successes = 0
    for seed in range(10):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
        successes += reward == 1.0
    env.close()
    assert successes == 0


def test_a_swipe_drags_what_jquery_lets_the_mouse_drag() -> None:
    env = miniwob.make("drag-box", Defaults(actions="text"))
    env.reset(seed=1)
    centre = "(b => [b.left + b.width / 2, b.top + b.height / 2])({}.getBoundingClientRect())"
    start, end = env.evaluate(centre.format("draggableSmall")), env.evaluate(centre.format("draggableLarge"))
    swipe = (start[0] / 160, start[1] / 210, end[0] / 160, end[1] / 210)
    env.step(format(ScreenAction("swipe", *swipe)))
    assert env.evaluate(centre.format("draggableSmall")) == pytest.approx(end, abs=2)
    x, y = env.evaluate(centre.format("subbtn"))
    _, reward, terminated, _, _ = env.step(format(ScreenAction("tap", x / 160, y / 210)))
    assert (reward, terminated) == (1.0, True)
    env.close()


def test_malformed_actions_are_counted_and_do_nothing() -> None:
    env = miniwob.make("click-button", Defaults(actions="text", horizon=2))
    env.reset(seed=0)
    before = env.render()
    observation, reward, terminated, truncated, info = env.step("press the button")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["measures"]["malformed_actions"] == 1
    np.testing.assert_array_equal(observation["frame"], before)
    assert info["action"] == ""
    *_, terminated, truncated, info = env.step("Not back(), but: home()")
    assert (terminated, truncated, info["measures"]["malformed_actions"]) == (False, True, 1)
    assert info["action"] == "home()"
    env.close()


def test_labels_are_in_pixels_of_the_frame() -> None:
    env = miniwob.make("click-test", Defaults(scale=2.0), labels=True)
    observation, info = env.reset(seed=0)
    assert observation["frame"].shape == (420, 320, 3)
    x, y, width, height = env.evaluate("(b => [b.left, b.top, b.width, b.height])(subbtn.getBoundingClientRect())")
    box = tuple(round(2 * side) for side in (x, y, x + width, y + height))
    assert info["labels"] == [{"name": "Click Me!", "box": box, "distance": 0.0}]
    env.close()


@pytest.mark.slow
def test_a_page_that_hangs_cuts_the_episode() -> None:
    env = miniwob.make("click-test", Defaults(timeout=2.0), labels=True)
    env.reset(seed=0)
    before = env.render()
    env.evaluate("setTimeout(() => { while (true) {} }, 50)")
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["cut"].startswith("timeout") and info["success"] is False and info["labels"] == []
    np.testing.assert_array_equal(observation["frame"], before)
    with pytest.raises(PageFailure):
        env.evaluate("1")
    env.reset(seed=1)
    assert env.evaluate("1 + 1") == 2
    env.close()


def test_environments_of_a_process_step_at_once() -> None:
    venv = InProcessVecEnv([lambda: SeededEpisodes(miniwob.make("click-tab"), lambda number: number)] * 2)
    frames = venv.reset()["frame"]
    assert frames.shape == (2, 210, 160, 3)
    np.testing.assert_array_equal(frames[0], frames[1])
    begun: list[int] = []
    for number, env in enumerate(venv.envs):
        miniwob_env, finish = env.unwrapped, env.unwrapped.step
        miniwob_env.step = (
            lambda action, n=number, finish=finish: (  # type: ignore[method-assign]
                begun.append(sum(other.unwrapped._begun for other in venv.envs[n:])) or finish(action)
            )
        )
    venv.step(np.zeros((2, 6), int))
    assert begun == [2, 1]  # both had begun before the first was finished
    venv.close()


def test_bad_input_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Did you mean 'click-button'"):
        miniwob.make("click-buton")
    with pytest.raises(UserError, match="is not a split"):
        miniwob.make("click-test", split="test")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is not a task of miniwob with an oracle"):
        miniwob.oracle("book-flight")
    with pytest.raises(UserError, match="call reset first"):
        miniwob.make("click-test").step(np.zeros(6, int))
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps miniwob"):
        miniwob.make("click-test")


def test_the_oracle_needs_the_page_in_this_process() -> None:
    class Other(gym.Env):  # type: ignore[type-arg]
        pass

    with pytest.raises(UserError, match="in this process"):
        miniwob.oracle("click-test")(Other())


def test_actions_are_drawn() -> None:
    env = miniwob.make("click-test", Defaults(actions="text"))
    frame = env.reset(seed=0)[0]["frame"]
    drawn = env.draw_action(frame.copy(), "tap(0.500, 0.500)")
    assert drawn.shape == frame.shape and not np.array_equal(drawn, frame)
    env.close()
