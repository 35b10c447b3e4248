"""Minecraft: PR2L's six tasks and all tasks of MineDojo, with MineDojo in its own Python environment."""

from .environment import NEAR, Defaults, kinds, make, oracle
from .tasks import TASKS

__all__ = ["NEAR", "TASKS", "Defaults", "kinds", "make", "oracle"]
