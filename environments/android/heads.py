"""Actions as six numbers, for policies with heads, in front of an environment whose actions are texts."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from ..common.screen_action_space import ScreenActionSpace
from ..common.screen_actions import MalformedAction, format


class Heads(gym.Wrapper[dict[str, Any], Any, dict[str, Any], Any]):
    """Wrapper whose actions are rows of a ScreenActionSpace; a text is a part of the instruction.

    Args:
        env: An environment whose actions are texts and whose `info["context"]` has the instruction as "goal".
        actions: The space.
    """

    def __init__(self, env: gym.Env[dict[str, Any], Any], actions: ScreenActionSpace) -> None:
        super().__init__(env)
        self._actions = actions
        self._goal = ""
        self.action_space = actions.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = info["context"]["goal"]
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            text = format(self._actions.decode(action, self._goal))
        except MalformedAction as error:
            text = f"malformed: {error}"  # the environment counts it
        return self.env.step(text)
