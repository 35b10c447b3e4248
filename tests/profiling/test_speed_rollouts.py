"""The program `pr2l speed-rollouts`."""

import pytest

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.profiling.rollouts import environments, speed_rollouts, step_ready, step_together
from pr2l.profiling.timing import Effort

NAME = "doors/choose/columns"  # 4 environments whose episodes have one step


def test_only_together_does_each_step_wait_for_the_late_environment(examples) -> None:
    together, ready = speed_rollouts(load_config(NAME), late=0.03, effort=Effort(rounds=6, seconds=0))
    assert (together.name, ready.name) == ("4 environments, together", "4 environments, asynchronously")
    assert 0 < together.value.high <= 4 / 0.03 < ready.value.low


def test_both_ways_make_the_same_number_of_steps(examples) -> None:
    for step in (step_together, step_ready):
        with environments(load_config(NAME), late=0) as venv:
            step(venv)
            while venv.running:
                venv.receive()
            assert sum(env.state()["episode"] for env in venv.envs) in range(16, 16 + 4)


def test_worker_processes_are_refused(examples) -> None:
    with pytest.raises(UserError, match="workers=2: asynchronous environments run in this process; add workers=0"):
        speed_rollouts(load_config(NAME, ["workers=2"]))
