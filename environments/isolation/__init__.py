"""Gymnasium environments whose simulator runs in its own process and Python interpreter."""

from .isolated import Isolated, Timeouts

__all__ = ["Isolated", "Timeouts"]
