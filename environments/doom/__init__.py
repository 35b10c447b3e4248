"""ViZDoom, the default environment: first-person 3-D on any CPU, with exact labels as ground truth."""

from .environment import NEAR, TASKS, Defaults, DoomEnv, kinds, make, oracle

__all__ = ["NEAR", "TASKS", "Defaults", "DoomEnv", "kinds", "make", "oracle"]
