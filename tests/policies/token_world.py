"""An environment with token observations and a known optimum: the first token is the one-hot right action.

A right action gives a reward of 1. The best return is `horizon`; that of random actions is horizon / num_actions.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv


class TokenWorld(gym.Env):
    def __init__(self, num_actions: int = 3, horizon: int = 4, tokens: int = 2, width: int = 8):
        self.num_actions, self.horizon = num_actions, horizon
        self.action_space = spaces.Discrete(num_actions)
        self.observation_space = token_space(tokens, width, proprio=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        reward = float(action == self.answer)
        self.time += 1
        return self._observe(), reward, False, self.time == self.horizon, {}

    def _observe(self):
        self.answer = int(self.np_random.integers(self.num_actions))
        observation = {key: np.zeros(space.shape, space.dtype) for key, space in self.observation_space.items()}
        observation["tokens"][0, self.answer] = 1
        observation["mask"][0] = 1
        observation["proprio"][0] = self.time / self.horizon
        return observation


def token_space(tokens: int, width: int, proprio: int | None) -> spaces.Dict:
    spaces_of = {
        "tokens": spaces.Box(-np.inf, np.inf, (tokens, width), np.float16),
        "mask": spaces.Box(0, 1, (tokens,), np.uint8),
    }
    if proprio:
        spaces_of["proprio"] = spaces.Box(-np.inf, np.inf, (proprio,), np.float32)
    return spaces.Dict(spaces_of)


def spaces_and_count(venv) -> tuple:
    """Return the first arguments of an algorithm's `create`."""
    return venv.observation_space, venv.action_space, venv.num_envs


def token_worlds(count: int = 4, **options) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(TokenWorld(**options))] * count)
