"""Score an evaluator on recorded episodes whose success the environment knows: `pr2l evaluator score`.

    data set --frames, actions, instruction--> evaluator --probabilities--> agreement with the environment's verdicts

Answers of models are cached on disk at once, so the same command continues after an interruption, and pays only for
what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pr2l.agents.agreement import Agreement, Share, agreement
from pr2l.agents.evaluators.common.loading import load_evaluator
from pr2l.agents.judging import FOLDER, INSTRUCTION, instructions, probabilities
from pr2l.agents.usage import Usage
from pr2l.core.answer_cache import CACHE, AnswerCache
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.data.recording import Recording


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
        replay: Use answers in the cache only; an API then needs no key.
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
    tasks = instructions(data, instruction, numbers)
    scores = probabilities(data, judge, tasks, actions, every_step)
    result = agreement([scores[n] for n in numbers], [bool(data.successes[n]) for n in numbers])
    out = out or FOLDER / f"{dataset.resolve().name}-{evaluator}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"evaluator": evaluator, "options": dict(options or {}), "instruction": instruction}
    settings |= {"actions": actions, "every_step": every_step, "data": data.key}
    rows = [{"episode": n, "task": tasks[n], "success": data.successes[n], "probability": scores[n]} for n in numbers]
    usage = vars(judge.usage())
    write_json(out, {**settings, "agreement": result.to_json(), "usage": usage, "episodes": rows})
    show(result, judge.usage(), f"{evaluator} on {dataset}")
    Console().print(f"written to {out}", markup=False)
    return result


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
