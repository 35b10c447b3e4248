"""The environment's own verdict, read from its state: exact, and only where an environment has one."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from pr2l.agents.evaluators.base import Evaluator
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.types import Frame


class StateEvaluator(Evaluator):
    """Evaluator that returns the environment's verdict, and abstains if there is none."""

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        return None if success is None else float(success)


def create(options: Defaults, cache: AnswerCache) -> StateEvaluator:
    return StateEvaluator()


class Defaults(BaseModel):
    """The evaluator `state` has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")
