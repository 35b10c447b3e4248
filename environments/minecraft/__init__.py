"""Minecraft: PR2L's six tasks, and any of MineDojo's, through MineDojo in an interpreter of its own."""

from .environment import NEAR, TASKS, Defaults, kinds, make, oracle

__all__ = ["NEAR", "TASKS", "Defaults", "kinds", "make", "oracle"]
