"""Vectorized environments in this process, stepped one after the other or each in a thread, with a watchdog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from pr2l.environments.isolation.isolated import Timeouts
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.step_threads import StepThreads
from pr2l.rollout.watchdog import Watchdog
from pr2l.rollout.worker_process import EnvFactory

LEAST = 4  # `receive` waits for 1 in LEAST environments, so that batches of the VLM are not too small,
PATIENCE = 0.05  # but no longer than this number of seconds after the first one


class InProcessVecEnv(DummyVecEnv):
    """DummyVecEnv with a watchdog, which closes all environments if one of them cannot be made.

    `step` waits for all environments. The pair `send` and `receive` steps some of them while others are busy, as in
    EnvPool; in the meantime `env_method("state")` returns the states that belong to the received observations.

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
        self._timeouts = timeouts or Timeouts()
        self._watchdog = Watchdog(records, self._timeouts)
        self._threads: StepThreads | None = None

    @property
    def running(self) -> frozenset[int]:
        """Numbers of the environments whose steps were sent and not received."""
        return frozenset(self._threads.running) if self._threads else frozenset()

    def send(self, rows: Sequence[int], actions: Sequence[Any] | np.ndarray) -> None:
        """Start steps of some environments, each in a thread of its own.

        Args:
            rows: Numbers of environments that are not running.
            actions: Their actions.
        """
        threads = self._started()
        for row, action in zip(rows, actions, strict=True):
            env = self.envs[row]
            if isinstance(env, SeededEpisodes):
                env.hold_state()
            threads.send(row, action)

    def receive(self, most: int | None = None) -> tuple[list[int], VecEnvStepReturn]:
        """Wait until some environments have made their steps, and have been reset if their episodes have ended.

        This waits for a quarter of the environments, but no longer than 0.05 s after the first of them.

        Args:
            most: Maximum number of steps to return, at least 1; None = all environments.

        Returns:
            The numbers of the environments, and their (observations, rewards, dones, infos) as from `step`.

        Raises:
            RuntimeError: If no environment is running. An exception of an environment is raised again.
        """
        least, most = -(-self.num_envs // LEAST), self.num_envs if most is None else most
        steps = self._started().receive(least, most, PATIENCE)
        for row, (*_, after) in steps.items():
            env = self.envs[row]
            if isinstance(env, SeededEpisodes):
                env.release_state()
            if after is not None:
                self.reset_infos[row] = after
        observations, rewards, dones, infos, _ = zip(*steps.values(), strict=True)
        stacked = {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
        return [*steps], (stacked, np.array(rewards, np.float32), np.array(dones, bool), [*infos])

    def reset(self) -> VecEnvObs:
        self._check_idle()
        return super().reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Step the environments one after the other.

        First all of them begin their steps, so that those that work outside of this process, such as web pages, do so
        at the same time.
        """
        self._check_idle()
        for env, action in zip(self.envs, self.actions, strict=True):
            if isinstance(env, SeededEpisodes):
                env.begin_step(action)
        return super().step_wait()

    def close(self) -> None:
        self._watchdog.close()
        if self._threads is not None:
            self._threads.close(self._timeouts.close)
        super().close()

    def _started(self) -> StepThreads:
        self._threads = self._threads or StepThreads(self.envs)
        return self._threads

    def _check_idle(self) -> None:
        if self.running:
            raise RuntimeError(f"environments {sorted(self.running)} are running: receive their steps first")
