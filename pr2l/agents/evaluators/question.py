"""One question about the last screen, for VLMs that take one image and a text: P(yes) against P(no).

`tiny` and other small VLMs answer questions such as "is there a medikit ?", but do not understand instructions. So the
instruction of an episode should be a question that has the answer yes after success.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pr2l.agents.evaluators.base import Evaluator, check_episode
from pr2l.agents.evaluators.common.judges import Judge, LocalJudge, local_agent
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.messages import Part, image_part, text_part
from pr2l.core.types import Frame


class QuestionEvaluator(Evaluator):
    """Evaluator that asks about the last screen alone.

    Args:
        judge: The model.
        question: The question, in which {task} stands for the instruction.
    """

    def __init__(self, judge: Judge, question: str) -> None:
        self.judge, self.question = judge, question

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        check_episode(frames, actions)
        content: list[Part] = [image_part(frames[-1]), text_part(self.question.replace("{task}", task))]
        return self.judge.probability([{"role": "user", "content": content}])

    def usage(self) -> Usage:
        return self.judge.usage()


def create(options: Defaults, cache: AnswerCache) -> QuestionEvaluator:
    judge = LocalJudge(*local_agent(options.model, options.model_options), cache, options.answers)
    return QuestionEvaluator(judge, options.question)


class Defaults(BaseModel):
    """Options of the evaluator `question`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "tiny"  # a name from `pr2l list vlms`, a folder with a checkpoint, or a Hugging Face Hub id
    model_options: dict[str, Any] = Field(default_factory=dict)  # of the VLM, see `pr2l options vlm`
    question: str = "{task}"  # the VLM's prompt; {task} stands for the instruction
    answers: tuple[str, str] = ("yes", "no")  # that mean success and failure
