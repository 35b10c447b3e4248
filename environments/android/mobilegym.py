"""MobileGym (arXiv 2605.26114): its phone in the browser, as a phone and as a source of episodes.

The user serves MobileGym's pages (`scripts/server/serve_dist.sh`). They have no protocol of their own for agents:
MobileGym's Python package `bench_env` drives them with Playwright, samples the tasks and judges the state. So this
module calls that package, written after its source of July 2026. Python >= 3.11, bench_env and Pillow.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..base import UserError
from ..common.screen_actions import ScreenAction
from .android_world import parameter_seed
from .device import resize

VIEWPORT = (360, 800)  # CSS pixels, as in MobileGym's own runs
ANSWERS = "text"  # how answers are judged; MobileGym's other way, "grounded", is to fill in a form in the phone


def find(folder: str) -> None:
    """Make bench_env importable.

    Args:
        folder: The folder of the user's copy of MobileGym.

    Raises:
        UserError: If bench_env is not in it.
    """
    path = Path(folder).expanduser()
    if not (path / "bench_env" / "__init__.py").is_file():
        raise UserError(
            f"mobilegym={folder!r}: there is no bench_env in it; clone github.com/Purewhiter/mobilegym, and set "
            "environment_options.mobilegym to its folder"
        )
    sys.path.append(str(path))


class MobileGym:
    """MobileGym's phone and one of its tasks.

    Args:
        server: Address of MobileGym's pages.
        task: Id of the task, such as "wechat.ReadMyWxid".
        split: "train" or "evaluation"; the seeds of the parameters differ.
        size: Height and width of the frames in pixels.
        limit: Steps of an episode; None = MobileGym's limit for the task.

    Raises:
        UserError: If MobileGym has no such task.
    """

    def __init__(self, server: str, task: str, split: str, size: tuple[int, int], limit: int | None) -> None:
        from bench_env.env import MobileGymEnv
        from bench_env.task import TaskRegistry

        try:
            self._type = TaskRegistry().get_by_id(task)
        except ValueError as error:
            raise UserError(f"task_id={task!r}: {error}") from error
        self._split, self._size, self._limit = split, size, limit
        self._loop = asyncio.new_event_loop()
        self._env = MobileGymEnv(
            url=server, headless=True, coord_space="norm_0_1", viewport_size=VIEWPORT, verbose=False
        )
        self._task: Any = None
        self._run(self._env.start())

    def reset(self) -> None:
        """Do nothing: `begin` resets the phone."""

    def begin(self, seed: int) -> tuple[str, int]:
        """Set up the task with the parameters of a seed.

        Args:
            seed: The seed of the episode.

        Returns:
            The instruction and the step limit.
        """
        from bench_env.config import RunnerConfig
        from bench_env.runner.base import Controller

        self._task = self._type(_seed=parameter_seed(self._split, seed))
        self._first, _ = self._run(Controller.setup(self._env, self._task, eval_mode=ANSWERS))
        self._last = self._first
        config = RunnerConfig(agent="pr2l", model_name="pr2l", eval_mode=ANSWERS)
        return self._task.description, self._limit or config.get_max_steps(self._task)

    def perform(self, action: ScreenAction) -> None:
        """Perform an action; nothing happens before the first episode.

        Args:
            action: The action.
        """
        from bench_env.env import Action, ActionType

        if self._task is not None:
            name, data = mobilegym_action(action)
            self._last = self._run(self._env.step(Action(ActionType[name], data))).observation

    def frame(self) -> np.ndarray:
        """Return the screen, uint8 [H, W, 3]."""
        from PIL import Image

        image = Image.open(io.BytesIO(self._last.get_screenshot_bytes())).convert("RGB")
        return resize(np.array(image), self._size)

    def score(self, end: ScreenAction | None) -> float:
        """Return 1 if the agent has declared the end of a task that is done, without side effects, else 0.

        Args:
            end: The action with which the agent has declared the end; None = it has not. MobileGym counts no success
                if the agent gives up.
        """
        from bench_env.runner.base import Evaluator

        if end is None or end.type == "impossible":
            return 0.0
        apps = list(self._task.apps) or None
        last = replace(self._last, state=self._run(self._env.get_state(required_apps=apps)))
        evaluator = Evaluator(judge_mode="state", eval_mode=ANSWERS)
        outcome = SimpleNamespace(agent_answer=self._env.agent_answer)
        return float(self._run(evaluator.evaluate(self._task, self._first, last, outcome)).passed)

    def end(self) -> None:
        """Clean up after the episode, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.teardown(self._env)

    def load_snapshot(self, name: str) -> None:
        """Raise RuntimeError, because this is not an emulator."""
        raise RuntimeError(f"MobileGym has no snapshot {name!r}")

    def close(self) -> None:
        """Close the browser."""
        self._run(self._env.close())
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)


def mobilegym_action(action: ScreenAction) -> tuple[str, dict[str, Any]]:
    """Return the name of MobileGym's action type and its data, with points as fractions of the screen.

    Args:
        action: The action.
    """
    point = [action.x, action.y]
    table: dict[str, tuple[str, dict[str, Any]]] = {
        "tap": ("CLICK", {"point": point}),
        "long_press": ("LONG_PRESS", {"point": point}),
        "swipe": ("SWIPE", {"point1": point, "point2": [action.to_x, action.to_y]}),
        "type": ("TYPE", {"value": action.text}),
        "back": ("BACK", {}),
        "home": ("HOME", {}),
        "enter": ("ENTER", {}),
        "answer": ("ANSWER", {"value": action.text}),
        "complete": ("COMPLETE", {"return": ""}),
        "impossible": ("ABORT", {"value": ""}),
    }
    return table[action.type]
