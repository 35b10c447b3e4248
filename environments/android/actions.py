"""Actions of policies in front of an isolated phone, whose own actions are texts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from ..common.drawing import draw
from ..common.screen_action_space import ScreenActionSpace
from ..common.screen_actions import MalformedAction, format
from ..isolation.isolated import Isolated


class ScreenActions(gym.Wrapper[dict[str, Any], Any, dict[str, Any], Any]):
    """Wrapper that turns actions into texts, and draws them.

    Args:
        env: An environment whose actions are texts and whose `info["context"]` has the instruction as "goal".
        heads: The space of the actions, whose texts to type are parts of the instruction; None = actions are texts.
    """

    def __init__(self, env: Isolated, heads: ScreenActionSpace | None) -> None:
        super().__init__(env)
        self._isolated, self._heads, self._goal = env, heads, ""
        if heads is not None:
            self.action_space = heads.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = info["context"]["goal"]
        return observation, info

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish.

        Args:
            action: Element of the action space.
        """
        self._isolated.begin_step(self.text(action))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.env.step(self.text(action))

    def draw_action(self, frame: npt.NDArray[np.uint8], action: Any) -> npt.NDArray[np.uint8]:
        """Return a frame with an action drawn on it.

        Args:
            frame: uint8 [H, W, 3].
            action: Element of the action space.
        """
        return draw(frame, self.text(action))

    def text(self, action: Any) -> str:
        """Return the text form of an action; a text that is no action if it has none, which the environment counts.

        Args:
            action: Element of the action space.
        """
        if self._heads is None:
            return str(action)
        try:
            return format(self._heads.decode(action, self._goal))
        except MalformedAction as error:
            return f"malformed: {error}"
