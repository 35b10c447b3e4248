"""Environments that do not follow pr2l's contract, importable without torch for worker processes."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Pictures(gym.Env):
    """Observations are images with the number of the step; infos are empty. Episodes last 3 steps."""

    observation_space = spaces.Box(0, 255, (4, 5, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, brightness=1):
        self.brightness = brightness

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        self.time += 1
        return self._observation(), float(action), self.time == 3, False, {}

    def _observation(self):
        return np.full((4, 5, 3), self.brightness * self.time, np.uint8)


class Missions(Pictures):
    """Observations are dicts of an image, a direction and a text, as in MiniGrid."""

    contexts = ({"target": "key"}, {"target": "door"})
    observation_space = spaces.Dict(
        image=Pictures.observation_space, direction=spaces.Box(0, 3, (), np.float64), mission=spaces.Text(20)
    )

    def _observation(self):
        return {"image": super()._observation(), "direction": np.array(2.0), "mission": "the key"}


class Places(Pictures):
    """Observations are dicts whose parts a VecEnv can stack."""

    observation_space = spaces.Dict(image=Pictures.observation_space, place=spaces.Box(0, 9, (1, 2), np.float64))

    def _observation(self):
        return {"image": super()._observation(), "place": np.full((1, 2), self.time)}


class Arm(Pictures):
    """Observations have a front camera, with the number of the step, and a wrist camera, with ten times that."""

    contexts = ({},)
    observation_space = spaces.Dict(
        front=spaces.Box(0, 255, (6, 8, 3), np.uint8),
        wrist=spaces.Box(0, 255, (6, 8, 3), np.uint8),
        small=spaces.Box(0, 255, (3, 4, 3), np.uint8),
    )

    def _observation(self):
        values = {"front": self.time, "wrist": 10 * self.time, "small": 0}
        return {key: np.full(self.observation_space[key].shape, value, np.uint8) for key, value in values.items()}
