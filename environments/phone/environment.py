"""The phone as a Gymnasium environment: a page in Chromium, touches, and rewards from the phone's state.

The seed and the actions determine every pixel of an episode. An episode ends when the agent declares that the task is
complete or impossible, or answers a question; at the limit of steps of its template; or, with `end_on_success`, as soon
as the state says so.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .. import base
from ..base import UserError
from ..browser import BrowserOptions, Page, PageFailure, PageSpec, Pool, ScriptError, shared_pool
from ..common.drawing import draw
from ..common.screen_action_space import Actions, ScreenActionSpace, TextActions, text_of
from ..common.screen_actions import MalformedAction, ScreenAction, UnsupportedAction, format
from .episode import Episode, draw_episode
from .library import find
from .oracle import Script
from .splits import SplitBy, templates_of
from .state import APPS, Document
from .static_data import WEB
from .table import TASKS, Task
from .template import Template
from .user import Element, NotOnScreen, User

WIDTH, HEIGHT = 360, 640  # CSS pixels
ENDS = ("complete", "impossible", "answer")  # actions that end an episode
BUTTONS = {"back": "phone.back()", "home": "phone.home()"}


class Defaults(BaseModel):
    """Options of the phone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # heads = six choices (type, cell, offset, direction, words); text = the text form of actions, such as back()
    actions: Literal["heads", "text"] = "heads"
    screen_words: bool = False  # heads can also type words on the screen: those behind the instruction's words
    rows: int = Field(default=16, ge=1)  # of the grid of cells of heads
    columns: int = Field(default=9, ge=1)  # of the grid of cells of heads
    words: int = Field(default=48, ge=1)  # words at which a text of heads can start
    scale: float = Field(default=0.7, ge=0.5, le=4)  # frame pixels per CSS pixel of the screen of 360 x 640
    looks: Literal["fixed", "varied"] = "varied"  # varied = theme, font, wallpaper and places of icons are random
    end_on_success: bool = False  # end as soon as the state says success, as DigiRL does; else only when declared
    # ignore = complete() and impossible() do nothing, and end_on_success ends the episodes: most actions that end an
    # episode are too early while a policy explores
    declarations: Literal["end", "ignore"] = "end"
    split_by: SplitBy = "seed"  # what training and evaluation do not have in common; see splits.py
    templates: tuple[str, ...] = ()  # replace those of the task: names, or "module:Class" of one's own
    step_ms: int = Field(default=100, ge=10)  # virtual time of a step
    browsers: int = Field(default=1, ge=1)  # Chromium processes, which the environments of this process share
    pages: int = Field(default=64, ge=1)  # limit of environments of this process
    spare: int = Field(default=1, ge=0)  # pages opened ahead
    timeout: float = Field(default=10.0, gt=0)  # seconds for one command of a page; then the episode is cut

    @model_validator(mode="after")
    def success_can_end_the_episode(self) -> Defaults:
        if self.declarations == "ignore" and not self.end_on_success:
            raise ValueError("declarations=ignore needs end_on_success=true: otherwise no episode can succeed")
        return self


def kinds(task: str) -> tuple[str, ...]:
    """Return names of elements that can occur in `info["labels"]`: the icons of the apps.

    Most labels have other names, such as those of contacts, so no list of all names exists.

    Args:
        task: A key of TASKS.

    Raises:
        UserError: There is no such task.
    """
    _task(task)
    return tuple(f"launcher/{app}" for app in APPS)


def make(
    task: str,
    options: Defaults | None = None,
    *,
    split: Literal["train", "evaluation"] = "train",
    labels: bool = False,
) -> PhoneEnv:
    """Make the environment of a task; the browser starts at the first reset.

    Args:
        task: A key of TASKS.
        options: The options; None = Defaults().
        split: The side of the split that `options.split_by` names.
        labels: Whether to add `labels`, the elements on the screen, to `info`; this is slower.

    Raises:
        UserError: If the task, the split or a template is unknown, or the split has no template of the task.
    """
    options = options or Defaults()
    templates = {name: find(name) for name in options.templates} or _task(task).templates()
    return PhoneEnv(templates_of(templates, split, options.split_by), options, split=split, labels=labels)


def action_text(action: Any, context: Mapping[str, str], options: Defaults) -> str:
    """Return the text form of a recorded action; "" = it was malformed and did nothing.

    Args:
        action: An element of the action space.
        context: The context of the observation.
        options: The options of the recorded environment.

    Raises:
        UserError: If the text to type may be on the screen (screen_words), which is not recorded.
    """
    if options.screen_words and options.actions == "heads":
        raise UserError("texts of recorded actions need environment_options.screen_words=false")
    return text_of(action, actions_of(options), context["goal"])


def actions_of(options: Defaults) -> Actions:
    """Return the space of the actions."""
    if options.actions == "text":
        return TextActions()
    return ScreenActionSpace(rows=options.rows, columns=options.columns, words=options.words)


def oracle(task: str) -> Callable[[gym.Env[Any, Any]], Any]:
    """Return the scripted solution of a task.

    Args:
        task: A key of TASKS.

    Returns:
        A function from an environment to its next action. It warns and declares the task impossible if the script
        cannot go on: after actions of others have led it astray, or because heads cannot type a text that is not in the
        instruction (use actions="text").
    """
    _task(task)

    def act(env: gym.Env[Any, Any]) -> Any:
        phone = env.unwrapped
        if not isinstance(phone, PhoneEnv):
            raise UserError(f"the oracle needs the phone in this process, not {phone}; use call('oracle_action')")
        try:
            return phone.oracle_action()
        except (NotOnScreen, UnsupportedAction, StopIteration) as error:
            warnings.warn(f"the script of {phone.episode.name} cannot go on: {error}", stacklevel=2)
            return phone.element(ScreenAction("impossible"))

    return act


def _task(name: str) -> Task:
    return base.row(TASKS, name, "phone")


Observation: TypeAlias = dict[str, Any]


class PhoneEnv(gym.Env[Observation, Any]):
    """Gymnasium environment of the phone.

    `info` at reset and at every step:
        context: dict, {"goal": the instruction}.
        success: bool, whether the episode has ended with success.
        measures: dict of numbers: `malformed_actions` so far, and at the end of an episode `side_effects`, the number
            of changes that the task does not need, and `declared`, whether the agent has declared the end.
        side_effects: At the end of an episode: list of those changes as texts.
        action: str, the text form of the last action; "" at reset and after a malformed one.
        template: str, the name of the template.
        seed: int that determines the episode.
        labels: Only with labels=True: list of {"name", "box": (x0, y0, x1, y1) in pixels of the frame, "distance": 0.0,
            "role", "text", "value"}, the elements on the screen.
        cut: Only if the page has failed: the reason; the episode is truncated.

    Args:
        templates: The templates by name, from which each episode draws one.
        options: The options of the environment.
        split: "train" or "evaluation".
        labels: Whether to add the elements on the screen to `info`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}
    render_mode = "rgb_array"

    def __init__(
        self,
        templates: dict[str, type[Template]],
        options: Defaults,
        *,
        split: Literal["train", "evaluation"],
        labels: bool,
    ) -> None:
        self.templates, self.options, self._split, self._labels = templates, options, split, labels
        self._actions = actions_of(options)
        self.action_space = self._actions.space
        shape = round(HEIGHT * options.scale), round(WIDTH * options.scale), 3
        self.observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, shape, np.uint8))
        url = (WEB / "index.html").as_uri()
        # A phone without a state stands still at once, so that its frames do not depend on when it gets the state.
        self._spec = PageSpec(url, WIDTH, HEIGHT, scale=options.scale, step_ms=options.step_ms, settle_ms=100)
        self._pool: Pool | None = None
        self._page: Page | None = None
        self._action: ScreenAction | None = None
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: The seed of the episode, 0 or more; None = draw one from the generator of the previous seed.
            options: Not used.
        """
        self._seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=self._seed)
        self.episode = draw_episode(
            self.templates,
            self._seed,
            split=self._split,
            by=self.options.split_by,
            varied=self.options.looks == "varied",
        )
        self._steps, self._malformed, self._begun, self._failure, self._action = 0, 0, False, "", None
        self._script: Script | None = None
        self._open(self.episode)
        return {"frame": self._frame}, self._info()

    def begin_step(self, action: Any) -> None:
        """Start a step without waiting for it, so that several pages work at the same time; `step` waits.

        Args:
            action: The action, as for `step`.
        """
        page = self._opened()
        self._action, self._begun = self._decoded(action), True
        if self._declares():
            return
        try:
            if self._action is not None and self._action.type in BUTTONS:
                page.evaluate(BUTTONS[self._action.type])
            page.begin(self._action)
        except (PageFailure, ScriptError) as failure:
            self._failure = str(failure)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        if not self._begun:
            self.begin_step(action)
        self._begun = False
        self._steps += 1
        declared = self._declares()
        self._finish(declared)
        success = not self._failure and self._succeeded(declared)
        terminated = not self._failure and (declared or success)
        truncated = not terminated and (bool(self._failure) or self._at_limit())
        info = self._info()
        info["success"] = success
        if terminated or truncated:
            self._add_outcome(info, declared)
        return {"frame": self._frame}, float(success), terminated, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """Return the current frame, uint8 [H, W, 3]."""
        self._opened()
        return self._frame

    def draw_action(self, frame: NDArray[np.uint8], action: Any) -> NDArray[np.uint8]:
        """Draw an action on a frame, for videos.

        Args:
            frame: uint8 [H, W, 3], on which the action is taken.
            action: An element of the action space.
        """
        return draw(frame, text_of(action, self._actions, self._instruction()) or str(action))

    def close(self) -> None:
        """Close the page; a later reset opens a new one."""
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def elements(self) -> list[Element]:
        """Return what is on the screen: elements that can be touched, and texts, with boxes in CSS pixels."""
        rows = self._opened().evaluate("phone.elements()")
        return [Element(**{**row, "box": tuple(row["box"])}) for row in rows]

    def state(self) -> Document:
        """Return the phone's state, see state.py."""
        state: Document = self._opened().evaluate("phone.getState()")
        return state

    def oracle_action(self) -> Any:
        """Return the next action of the template's script, as an element of the action space.

        Raises:
            NotOnScreen: The script does not find an element.
            UnsupportedAction: Heads cannot type a text of the script.
            StopIteration: The script has ended.
        """
        if self._script is None:
            self._script = Script(self.episode.task, User(self.elements, WIDTH, HEIGHT))
        return self.element(self._script.next_action())

    def element(self, action: ScreenAction) -> Any:
        """Return an action as an element of the action space.

        Args:
            action: The action.

        Raises:
            UnsupportedAction: Heads cannot type its text, which is not in the instruction.
        """
        return self._actions.encode(action, self._instruction())

    def _open(self, episode: Episode) -> None:
        """Show the state at the start on a fresh page."""
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._pool is None:
            options = self.options
            self._pool = shared_pool(
                BrowserOptions(options.browsers, options.pages, options.spare, timeout=options.timeout)
            )
        self._page, (self._frame, self._before) = self._pool.start(self._spec, partial(self._show, episode.before))

    def _show(self, state: Document, page: Page) -> tuple[NDArray[np.uint8], Document]:
        """Show a state on a fresh page, and return the frame and the state as the page writes it."""
        page.evaluate(f"phone.setState({json.dumps(state)})")
        return page.advance(self.options.step_ms), page.evaluate("phone.getState()")

    def _opened(self) -> Page:
        if self._page is None:
            raise RuntimeError("no episode is running; call reset() first")
        return self._page

    def _decoded(self, action: Any) -> ScreenAction | None:
        """Return the action to take, None for a malformed one, which does nothing and is counted."""
        try:
            return self._actions.decode(action, self._instruction())
        except MalformedAction:
            self._malformed += 1
            return None

    def _declares(self) -> bool:
        """Return whether the action of the step ends the episode."""
        task = self.episode.task
        ignored = self.options.declarations == "ignore" and task.answer is None and not task.verify
        return self._action is not None and self._action.type in ENDS and not ignored

    def _instruction(self) -> str:
        """Return the text of which heads type a part."""
        goal = self.episode.task.goal
        if not self.options.screen_words or self.options.actions == "text":
            return goal
        return "\n".join([goal, *(element.text for element in self.elements() if element.text)])

    def _finish(self, declared: bool) -> None:
        """Wait for the step that runs, if one does, and read the state if the episode may end."""
        if self._failure:
            return
        try:
            if not declared:
                self._frame = self._opened().finish()
            if declared or self._ends_on_success() or self._at_limit():
                self._after = self.state()
        except (PageFailure, ScriptError) as failure:
            self._failure = str(failure)

    def _at_limit(self) -> bool:
        return self._steps >= self.episode.task.step_limit()

    def _ends_on_success(self) -> bool:
        return self.options.end_on_success and not self.episode.task.verify

    def _succeeded(self, declared: bool) -> bool:
        task = self.episode.task
        if declared and self._action is not None and self._action.type != "impossible":
            return task.success(self._before, self._after, self._action.text)
        return self._ends_on_success() and task.success(self._before, self._after)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "context": {"goal": self.episode.task.goal},
            "success": False,
            "measures": {"malformed_actions": self._malformed},
            "action": format(self._action) if self._action else "",
            "template": self.episode.name,
            "seed": self._seed,
        }
        if self._failure:
            info["cut"] = self._failure
        if self._labels:
            info["labels"] = [] if self._failure else self._label_rows()
        return info

    def _add_outcome(self, info: dict[str, Any], declared: bool) -> None:
        """Add what is known at the end of an episode to its last info."""
        changes = [] if self._failure else self.episode.task.side_effects(self._before, self._after)
        info["side_effects"] = [str(change) for change in changes]
        info["measures"] |= {"side_effects": len(changes), "declared": declared}

    def _label_rows(self) -> list[dict[str, Any]]:
        scale = self.options.scale
        return [
            {
                "name": element.name,
                "box": tuple(scale * side for side in element.box),
                "distance": 0.0,
                "role": element.role,
                "text": element.text,
                "value": element.value,
            }
            for element in self.elements()
        ]
