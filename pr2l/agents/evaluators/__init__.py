"""Success evaluators: did the agent do its task? One file per evaluator, found by its name.

    evaluator = load_evaluator("vlm", {"model": "HuggingFaceTB/SmolVLM-256M-Instruct"})
    probability = evaluator.score("turn on Wi-Fi", frames, actions)

An evaluator's file has `Defaults`, its options, and `create(options, cache)`. Options of one evaluator can name another
one, as those of `noisy` do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pr2l.agents.evaluators.base import Evaluator
    from pr2l.agents.evaluators.common.loading import load_evaluator
    from pr2l.core.answer_cache import AnswerCache

__all__ = ["AnswerCache", "Evaluator", "load_evaluator"]

_MODULES = {
    "AnswerCache": "pr2l.core.answer_cache",
    "Evaluator": "pr2l.agents.evaluators.base",
    "load_evaluator": "pr2l.agents.evaluators.common.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
