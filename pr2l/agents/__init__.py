"""VLMs that act: they generate text for a conversation, and compute the log-probability of a text.

    agent = PromptedAgent(load_vlm("tiny"))                                         zero-shot
    agent = TrainableAgent(load_vlm("tiny"), trainable.Defaults(max_new_tokens=8))  with trainable LoRA weights
    ScreenAgent(agent)                                                              operates a touch screen

Names are imported on first use, because the import of transformers takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pr2l.agents.base import Agent, Response
    from pr2l.agents.prompted import PromptedAgent
    from pr2l.agents.screen import ScreenAgent
    from pr2l.agents.trainable import TrainableAgent

__all__ = ["Agent", "PromptedAgent", "Response", "ScreenAgent", "TrainableAgent"]

_MODULES = {
    "Agent": "base",
    "PromptedAgent": "prompted",
    "Response": "base",
    "ScreenAgent": "screen",
    "TrainableAgent": "trainable",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
