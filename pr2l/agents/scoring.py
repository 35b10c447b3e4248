"""Score an evaluator on recorded episodes whose success the environment knows: `pr2l evaluator score`.

    data set --frames, actions, instruction--> evaluator --probabilities--> agreement with the environment's verdicts

Answers of models are cached on disk at once, so the same command continues after an interruption, and pays only for
what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pr2l.agents.agreement import Agreement, Share, agreement
from pr2l.agents.api.common.parallel import in_parallel
from pr2l.agents.evaluators.base import THRESHOLD, Evaluator
from pr2l.agents.evaluators.common.cache import AnswerCache
from pr2l.agents.evaluators.common.loading import load_evaluator
from pr2l.agents.usage import Usage
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.signals import STOP_SIGNALS, stops_once
from pr2l.core.types import Context, Frame
from pr2l.data.recording import Recording

FOLDER = Path("runs/evaluators")
CACHE = FOLDER / "answers.jsonl"
INSTRUCTION = "{goal}"


def score(
    dataset: Path,
    evaluator: str,
    options: Mapping[str, Any] | None = None,
    *,
    instruction: str = INSTRUCTION,
    actions: str | None = None,
    episodes: int | None = None,
    every_step: bool = False,
    cache: Path = CACHE,
    replay: bool = False,
    out: Path | None = None,
) -> Agreement:
    """Score an evaluator on a data set, print the result, and write it as JSON.

    Args:
        dataset: Folder of `pr2l collect`. Episodes without the environment's verdict are left out.
        evaluator: A name from `pr2l list evaluators`.
        options: Values for the evaluator's Defaults. None = {}.
        instruction: The task for the evaluator, with slots that the context of an episode fills.
        actions: Entry of the recorded infos that holds each action as text, at the step after it. None = the recorded
            actions; numbers become JSON.
        episodes: Number of episodes, from the first one; None = all.
        every_step: Judge every step, as DigiRL does in training: an episode is a success at its first step with a
            probability of 0.5 or more. False = judge the whole episode.
        cache: File of the cached answers of models.
        replay: Use answers in the cache only, without a model or a key.
        out: JSON file of the result. None = runs/evaluators/DATASET-EVALUATOR.json.

    Raises:
        UserError: A name or an option is wrong, the data set is damaged or has no verdicts, a slot of the instruction
            is not in the contexts, or the model cannot be used.
    """
    judge = load_evaluator(evaluator, options, AnswerCache(cache, replay=replay))
    data = Recording(dataset)
    numbers = [n for n in range(data.episodes)[:episodes] if data.successes[n] is not None]
    if not numbers:
        raise UserError(f"no episode of {dataset} has the environment's verdict; record it with `pr2l collect`")
    tasks = {n: _instruction(instruction, data.contexts_of(n)[0], dataset) for n in numbers}
    with stops_once(*STOP_SIGNALS):
        probabilities = _probabilities(data, judge, tasks, actions, every_step)
    result = agreement([probabilities[n] for n in numbers], [bool(data.successes[n]) for n in numbers])
    out = out or FOLDER / f"{dataset.resolve().name}-{evaluator}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"evaluator": evaluator, "options": dict(options or {}), "instruction": instruction}
    settings |= {"actions": actions, "every_step": every_step, "data": data.key}
    rows = [
        {"episode": n, "task": tasks[n], "success": data.successes[n], "probability": probabilities[n]} for n in numbers
    ]
    usage = vars(judge.usage())
    write_json(out, {**settings, "agreement": result.to_json(), "usage": usage, "episodes": rows})
    show(result, judge.usage(), f"{evaluator} on {dataset}")
    Console().print(f"written to {out}", markup=False)
    return result


def _instruction(template: str, context: Context, dataset: Path) -> str:
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


def _probabilities(
    data: Recording, judge: Evaluator, tasks: Mapping[int, str], actions: str | None, every_step: bool
) -> dict[int, float | None]:
    """Score the episodes of `tasks`, which has their numbers and instructions."""
    numbers, scores = list(tasks), dict[int, float | None]()

    def judged(number: int) -> float | None:
        frames, texts = list(data.frames(number)), action_texts(data, number, actions)
        if every_step:
            return score_steps(judge, tasks[number], frames, texts, data.successes[number])
        return judge.score(tasks[number], frames, texts, data.successes[number])

    try:
        with Progress() as progress:
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
        key: As `actions` of `score`.
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


def show(result: Agreement, usage: Usage, title: str) -> None:
    """Print an agreement as tables.

    Args:
        result: The agreement.
        usage: Cost of the answers; it is printed if there were any.
        title: Title of the tables.
    """
    table = Table("measure", "value", "95 % interval", "episodes", title=escape(title), title_justify="left")
    for name in ("precision", "recall", "false_positives", "accuracy", "abstentions", "successes_abstained"):
        table.add_row(ROWS[name], *_cells(getattr(result, name)))
    for name, number in (("Brier score", result.brier), ("expected calibration error", result.ece)):
        table.add_row(name, "-" if number is None else f"{number:.3f}", "", "")
    Console().print(table)
    bins = Table("probability", "mean", "successes", "episodes", title="calibration", title_justify="left")
    for row in result.bins:
        if row.probability is not None:
            last = f"{row.low:.2f} to {row.high:.2f}"
            bins.add_row(last, f"{row.probability:.3f}", f"{row.successes:.3f}", f"{row.episodes:,}")
    Console().print(bins)
    if usage != Usage():
        Console().print(
            f"{usage.requests:,} requests, {usage.cached:,} answers from the cache, {usage.input_tokens:,} tokens in,"
            f" {usage.output_tokens:,} out, ${usage.dollars:.4f}"
        )


ROWS = {
    "precision": "precision",
    "recall": "recall",
    "false_positives": "false positives on failures",
    "accuracy": "accuracy",
    "abstentions": "abstentions",
    "successes_abstained": "successes among abstentions",
}


def _cells(share: Share) -> tuple[str, str, str]:
    interval = share.interval
    if interval is None:
        return "-", "", f"0 of {share.among}"
    return (
        f"{interval.value:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}",
        f"{share.episodes:,} of {share.among:,}",
    )
