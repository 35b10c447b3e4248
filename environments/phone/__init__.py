"""A phone in the browser: eleven apps, tasks in English, and success read from the phone's state."""

from .environment import Defaults, PhoneEnv, action_text, kinds, make, oracle
from .table import TASKS
from .template import Composite, Template

__all__ = ["TASKS", "Composite", "Defaults", "PhoneEnv", "Template", "action_text", "kinds", "make", "oracle"]
