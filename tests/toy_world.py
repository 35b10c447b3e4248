"""A world that a policy learns in seconds: do the action that the frame's colour stands for, until the episode ends.

Written as a plug-in, so that tests can run whole programs in it. Each right action is worth 1; an episode lasts
4 to 7 steps (of its seed), so environments fall out of step; success is an episode without a mistake.
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

    hang_at: int = 0  # the engine's lifetime in steps, after which it dies; 0 = for ever
    nan_at: int = 0  # the step whose reward is NaN; 0 = none
    killed_every: int = 0  # steps between two kills of its whole process, on average; 0 = never


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
        return self._look(), self._info()

    def step(self, action):
        self.steps += 1
        held = self.steps == int(os.environ.get("TOY_HOLD", 0))  # a step that never ends, as has each of TOY_DELAY
        time.sleep(10_000 if held else float(os.environ.get("TOY_DELAY", 0)))  # seconds
        if self.options.killed_every and random.random() < 1 / self.options.killed_every:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == self.options.hang_at:
            raise RuntimeError("the toy engine has died")
        reward = float(action == self.colour)
        self.faultless &= bool(reward)
        self.time += 1
        reward = float("nan") if self.steps == self.options.nan_at else reward
        return self._look(), reward, False, self.time == self.horizon, self._info()

    def close(self):
        Colours.open_engines -= self.engine
        self.engine = False

    def _look(self):
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


class EndedTwice(gym.Wrapper):
    """The last step of each episode is its own end and that of its time at once."""

    def step(self, action):
        shown, reward, _, last, info = self.env.step(action)
        return shown, reward, last, last, info
