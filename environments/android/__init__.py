"""Android phones: AndroidWorld's tasks and lists of instructions, on emulators through android_env."""

from .environment import Defaults, kinds, make
from .tasks import TASKS

__all__ = ["TASKS", "Defaults", "kinds", "make"]
