"""`pr2l speed-rollouts`: steps per second of a config's environments, stepped together and asynchronously.

Actions are random and no VLM runs. The first environment can be late at every step, as a page that loads slowly. Both
ways have environments of their own and take turns, so that other work on the machine slows them down equally.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.profiling.measure import Measure
from pr2l.profiling.timing import Effort, rate, rounds
from pr2l.rollout import build
from pr2l.rollout.in_process import InProcessVecEnv

STEPS = 4  # of each environment in a round; of all together, if asynchronous


class Late(gym.Wrapper[Any, Any, Any, Any]):
    """Wrapper whose steps begin late.

    Args:
        env: The environment.
        seconds: The delay of each step.
    """

    def __init__(self, env: gym.Env[Any, Any], seconds: float) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        return self.env.step(action)


def speed_rollouts(config: RunConfig, late: float = 0.0, effort: Effort | None = None) -> list[Measure]:
    """Measure the steps per second of all environments of a config.

    Args:
        config: The environments and their number are used; they run in this process.
        late: Seconds by which each step of the first environment is late; 0 = not.
        effort: The number of rounds; None = 10 seconds.

    Raises:
        UserError: If the config has worker processes.
    """
    if config.workers:
        raise UserError(f"workers={config.workers}: asynchronous environments run in this process; add workers=0")
    with environments(config, late) as together, environments(config, late) as ready:
        ways = {"together": lambda: step_together(together), "asynchronously": lambda: step_ready(ready)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in rounds(effort or Effort()):
            for name, run in ways.items():
                seconds[name].append(timed(run) / (STEPS * config.num_envs))
            while ready.running:  # they would slow down the other way
                ready.receive()
    return [Measure(f"{config.num_envs} environments, {name}", rate(seconds[name]), "steps/s") for name in ways]


@contextmanager
def environments(config: RunConfig, late: float) -> Iterator[InProcessVecEnv]:
    """Make the environments of a config and reset them; they are closed at the end."""
    venv = build.environments(config, "train")
    assert isinstance(venv, InProcessVecEnv)
    with closing(venv):
        if late:
            venv.envs[0] = Late(venv.envs[0], late)
        venv.reset()
        yield venv


def timed(run: Callable[[], None]) -> float:
    """Return the seconds that a function takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def step_together(venv: InProcessVecEnv) -> None:
    """Make STEPS steps of each environment."""
    for _ in range(STEPS):
        venv.step(random_actions(venv, venv.num_envs))


def step_ready(venv: InProcessVecEnv) -> None:
    """Make as many steps of all environments together, of those that are ready."""
    remaining = STEPS * venv.num_envs
    venv.send(range(venv.num_envs), random_actions(venv, venv.num_envs))
    while remaining:
        rows, _ = venv.receive(remaining)
        remaining -= len(rows)
        if remaining:
            venv.send(rows, random_actions(venv, len(rows)))


def random_actions(venv: InProcessVecEnv, count: int) -> Any:
    """Return random actions of some environments."""
    actions = [venv.action_space.sample() for _ in range(count)]
    return actions if isinstance(venv.action_space, gym.spaces.Text) else np.stack(actions)
