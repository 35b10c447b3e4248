"""Actions of policies in front of an isolated phone, whose own actions are texts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from ..common.drawing import draw
from ..common.screen_action_space import Actions, text_of
from ..isolation.isolated import Isolated


class ScreenActions(gym.Wrapper[dict[str, Any], Any, dict[str, Any], Any]):
    """Wrapper that turns actions into texts, and draws them.

    `info` gets "action": the text form of the last action; "" at reset and after a malformed one.

    Args:
        env: An environment whose actions are texts and whose `info["context"]` has the instruction as "goal".
        actions: The space of the actions; texts to type are parts of the instruction if it has heads.
    """

    def __init__(self, env: Isolated, actions: Actions) -> None:
        super().__init__(env)
        self._isolated, self._actions, self._goal = env, actions, ""
        self.action_space = actions.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = info["context"]["goal"]
        return observation, {**info, "action": ""}

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish.

        Args:
            action: Element of the action space.
        """
        self._isolated.begin_step(self.text(action) or str(action))

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        text = self.text(action)
        # A malformed action is counted there.
        observation, reward, terminated, truncated, info = self.env.step(text or str(action))
        return observation, reward, terminated, truncated, {**info, "action": text}

    def draw_action(self, frame: npt.NDArray[np.uint8], action: Any) -> npt.NDArray[np.uint8]:
        """Return a frame with an action drawn on it.

        Args:
            frame: uint8 [H, W, 3].
            action: Element of the action space.
        """
        return draw(frame, self.text(action) or str(action))

    def text(self, action: Any) -> str:
        """Return the text form of an action; "" = it is malformed.

        Args:
            action: Element of the action space.
        """
        return text_of(action, self._actions, self._goal)
