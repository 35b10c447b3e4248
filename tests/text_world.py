"""Environment with two screens, for policies that write their actions: home() on the red one, back() on the blue one.

An episode begins on the red screen. home() there leads to the blue screen, and back() there is a success; any other
action changes nothing. After 4 steps the episode is truncated.
"""

from typing import Literal

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict

from pr2l.environments.common.screen_action_space import ActionText, TextActions, text_of

COLOURS = np.array([[220, 30, 30], [30, 60, 220]], np.uint8)  # of the two screens
RIGHT = ("home()", "back()")
SIDE, HORIZON = 16, 4


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: Literal["heads", "text"] = "text"


class Task:
    reward = success = "back() on the blue screen"
    prompt, horizon, contexts = None, HORIZON, None


TASKS = {"two": Task()}


def kinds(task):
    return ()


def make(task="two", options=None, *, split="train", labels=False):
    return TwoScreens(options or Defaults())


def action_text(action, context, options):
    return text_of(action, TextActions(), context["goal"])


def oracle(task):
    return lambda env: RIGHT[env.unwrapped.screen]


class TwoScreens(gym.Env):
    metadata = {"render_fps": 2}

    def __init__(self, options=None):
        heads = options is not None and options.actions == "heads"
        self.action_space = gym.spaces.Discrete(2) if heads else ActionText()
        self.observation_space = gym.spaces.Dict(frame=gym.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8))
        self.log = []  # all actions so far

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.screen = self.steps = 0
        return self._observation(), self._info(False)

    def step(self, action):
        self.log.append(action)
        self.steps += 1
        right = action == RIGHT[self.screen]
        success = right and self.screen == 1
        self.screen = 1 if right else self.screen
        return self._observation(), float(success), success, self.steps == HORIZON, self._info(success)

    def _observation(self):
        return {"frame": np.broadcast_to(COLOURS[self.screen], (SIDE, SIDE, 3)).copy()}

    def _info(self, success):
        return {"context": {"goal": "go"}, "success": bool(success)}
