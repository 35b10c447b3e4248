"""Runs a simulator in a Python interpreter of its own, behind the Gymnasium interface."""

from .isolated import Isolated, Patience

__all__ = ["Isolated", "Patience"]
