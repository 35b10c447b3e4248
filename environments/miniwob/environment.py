"""MiniWoB++: small web pages with an instruction, played by touch in headless Chromium.

Every episode has a fresh page, because pages keep traces of the episode before. The page's time passes only in steps,
so that the seed and the actions determine every pixel. Observation: `frame` uint8 [H, W, 3] RGB, with the instruction
in its yellow part; `info["context"]` has the instruction as "goal". The page ends an episode, by a right or a wrong
answer; back, home, answer, complete and impossible only let time pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from .. import base
from ..base import UserError
from ..browser import BrowserOptions, Page, PageFailure, PageSpec, Pool, shared_pool
from ..common import drawing
from ..common.screen_action_space import Actions, ScreenActionSpace, TextActions, text_of
from ..common.screen_actions import MalformedAction, ScreenAction, format
from . import oracles, pages
from .tasks import TASKS, Task

SPLITS = ("train", "evaluation")


class Defaults(BaseModel):
    """Options of the MiniWoB++ environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: float = Field(default=1.0, ge=0.5, le=4.0)  # frame pixels per pixel of the page, which is 160 wide, 210 high
    actions: Literal["heads", "text"] = "heads"  # heads = six numbers (ScreenActionSpace); text = what a VLM writes
    grid: tuple[PositiveInt, PositiveInt] = (14, 10)  # rows and columns of the cells that heads can touch
    horizon: PositiveInt | None = None  # steps of an episode; None = the task's
    step_ms: PositiveInt = 200  # milliseconds of the page's time in one step
    raw_reward: bool = False  # the page's reward, -1 to 1, instead of 1 for a success
    browsers: PositiveInt = 1  # Chromium processes of this Python process, which its environments share
    timeout: float = Field(default=20.0, gt=0)  # seconds for a page to answer; then it is replaced and the episode cut


def kinds(task: str) -> tuple[str, ...]:
    """Return no names: those of `info["labels"]` are the texts on the screen.

    Args:
        task: A key of TASKS.
    """
    base.row(TASKS, task, "miniwob")
    return ()


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> MiniwobEnv:
    """Make the environment of a task; the browser starts at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The split of the seeds.
        labels: Whether `info["labels"]` has the visible elements of the page.

    Raises:
        UserError: If the task or the split is unknown, or the pages are not installed.
    """
    return MiniwobEnv(task, base.row(TASKS, task, "miniwob"), options or Defaults(), split=split, labels=labels)


def action_text(action: Any, context: Mapping[str, str], options: Defaults) -> str:
    """Return the text form of a recorded action; "" = it was malformed and did nothing.

    Args:
        action: An element of the action space.
        context: The context of the observation.
        options: The options of the recorded environment.
    """
    return text_of(action, actions_of(options), context["goal"])


def actions_of(options: Defaults) -> Actions:
    """Return the space of the actions."""
    if options.actions == "text":
        return TextActions()
    return ScreenActionSpace(rows=options.grid[0], columns=options.grid[1])


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], Any]:
    """Return the scripted solution of a task.

    Args:
        task: A key of ORACLES.

    Returns:
        A function from the environment to the next action.

    Raises:
        UserError: If the task has none.
    """
    script = base.row(oracles.ORACLES, task, "miniwob with an oracle")

    def act(env: gym.Env[Any, Any]) -> Any:
        miniwob = env.unwrapped
        if not isinstance(miniwob, MiniwobEnv):
            raise UserError(f"the oracle needs MiniWoB++ in this process, not {miniwob}")
        return miniwob.encode(ScreenAction(**miniwob.evaluate(oracles.call(script, miniwob.goal))))

    return act


class MiniwobEnv(gym.Env[dict[str, Any], Any]):
    """Gymnasium environment of one page of MiniWoB++.

    `info` at reset and at every step:
        context: {"goal": the instruction}.
        success: bool, whether the page has given its full reward.
        measures: {"malformed_actions": their number in this episode, "raw_reward": the page's reward so far}.
        action: str, the text form of the last action; "" at reset and after a malformed one.
        labels: Only with labels=True: list of {"name", "box": (x0, y0, x1, y1) in pixels of the frame, "distance": 0}.
        cut: Only if the page has failed: why; the episode is truncated then.

    Args:
        name: The name of the task, which is that of its page.
        task: The row of TASKS.
        options: The options of the environment.
        split: "train" or "evaluation".
        labels: Whether to add labels to `info`.

    Raises:
        UserError: If the split is unknown or the pages are not installed.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}
    render_mode = "rgb_array"

    def __init__(self, name: str, task: Task, options: Defaults, *, split: str, labels: bool) -> None:
        if split not in SPLITS:
            raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
        self.name, self.options, self._split, self._labels = name, options, split, labels
        self.horizon = options.horizon or task.horizon
        self.goal = ""
        self._spec = PageSpec(
            url=(pages.folder() / f"{name}.html").as_uri(),
            width=pages.WIDTH,
            height=pages.HEIGHT,
            scale=options.scale,
            step_ms=options.step_ms,
            frame_ms=100,
            settle_ms=100,
            init_scripts=(pages.INIT,),
            state=pages.STATE,
        )
        self._pool: Pool | None = None
        self._page: Page | None = None
        self._begun = False
        self._action: ScreenAction | None = None
        self._actions = actions_of(options)
        self.action_space = self._actions.space
        size = round(pages.HEIGHT * options.scale), round(pages.WIDTH * options.scale)
        self.observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (*size, 3), np.uint8))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode in a fresh page.

        Args:
            seed: The seed of the episode, 0 or more; None = draw one from the generator of the previous seed.
            options: Not used.

        Raises:
            UserError: If Chromium is not installed or does not start.
        """
        self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=self._seed)
        self._steps = self._malformed = 0
        self._begun, self._action = False, None
        self._start()
        return {"frame": self._frame}, self._info(done=False, reward=0.0)

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish.

        Args:
            action: A row of the action space, or a text.
        """
        self._action = self._decode(action)
        self._running().begin(self._action)
        self._begun = True

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        page = self._running()
        if not self._begun:
            self.begin_step(action)
        self._begun = False
        self._steps += 1
        try:
            self._frame = page.finish()
            done, raw_reward = page.state
            info = self._info(done, raw_reward)
        except PageFailure as failure:
            return {"frame": self._frame}, 0.0, False, True, {**self._info(False, 0.0, False), "cut": str(failure)}
        reward = raw_reward if self.options.raw_reward else float(info["success"])
        return {"frame": self._frame}, float(reward), bool(done), self._steps >= self.horizon and not done, info

    def encode(self, action: ScreenAction) -> Any:
        """Return an action as an element of the action space.

        Raises:
            UnsupportedAction: If the space cannot express it.
        """
        return self._actions.encode(action, self.goal)

    def evaluate(self, script: str) -> Any:
        """Return the JSON value of a JavaScript expression in the page, for oracles."""
        return self._running().evaluate(script)

    def draw_action(self, frame: NDArray[np.uint8], action: Any) -> NDArray[np.uint8]:
        """Return a frame with an action drawn on it.

        Args:
            frame: uint8 [H, W, 3].
            action: An element of the action space.
        """
        return drawing.draw(frame, text_of(action, self._actions, self.goal) or str(action))

    def render(self) -> NDArray[np.uint8]:
        """Return the current frame, uint8 [H, W, 3]."""
        return self._frame

    def close(self) -> None:
        """Close the page, and the browser if no other environment uses it; a later reset starts a new one."""
        self._close_page()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _start(self) -> None:
        """Start the episode in a fresh page."""
        self._close_page()
        if self._pool is None:
            self._pool = shared_pool(BrowserOptions(browsers=self.options.browsers, timeout=self.options.timeout))
        self._page, (self.goal, self._frame) = self._pool.start(self._spec, self._begin)

    def _begin(self, page: Page) -> tuple[str, NDArray[np.uint8]]:
        """Begin the episode in a page and return its instruction and the first frame."""
        return page.evaluate(pages.start(self._split, self._seed)), page.advance(100)

    def _close_page(self) -> None:
        if self._page is not None:
            self._page.close()
            self._page = None

    def _running(self) -> Page:
        if self._page is None:
            raise UserError("the environment has no episode; call reset first")
        return self._page

    def _decode(self, action: Any) -> ScreenAction | None:
        """Return an action for the page, or None, after counting it, if it is malformed."""
        try:
            return self._actions.decode(action, self.goal)
        except MalformedAction:
            self._malformed += 1
            return None

    def _info(self, done: bool, reward: float, labels: bool = True) -> dict[str, Any]:
        info = {
            "context": {"goal": self.goal},
            "success": bool(done and reward >= 1),
            "measures": {"malformed_actions": self._malformed, "raw_reward": float(reward)},
            "action": format(self._action) if self._action else "",
        }
        if self._labels:
            info["labels"] = self._elements() if labels else []
        return info

    def _elements(self) -> list[dict[str, Any]]:
        scale = self.options.scale
        return [
            {"name": row["name"], "box": tuple(round(side * scale) for side in row["box"]), "distance": 0.0}
            for row in self._running().evaluate(pages.ELEMENTS)
        ]
