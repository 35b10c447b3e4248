"""Success of recorded episodes as an evaluator judges it.

    data set --frames, actions, instruction--> evaluator --> probability of success of each episode

Answers of models are cached at once, so the same call continues after an interruption, and pays only for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from rich.progress import Progress

from pr2l.agents.api.common.parallel import in_parallel
from pr2l.agents.evaluators.base import Evaluator
from pr2l.core.answer_cache import CACHE
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.signals import STOP_SIGNALS, stops_once
from pr2l.core.types import THRESHOLD, Context, Frame
from pr2l.data.recording import Recording

FOLDER = CACHE.parent
INSTRUCTION = "{goal}"


def instructions(data: Recording, template: str, numbers: Iterable[int]) -> dict[int, str]:
    """Return the instructions of episodes by their numbers.

    Args:
        data: The data set.
        template: The instruction, with slots that the context of an episode fills.
        numbers: Numbers of episodes.

    Raises:
        UserError: A slot is not in the contexts, or the template is not valid.
    """
    return {number: _fill(template, data.contexts_of(number)[0], data.folder) for number in numbers}


def _fill(template: str, context: Context, dataset: Path) -> str:
    """Fill the slots of an instruction."""
    try:
        slots = [slot for _, slot, _, _ in Formatter().parse(template) if slot is not None]
    except ValueError as error:
        raise UserError(f"the instruction {template!r} is not a text with slots such as {{goal}}: {error}") from None
    if missing := [slot for slot in slots if slot not in context]:
        names = ", ".join(f"{{{name}}}" for name in context) or "no slots"
        raise UserError(
            f"the instruction {template!r} has the slot {{{missing[0]}}}, but the contexts of {dataset} have {names};"
            " write the task of the episodes with their slots, e.g. --instruction 'take the {target}'"
        )
    return template.format_map(context)


def probabilities(
    data: Recording,
    judge: Evaluator,
    tasks: Mapping[int, str],
    actions: str | None = None,
    every_step: bool = False,
) -> dict[int, float | None]:
    """Return the probabilities of success of episodes by their numbers; None = the evaluator abstained.

    Args:
        data: The data set.
        judge: The evaluator.
        tasks: The instructions of the episodes by their numbers.
        actions: Entry of the recorded infos that holds each action as text, at the step after it. None = the recorded
            actions; numbers become JSON.
        every_step: Judge every step, with `score_steps`; False = judge whole episodes.

    Raises:
        UserError: The data set is damaged, or the model of the evaluator cannot be used.
    """
    numbers, scores = list(tasks), dict[int, float | None]()

    def judged(number: int) -> float | None:
        frames, texts = list(data.frames(number)), action_texts(data, number, actions)
        if every_step:
            return score_steps(judge, tasks[number], frames, texts, data.successes[number])
        return judge.score(tasks[number], frames, texts, data.successes[number])

    try:
        with stops_once(*STOP_SIGNALS), Progress() as progress:
            bar = progress.add_task("episodes", total=len(numbers))
            for index, probability in in_parallel(judged, numbers, judge.parallel):
                scores[numbers[index]] = probability
                progress.advance(bar)
    except BaseException:
        if scores:
            Console().print(
                f"{len(scores):,} of {len(numbers):,} episodes are scored; run the same command to continue"
            )
        raise
    return scores


def score_steps(
    evaluator: Evaluator, task: str, frames: Sequence[Frame], actions: Sequence[str], success: bool | None
) -> float | None:
    """Judge the episode after each of its steps, until the first success.

    Args:
        evaluator: The evaluator.
        task: As in `Evaluator.score`.
        frames: As in `Evaluator.score`.
        actions: As in `Evaluator.score`.
        success: The environment's verdict on the last frame; that on the others is False, because episodes end at their
            first success.

    Returns:
        The largest probability of the steps up to the first one of 0.5 or more; None = the evaluator abstained at all.
    """
    largest: float | None = None
    for step in range(1, len(frames)):
        verdict = success if step == len(frames) - 1 else None if success is None else False
        probability = evaluator.score(task, frames[: step + 1], actions[:step], verdict)
        largest = max((value for value in (largest, probability) if value is not None), default=None)
        if largest is not None and largest >= THRESHOLD:
            break
    return largest


def action_texts(data: Recording, number: int, key: str | None = None) -> list[str]:
    """Return the n actions of an episode as text.

    Args:
        data: The data set.
        number: Number of the episode.
        key: As `actions` of `probabilities`.
    """
    if key is not None:
        return [str(text) for text in list(data.infos(number, key))[1:]]
    count = int(data.starts[number + 1] - data.starts[number]) - 1
    actions = data.episode(number).actions
    elements = [_at(actions, step) for step in range(count)]
    return [action if isinstance(action, str) else json.dumps(action) for action in elements]


def _at(actions: Any, step: int) -> Any:
    """Return the action of a step, in the layout of `space_arrays`, as JSON values."""
    if isinstance(actions, dict):
        return {key: _at(part, step) for key, part in actions.items()}
    if isinstance(actions, tuple):
        return [_at(part, step) for part in actions]
    action = actions[step]
    return action if isinstance(action, str) else np.asarray(action).tolist()
