"""A phone in the browser: eleven apps, tasks in English, and success read from the phone's state."""

from .table import TASKS

__all__ = ["TASKS"]
