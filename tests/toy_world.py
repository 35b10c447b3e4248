"""Environment plug-in that a policy learns in seconds: the frame's colour is the right action.

The reward is 1 for each right action. An episode lasts 4 to 7 steps, depending on its seed, so that parallel episodes
end at different times. An episode without a wrong action is a success.

Environment variables: TOY_DELAY is the duration of a step in seconds, and step number TOY_HANG_AT never ends.
"""

import os
import random
import signal
import time

import gymnasium as gym
import numpy as np
from pydantic import BaseModel, ConfigDict


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    crash_at: int = 0  # the step, counted over all episodes, that raises RuntimeError; 0 = none
    nan_at: int = 0  # the step, counted over all episodes, whose reward is NaN; 0 = none
    kill_every: int = 0  # mean number of steps between two kills of its own process; 0 = never


class Task:
    id, prompt, horizon = "colours", None, 7
    reward = success = "every action is the one that the colour stands for"
    contexts = ({"target": "left"}, {"target": "right"})


TASKS = {"colours": Task()}
NEAR = 4.0


def kinds(task):
    return ("patch",)


def oracle(task):
    return lambda env: env.unwrapped.colour


def make(task, options=None, *, split="train", labels=False):
    return Colours(options or Defaults(), split, labels)


class Colours(gym.Env):
    metadata = {"render_fps": 5}
    open_engines = 0

    def __init__(self, options, split, labels):
        self.options, self.split, self.labels, self.steps, self.engine = options, split, labels, 0, False
        self.action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Dict(
            frame=gym.spaces.Box(0, 255, (6, 8, 3), np.uint8),
            proprio=gym.spaces.Box(0, 1, (2,), np.float32),
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Colours.open_engines += not self.engine
        self.engine, self.time, self.faultless = True, 0, True
        self.horizon = int(self.np_random.integers(4, 8))
        self.target = int(self.np_random.integers(2))
        return self._observation(), self._info()

    def step(self, action):
        self.steps += 1
        hangs = self.steps == int(os.environ.get("TOY_HANG_AT", 0))
        time.sleep(10_000 if hangs else float(os.environ.get("TOY_DELAY", 0)))
        if self.options.kill_every and random.random() < 1 / self.options.kill_every:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == self.options.crash_at:
            raise RuntimeError("the toy engine has died")
        reward = float(action == self.colour)
        self.faultless &= bool(reward)
        self.time += 1
        reward = float("nan") if self.steps == self.options.nan_at else reward
        return self._observation(), reward, False, self.time == self.horizon, self._info()

    def close(self):
        Colours.open_engines -= self.engine
        self.engine = False

    def _observation(self):
        self.colour = int(self.np_random.integers(3))
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[:, 4 * self.target : 4 * self.target + 4, self.colour] = 200
        return {"frame": frame, "proprio": np.eye(2, dtype=np.float32)[self.target]}

    def _info(self):
        info = {"context": {"target": ("left", "right")[self.target]}, "success": self.faultless}
        box = (4 * self.target, 0, 4 * self.target + 4, 6)
        info["measures"] = {"seconds": self.time / 2}
        if not self.labels:
            return info
        scene = {"room": "cellar", "kept": {"patch": True}}
        return info | {"labels": [{"name": "patch", "box": box, "distance": 1.0}], "scene": scene}


class TerminatedAndTruncated(gym.Wrapper):
    """The last step of each episode is terminated and truncated at once."""

    def step(self, action):
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, truncated, truncated, info
