"""Rollouts in which no environment waits for a slower one.

    environment 0  | step | step |  reset   | step | step |
    environment 1  | step |        a slow step            |      its episode goes on in the next rollout
    policy               0 1    0           0      0      0 1

A rollout has a fixed number of steps of all environments together. Nothing is thrown away: an episode or a step that
has not ended goes on in the next rollout. So each environment plays its episodes one after the other, whatever they
take, and the finished episodes of all lack at most one long or slow episode per environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..base import Actions, Observation
from .replay import Rollouts


class AsyncVecEnv(Protocol):
    """Vector environment that can step some of its environments while others are busy."""

    num_envs: int

    @property
    def running(self) -> frozenset[int]:
        """Numbers of the environments whose steps were sent and not received."""
        ...

    def send(self, rows: Sequence[int], actions: Sequence[Any] | np.ndarray) -> None:
        """Start steps of environments that are not running."""
        ...

    def receive(self, most: int) -> tuple[list[int], tuple[Any, Any, Any, Any]]:
        """Return the numbers of some environments and what `VecEnv.step` would return for them."""
        ...


class AsyncRollouts(Rollouts):
    """Rollouts that step the environments that are ready; see `Rollouts` for the arguments.

    A policy does not change during a rollout. Only the steps that run while it is updated have actions of the policy
    before, at most one per environment.
    """

    venv: AsyncVecEnv  # type: ignore[assignment]  # a VecEnv with further methods

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        _ = self.venv.running  # raises UserError if the environments step together only, before there is any work

    def collect(self, act: Callable[[Observation], Actions], n_steps: int) -> int:
        """Step environments, and move the episodes that end to the replay.

        Args:
            act: Policy.
            n_steps: Steps of all environments together, divided by the number of environments.

        Returns:
            The number of steps of all environments.
        """
        self._continue(act)
        remaining = n_steps * self.venv.num_envs
        while remaining:
            rows, step = self.venv.receive(remaining)
            self.add(rows, *step)
            remaining -= len(rows)
            if remaining:
                self.venv.send(rows, self.choose(act, rows))
        return n_steps * self.venv.num_envs

    def _continue(self, act: Callable[[Observation], Actions]) -> None:
        """Start the steps of all environments that are not running, also of those that were interrupted."""
        idle = [row for row in range(self.venv.num_envs) if row not in self.venv.running]
        interrupted = [row for row in idle if self.episodes[row].chosen is not None]
        self.venv.send(interrupted, [self.episodes[row].chosen for row in interrupted])
        if ready := [row for row in idle if row not in interrupted]:
            self.venv.send(ready, self.choose(act, ready))
