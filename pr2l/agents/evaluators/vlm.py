"""A VLM that sees the last screenshots after examples, as DigiRL's released evaluator (Bai et al. 2024) asks Gemini.

    system: what to judge
    user:   examples: screenshot, task, reason, verdict     the task, the last two screenshots, how to answer

As in the released evaluator, no question is asked if the screen has not changed, or if it is one that the episode has
had before. There, such a screen counts as a failure; here, it has the verdict of its first occurrence, which is the
same as long as an episode ends at its first success. The tolerance is smaller here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, PositiveInt

from pr2l.agents.evaluators.base import Evaluator, check_episode
from pr2l.agents.evaluators.common.judges import Judge, ModelOptions, make_judge
from pr2l.agents.evaluators.common.prompts import Example, conversation, read_examples, screen_parts
from pr2l.agents.evaluators.common.screens import changed_screens, same_screen
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import AnswerCache
from pr2l.core.messages import Message, text_part
from pr2l.core.types import Frame


class LastScreensEvaluator(Evaluator):
    """Evaluator that shows the last screenshots to a model.

    Args:
        judge: The model.
        options: The options.
        examples: Examples for the prompt.
    """

    def __init__(self, judge: Judge, options: Defaults, examples: Sequence[Example] = ()) -> None:
        self.judge, self.options, self.examples, self.parallel = judge, options, examples, judge.parallel

    def score(
        self, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None = None
    ) -> float | None:
        check_episode(frames, actions)
        screens = changed_screens(frames, self.options.tolerance)
        if self.options.tolerance and len(screens) == 1:
            return 0.0  # the agent has changed nothing
        if self.options.skip_repeated:
            screens = self._until_first_occurrence(screens)
        return self.judge.probability(self.question(task, screens[-self.options.screens :]))

    def _until_first_occurrence(self, screens: list[Frame]) -> list[Frame]:
        """Return the screens up to the first one that equals the last one; the start of the episode does not count."""
        last, tolerance = screens[-1], self.options.tolerance
        first = next((i for i in range(1, len(screens)) if same_screen(screens[i], last, tolerance)), len(screens) - 1)
        return screens[: first + 1]

    def question(self, task: str, screens: Sequence[Frame]) -> list[Message]:
        """Return the question about an episode.

        Args:
            task: The instruction.
            screens: The last screenshots, the oldest first.
        """
        parts = [text_part(f"Task: {task}"), *screen_parts(screens), text_part(self.judge.instruction)]
        return conversation(parts, self.examples)

    def usage(self) -> Usage:
        return self.judge.usage()


def create(options: Defaults, cache: AnswerCache) -> LastScreensEvaluator:
    examples = [] if options.examples is None else read_examples(Path(options.examples), options.example_height)
    return LastScreensEvaluator(make_judge(options, cache), options, examples)


class Defaults(ModelOptions):
    """Options of the evaluator `vlm`."""

    screens: PositiveInt = 2  # last screenshots in the question; 2 as in the released evaluator
    examples: str | None = None  # YAML file of examples (docs/evaluators.md); None = no examples
    example_height: PositiveInt = 570  # of the examples' screenshots in pixels: a quarter of the 2280 of DigiRL's phone
    # mean squared difference below which two screenshots are the same screen, as a share of 255^2; 0 = all differ. The
    # released evaluator has 0.001, which does not see a switch or a star on the web phone (docs/evaluators.md)
    tolerance: float = Field(default=1e-5, ge=0, le=1)
    skip_repeated: bool = True  # a screen that the episode has had before keeps its verdict, without a new question
