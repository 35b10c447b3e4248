"""Threads that step environments, one thread for each, so that no environment waits for a slower one.

A thread helps where the environment waits for something outside of this process, such as a web page or the process of
an isolated simulator. A simulator that computes in this process gains nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

import gymnasium as gym

from pr2l.rollout.worker_process import Step, step_and_reset


class StepThreads:
    """Threads that step environments and reset those whose episodes end.

    Args:
        envs: The environments.

    Attributes:
        running: Numbers of the environments whose steps were sent and not received.
    """

    def __init__(self, envs: Sequence[gym.Env[Any, Any]]) -> None:
        self.running: set[int] = set()
        self._actions: list[SimpleQueue[Any]] = [SimpleQueue() for _ in envs]
        self._steps: SimpleQueue[tuple[int, Step | BaseException]] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, args=(row, env), daemon=True, name=f"environment {row}")
            for row, env in enumerate(envs)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, row: int, action: Any) -> None:
        """Start a step.

        Args:
            row: Number of an environment that is not running.
            action: The action.
        """
        if row in self.running:
            raise RuntimeError(f"environment {row} is running: receive its step first")
        self.running.add(row)
        self._actions[row].put((action,))

    def receive(self, least: int, most: int, patience: float) -> dict[int, Step]:
        """Wait for steps.

        Args:
            least: Number of steps to wait for, limited to those that are running.
            most: Maximum number of steps to return, at least 1.
            patience: Seconds to wait for `least` steps after the first one; then those that are done are returned.

        Returns:
            The steps by number of the environment, in the order in which they were done.

        Raises:
            RuntimeError: If no environment is running. An exception of an environment is raised again.
        """
        if not self.running:
            raise RuntimeError("no environment is running: send actions first")
        steps = dict([self._next(None)])
        deadline = time.monotonic() + patience
        while self.running and len(steps) < most:
            seconds = deadline - time.monotonic() if len(steps) < least else 0.0
            try:
                row, step = self._next(max(0.0, seconds))
            except Empty:
                break
            steps[row] = step
        return steps

    def close(self, seconds: float) -> None:
        """End the threads.

        Args:
            seconds: Time to wait for running steps; a thread that hangs longer is left behind.
        """
        for actions in self._actions:
            actions.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _next(self, timeout: float | None) -> tuple[int, Step]:
        row, step = self._steps.get(timeout=timeout)
        self.running.remove(row)
        if isinstance(step, BaseException):
            raise step
        return row, step

    def _serve(self, row: int, env: gym.Env[Any, Any]) -> None:
        while (message := self._actions[row].get()) is not None:
            try:
                self._steps.put((row, step_and_reset(env, *message)))
            except BaseException as error:
                self._steps.put((row, error))
