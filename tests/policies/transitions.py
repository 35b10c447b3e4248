"""A source of transitions from a list of trajectories, as pr2l has it for recorded episodes."""

import torch

from pr2l.policies.base import Trajectory, Transitions
from pr2l.policies.common.loop import ShuffledSource

COLUMNS = ("actions", "rewards", "terminated", "truncated", "monte_carlo_returns", "discounts")


class TransitionList(ShuffledSource[int]):
    """Steps of trajectories in a random order, each once per epoch."""

    def __init__(self, trajectories: list[Trajectory], seed: int):
        super().__init__(range(sum(map(len, trajectories))), seed)
        self.columns = {name: torch.cat([getattr(t, name) for t in trajectories]) for name in COLUMNS}
        keys = trajectories[0].observations
        self.before = {key: torch.cat([t.observations[key][:-1] for t in trajectories]) for key in keys}
        self.after = {key: torch.cat([t.observations[key][1:] for t in trajectories]) for key in keys}

    def next_batch(self, count: int) -> Transitions:
        rows = torch.tensor(super().next_batch(count))
        return Transitions(
            observations={key: values[rows] for key, values in self.before.items()},
            next_observations={key: values[rows] for key, values in self.after.items()},
            **{name: column[rows] for name, column in self.columns.items()},
        )
