"""Android phones: AndroidWorld's tasks and lists of instructions, on emulators through android_env."""

from .environment import Defaults, action_text, kinds, make
from .tasks import TASKS

__all__ = ["TASKS", "Defaults", "action_text", "kinds", "make"]
