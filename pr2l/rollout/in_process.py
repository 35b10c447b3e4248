"""Vectorized environments in this process, stepped one after the other, with a watchdog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from pr2l.environments.isolation.isolated import Timeouts
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.watchdog import Watchdog
from pr2l.rollout.worker_process import EnvFactory


class InProcessVecEnv(DummyVecEnv):
    """DummyVecEnv with a watchdog, which closes all environments if one of them cannot be made.

    Args:
        factories: One function per environment that makes it.
        timeouts: Time limits of a reset and a step; None = the defaults. If a call exceeds its limit, the watchdog
            prints once to stderr where it hangs. Only environments that are SeededEpisodes are watched.
    """

    def __init__(self, factories: Sequence[EnvFactory], timeouts: Timeouts | None = None) -> None:
        envs: list[gym.Env[Any, Any]] = []
        try:
            for factory in factories:
                envs.append(factory())
            super().__init__([lambda env=env: env for env in envs])  # type: ignore[misc]  # env is bound as default
        except BaseException:
            for env in envs:
                env.close()
            raise
        records = [env.env.calls for env in envs if isinstance(env, SeededEpisodes)]
        self._watchdog = Watchdog(records, timeouts or Timeouts())

    def step_wait(self) -> VecEnvStepReturn:
        """Step the environments one after the other.

        First all of them begin their steps, so that those that work outside of this process, such as web pages, do so
        at the same time.
        """
        for env, action in zip(self.envs, self.actions, strict=True):
            if isinstance(env, SeededEpisodes):
                env.begin_step(action)
        return super().step_wait()

    def close(self) -> None:
        self._watchdog.close()
        super().close()
