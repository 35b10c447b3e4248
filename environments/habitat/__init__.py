"""ObjectNav of habitat-lab: walk through a house to an object of the named category and stop beside it."""

from .environment import ENDING_ACTIONS, NEAR, Defaults, begin, demonstrations, kinds, make, oracle
from .tasks import TASKS

__all__ = ["ENDING_ACTIONS", "NEAR", "TASKS", "Defaults", "begin", "demonstrations", "kinds", "make", "oracle"]
