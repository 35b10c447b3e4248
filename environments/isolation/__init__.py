"""Runs a simulator in a Python interpreter of its own, behind the Gymnasium interface."""

from .isolated import Isolated, Timeouts

__all__ = ["Isolated", "Timeouts"]
