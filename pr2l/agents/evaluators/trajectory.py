"""A VLM that sees the whole episode, all screenshots with the actions between them, for models with a long context.

system: what to judge
user:   the task, screenshot 1, action 1 as text, screenshot 2, action 2, ..., screenshot n + 1, how to answer
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveInt

from pr2l.agents.evaluators.base import Evaluator, check_episode
from pr2l.agents.evaluators.common.judges import Judge, ModelOptions, make_judge
from pr2l.agents.evaluators.common.prompts import conversation
from pr2l.agents.evaluators.common.screens import shrink
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.messages import Message, Part, image_part, text_part
from pr2l.core.types import Frame


class TrajectoryEvaluator(Evaluator):
    """Evaluator that shows all screenshots and actions to a model.

    Args:
        judge: The model.
        options: The options.
    """

    def __init__(self, judge: Judge, options: Defaults) -> None:
        self.judge, self.options, self.parallel = judge, options, judge.parallel

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        check_episode(frames, actions)
        return self.judge.probability(self.question(task, frames, actions))

    def question(self, task: str, frames: Sequence[Frame], actions: Sequence[str]) -> list[Message]:
        """Return the question about an episode.

        Args:
            task: The instruction.
            frames: As in `score`. Of more than `max_screens`, evenly spread ones are shown, with the first and last.
            actions: As in `score`; all are shown.
        """
        shown = set(np.linspace(0, len(frames) - 1, min(len(frames), self.options.max_screens)).round().astype(int))
        parts: list[Part] = [text_part(f"Task: {task}")]
        for number, frame in enumerate(frames):
            if number in shown:
                screen = shrink(frame, self.options.screen_height)
                parts += [text_part(f"Screenshot {number + 1}:"), image_part(screen)]
            if number < len(actions):
                parts.append(text_part(f"Action {number + 1}: {actions[number]}"))
        return conversation([*parts, text_part(self.judge.instruction)])

    def usage(self) -> Usage:
        return self.judge.usage()


def create(options: Defaults, cache: AnswerCache) -> TrajectoryEvaluator:
    return TrajectoryEvaluator(make_judge(options, cache), options)


class Defaults(ModelOptions):
    """Options of the evaluator `trajectory`."""

    max_screens: int = Field(default=50, ge=2)  # screenshots in a question; a longer episode shows evenly spread ones
    screen_height: PositiveInt = 1140  # of the screenshots in pixels at most: half of the 2280 of DigiRL's phone
