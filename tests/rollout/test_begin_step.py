"""Environments that begin their steps before the first of them is finished."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import gymnasium as gym
import numpy as np
import pytest
import toy_world

from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.in_process import InProcessVecEnv

ENVS = 3


class Beginning(toy_world.Colours):
    """World whose steps pass a barrier: they end only if all environments have begun theirs."""

    barrier = threading.Barrier(ENVS)

    def __init__(self):
        super().__init__(toy_world.Defaults(), "train", False)
        self.begun = []
        self.threads = ThreadPoolExecutor(1)

    def begin_step(self, action):
        self.begun.append(action)
        self.waiting = self.threads.submit(self.barrier.wait, timeout=20)

    def step(self, action):
        if self.begun:
            assert self.begun[-1] == action
            self.waiting.result()
        return super().step(action)

    def close(self):
        self.threads.shutdown()


def episodes(wrap=lambda env: env):
    return SeededEpisodes(wrap(Beginning()), lambda number: number)


def test_all_environments_work_at_once():
    with closing(InProcessVecEnv([episodes] * ENVS)) as venv:
        venv.reset()
        for step in range(8):  # beyond the ends of episodes
            venv.step(np.array([0, step % 3, 2]))
        assert [env.unwrapped.begun for env in venv.envs] == [[0] * 8, [step % 3 for step in range(8)], [2] * 8]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: gym.wrappers.TransformAction(env, lambda action: 2 - action, env.action_space),
        lambda env: gym.wrappers.TimeLimit(env, 3),
    ],
)
def test_wrapped_environments_do_not_begin_early(wrap):
    with closing(InProcessVecEnv([lambda: episodes(wrap)] * ENVS)) as venv:
        venv.reset()
        venv.step(np.zeros(ENVS, int))
        assert [env.unwrapped.begun for env in venv.envs] == [[]] * ENVS


def test_environments_without_the_method_are_stepped():
    env = SeededEpisodes(toy_world.Colours(toy_world.Defaults(), "train", False), lambda number: number)
    with closing(InProcessVecEnv([lambda: env])) as venv:
        venv.reset()
        venv.step(np.zeros(1, int))
        assert env.unwrapped.steps == 1
