"""What an algorithm learns from that learns from recorded episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A whole episode of n actions, without what its last action led to.

    observations: tokens float16 [n, T, D], mask bool [n, T] (True = real), proprio float32 [n, P] if there is any.
    actions: int64 [n], what was done. labels: int64 [n], what the expert would have done there; where the expert
    acted alone, they are the actions.
    """

    observations: dict[str, torch.Tensor]
    actions: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.actions)


class Trajectories(Protocol):
    """A data set of them, each read when it is asked for by its number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Trajectory: ...
