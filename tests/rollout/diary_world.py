"""Environment whose frames tell the episode and the step, importable without torch for worker processes."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pr2l.rollout.episodes import SeededEpisodes


class DiaryWorld(gym.Env):
    """Environment whose pixels are 10 * episode + step, and whose context is the episode; it lasts `length` steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, length=2, truncated=False, proprio=True):
        self.length, self.truncated, self.episode = length, truncated, -1
        parts = {"frame": spaces.Box(0, 255, (4, 4, 3), np.uint8)}
        if proprio:
            parts["proprio"] = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        self.episode, self.time = self.episode + 1, 0
        return self._observation()

    def step(self, action):
        self.time += 1
        done = self.time == self.length
        observation, info = self._observation()
        return observation, 1.0, done and not self.truncated, done and self.truncated, info

    def _observation(self):
        frame = np.full((4, 4, 3), 10 * self.episode + self.time, np.uint8)
        info = {"context": {"target": str(self.episode)}, "success": False, "labels": [{}] * self.time}
        observation = {"frame": frame, "proprio": np.array([self.time / 10, self.episode / 10], np.float32)}
        return {key: observation[key] for key in self.observation_space}, info


def seeded_diary(length, record=False):
    return SeededEpisodes(DiaryWorld(length), seed_of=lambda number: number, record=record)
