"""Recorded episodes and batches of them, stores of embeddings, and frames with simulator labels.

The names in `__all__` are imported on first use, so that code that needs no torch does not wait for its import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .labelled_frames import LabelledFrames, Source, load_or_play
    from .recording import Recording
    from .sources import Episodes, TrajectorySource, TransitionSource
    from .store import Store

__all__ = [
    "Episodes",
    "LabelledFrames",
    "Recording",
    "Source",
    "Store",
    "TrajectorySource",
    "TransitionSource",
    "load_or_play",
]
_MODULES = {
    "labelled_frames": ("LabelledFrames", "Source", "load_or_play"),
    "recording": ("Recording",),
    "sources": ("Episodes", "TrajectorySource", "TransitionSource"),
    "store": ("Store",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
