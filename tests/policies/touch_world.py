"""A screen of four cells whose tokens show what to do: tap the marked cell on each page, then go back.

    page      0 .. pages - 1   tap the cell whose token has 1 in place 0
    page      pages            go back; all tokens have 1 in place 1

Actions are MultiDiscrete [2 types, 4 cells]: tap(cell) and back, which ignores the cell. A right action leads to the
next page; a wrong one changes nothing. The right last action ends the episode with a reward of 1, and a limit of
`horizon` steps ends it without. A random action is right with probability 1/8 on a page, and 1/2 on the last.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from token_world import token_space

from pr2l.policies.base import Trajectory

CELLS, WIDTH = 4, 8
TAP, BACK = 0, 1
FACTORS_OF_TYPE = ((1,), ())


class TouchWorld(gym.Env):
    def __init__(self, pages: int = 1, horizon: int = 4):
        self.pages, self.horizon = pages, horizon
        self.action_space = spaces.MultiDiscrete([2, CELLS])
        self.observation_space = token_space(CELLS, WIDTH, proprio=None)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = self.page = 0
        return self._observe(), {}

    def step(self, action):
        self.time += 1
        done = self.page == self.pages and action[0] == BACK
        if done:
            return self._observation, 1.0, True, False, {}
        if self.page < self.pages and tuple(action) == (TAP, self.marked):
            self.page += 1
            self._observe()
        return self._observation, 0.0, False, self.time == self.horizon, {}

    def _observe(self):
        self.marked = int(self.np_random.integers(CELLS))
        self._observation = observation(self.marked if self.page < self.pages else None)
        return self._observation


def observation(marked: int | None) -> dict[str, np.ndarray]:
    """Return the observation of a page with a marked cell; None = the last page."""
    tokens = np.zeros((CELLS, WIDTH), np.float16)
    tokens[slice(None) if marked is None else marked, int(marked is None)] = 1
    return {"tokens": tokens, "mask": np.ones(CELLS, np.uint8)}


def touch_worlds(count: int = 4, **options) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(TouchWorld(**options))] * count)


def all_pages() -> dict[str, np.ndarray]:
    """Return the five different observations: a mark on each of the four cells, and the last page."""
    pages = [observation(marked) for marked in (0, 1, 2, 3, None)]
    return {key: np.stack([page[key] for page in pages]) for key in pages[0]}


def all_right(actions: np.ndarray) -> bool:
    """Return whether actions are right on `all_pages`."""
    return actions[:4].tolist() == [[TAP, cell] for cell in range(CELLS)] and actions[4, 0] == BACK


def random_episodes(count: int, gamma: float = 0.5, **options) -> list[Trajectory]:
    """Return episodes of random actions."""
    world, random = TouchWorld(**options), np.random.default_rng(0)
    return [random_episode(world, random, gamma, seed) for seed in range(count)]


def random_episode(world: TouchWorld, random: np.random.Generator, gamma: float, seed: int) -> Trajectory:
    observations, steps, over = [world.reset(seed=seed)[0]], [], False
    while not over:
        action = [random.integers(2), random.integers(CELLS)]
        observation, reward, terminated, truncated, _ = world.step(action)
        observations.append(observation)
        steps.append((action, reward, terminated, truncated))
        over = terminated or truncated
    actions, rewards, terminated, truncated = (torch.tensor(np.array(column)) for column in zip(*steps, strict=True))
    to_end = torch.arange(len(steps) - 1, -1, -1)
    return Trajectory(
        observations={
            "tokens": torch.tensor(np.stack([entry["tokens"] for entry in observations])),
            "mask": torch.tensor(np.stack([entry["mask"] for entry in observations])).bool(),
        },
        actions=actions,
        rewards=rewards.float(),
        terminated=terminated,
        truncated=truncated,
        monte_carlo_returns=(rewards[-1] * gamma**to_end).float(),
        discounts=(gamma * ~terminated).float(),
        expert_actions=actions,
    )


def every_step(gamma: float) -> list[Trajectory]:
    """Return one-step trajectories of every action on all five pages, as frequent as random actions play them."""
    pages = [observation(marked) for marked in (0, 1, 2, 3, None)]
    steps = []
    for number, page in enumerate(pages):
        for action in [(kind, cell) for kind in (TAP, BACK) for cell in range(CELLS)]:
            right = action == (TAP, number) or (number == CELLS and action[0] == BACK)
            done = torch.tensor([number == CELLS and right])
            after = pages[CELLS] if right else page
            steps.append(
                Trajectory(
                    observations={key: torch.tensor(np.stack([page[key], after[key]])) for key in page},
                    actions=torch.tensor([action]),
                    rewards=done.float(),
                    terminated=done,
                    truncated=~done,
                    monte_carlo_returns=done.float(),
                    discounts=gamma * (~done).float(),
                    expert_actions=torch.tensor([action]),
                )
            )
    return steps
