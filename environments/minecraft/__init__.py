"""Minecraft: PR2L's six tasks and all tasks of MineDojo, with MineDojo in its own interpreter."""

from .environment import NEAR, TASKS, Defaults, kinds, make, oracle

__all__ = ["NEAR", "TASKS", "Defaults", "kinds", "make", "oracle"]
