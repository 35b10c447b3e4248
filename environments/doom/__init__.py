"""ViZDoom, the default environment: first-person 3-D on any CPU, with exact labels as ground truth."""

from .environment import NEAR, Defaults, DoomEnv, kinds, make, oracle
from .tasks import TASKS

__all__ = ["NEAR", "TASKS", "Defaults", "DoomEnv", "kinds", "make", "oracle"]
