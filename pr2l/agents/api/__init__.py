"""Agents whose model runs behind an API. One file per API, found by its name.

    agent = load_api("gemini", "gemini-2.5-flash")
    agent = load_api("openai_server", "Qwen/Qwen2.5-VL-7B-Instruct", {"base_url": "http://127.0.0.1:8000/v1"})

The file of an API has `Defaults`, its options, and `create(model, options)`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pr2l.agents.api.base import APIAgent
    from pr2l.agents.api.common.loading import load_api

__all__ = ["APIAgent", "load_api"]

_MODULES = {"APIAgent": "base", "load_api": "common.loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
