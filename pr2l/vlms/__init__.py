"""Vision-language models: frames and prompts in, hidden states, answers and log-probabilities out.

    vlm = load_vlm("tiny")
    hidden = vlm.hidden(frames, ["is there a medikit ?"] * len(frames))

Each family has one file in `families`; shapes are in pr2l/core/types.py. Names are imported on first use, because the
import of transformers takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pr2l.vlms.base import VLM
    from pr2l.vlms.chat import ChatVLM
    from pr2l.vlms.loading import load_vlm
    from pr2l.vlms.options import Defaults

__all__ = ["VLM", "ChatVLM", "Defaults", "load_vlm"]

_MODULES = {"VLM": "base", "ChatVLM": "chat", "Defaults": "options", "load_vlm": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
