"""Creation of an evaluator by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pr2l.agents.evaluators.base import Evaluator
from pr2l.core import registry
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.config import parse_options


def load_evaluator(name: str, options: Mapping[str, Any] | None = None, cache: AnswerCache | None = None) -> Evaluator:
    """Create an evaluator.

    Args:
        name: A name from `pr2l list evaluators`.
        options: Values for the evaluator's Defaults. None = {}.
        cache: Cache of the answers of models. None = one in memory.

    Raises:
        UserError: There is no such evaluator, or an option is wrong.
    """
    module = registry.load("evaluators", name)
    values = parse_options(module.Defaults, options or {}, f"options of {name!r}")
    evaluator: Evaluator = module.create(values, AnswerCache() if cache is None else cache)
    return evaluator
