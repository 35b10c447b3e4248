"""MiniWoB++: small web pages with an instruction, played by touch in headless Chromium."""

from .environment import Defaults, MiniwobEnv, action_text, kinds, make, oracle
from .oracles import ORACLES
from .tasks import TASKS

__all__ = ["ORACLES", "TASKS", "Defaults", "MiniwobEnv", "action_text", "kinds", "make", "oracle"]
