"""How good is a prompt, before any policy is trained on it?

The paper's check, the rates of true yes and true no in what the VLM answers, and linear probes of what its states tell
about the thing that the context names: whether it is there, in which direction, how far.

    examples --VLM, prompt--> answers --------------------> says it is there, says it is not
                        \\---> states, per layer and segment --probes--> presence, direction, distance: a heat map
                                   \\--those that a policy would be given--> the same three, and the score: their mean
                                                                       skill, 0 = chance, 1 = all is told
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch.nn.functional import adaptive_avg_pool1d

from pr2l.core import prompt, registry
from pr2l.core.config import parse_options
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName, UserError, did_you_mean, explain
from pr2l.core.io import write_json
from pr2l.core.prompt import Prompt
from pr2l.core.statistics import Estimate
from pr2l.core.types import Segment
from pr2l.data.labelled_frames import Source
from pr2l.encoders.common.states import pool_grid
from pr2l.prompting import examples
from pr2l.prompting.examples import Examples
from pr2l.prompting.heatmap import draw_scores
from pr2l.prompting.probes import FOLDS, Probe, agreement, probe, says, share
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.loading import load_vlm

SEGMENTS: tuple[Segment, ...] = ("image", "prompt", "generated")
BATCH = 16  # frames per VLM call
IMAGE_TOKENS = 16  # of the image segment, by pooling: 4 x 4 places, so that a probe can tell where
MOST_LAYERS = 12  # in the heat map
FRAMES = Path("data/labelled")  # played frames, found again by what they were made from
SHOWN = 6  # answers that are kept for people to read

LayerSegment = tuple[int, Segment]  # a layer, as an index from the end, and a segment

_held: dict[tuple[str, Defaults], VLM] = {}  # the VLM that was loaded last
_depths: dict[str, int] = {}  # of VLMs that were loaded


class TooFewFrames(UserError):
    """The frames cannot tell prompts apart, whichever prompt it is."""


class Scoring(BaseModel):
    """What is scored, and on which frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str  # <environment>/<task>
    prompts: tuple[str, ...] = ()  # variants of the task, full names, or YAML files; () = every variant of the task
    vlm: str = "tiny"
    vlm_options: dict[str, Any] = Field(default_factory=dict)  # where a prompt gives no advice
    environment_options: dict[str, Any] = Field(default_factory=dict)
    frames: PositiveInt = 480  # to look at; about half of them are kept, those that tell prompts apart
    split: str = "evaluation"  # of the environment: rooms that neither `tiny` nor any policy has learned from
    seed: NonNegativeInt = 0  # of the frames: other seeds show other episodes, none of them one that `evaluate` plays
    data: Path | None = None  # a folder with labels.csv, or one of `pr2l collect --labels`; None = play


@dataclass(frozen=True)
class Reading:
    """What a VLM makes of N examples under one prompt. cells: float32 [N, F]; ms: per frame."""

    answers: list[str]
    cells: dict[LayerSegment, npt.NDArray[np.float32]]
    ms: float


@dataclass(frozen=True)
class PromptScore:
    """present, absent: the shares of frames with and without the target of which the answer says so; None = no answer.

    says: of each frame. view: probes of what a policy would be given, by what they tell; cells: of each layer and
    segment. A truth that cannot be probed, as it hardly varies, is absent.
    """

    prompt: Prompt
    options: Defaults
    present: Estimate | None
    absent: Estimate | None
    says: list[bool]
    view: dict[str, Probe]
    cells: dict[str, dict[LayerSegment, Probe]]
    ms: float
    answers: list[str]

    @property
    def score(self) -> float:
        """Mean skill of the view's probes: 0 = chance, 1 = everything is told."""
        return float(np.mean([each.skill for each in self.view.values()]))

    def as_json(self) -> dict[str, Any]:
        rates = {"present": self.present, "absent": self.absent}
        return {
            "prompt": self.prompt.model_dump(mode="json"),
            "vlm_options": self.options.model_dump(mode="json"),
            "score": self.score,
            "answers": {name: rate._asdict() if rate else None for name, rate in rates.items()},
            "view": {truth: _as_json(each) for truth, each in self.view.items()},
            "cells": {
                truth: {f"{segment}/{layer}": _as_json(each) for (layer, segment), each in cells.items()}
                for truth, cells in self.cells.items()
            },
            "ms_per_frame": self.ms,
            "some_answers": self.answers[:SHOWN],
        }


def score(scoring: Scoring, out: Path) -> list[PromptScore]:
    """Scores prompts, best first; prints tables and writes score.json and score.png into `out`.

    Raises UserError where a name is wrong, or the frames cannot tell prompts apart.
    """
    prompts = prompts_of(scoring)
    known = examples_of(scoring)
    readable = {each.name: options_for(each, scoring) for each in prompts}
    prompts = sorted(prompts, key=lambda each: readable[each.name].model_dump_json())  # each VLM is loaded once
    scores = [score_one(each, readable[each.name], scoring.vlm, known) for each in track(prompts, "prompts read")]
    scores.sort(key=lambda each: -each.score)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "score.json", _report(scoring, known, scores))
    draw_scores(scores, out / "score.png")
    console = Console()
    console.print(table(scoring, known, scores))
    if len(scores) > 1:
        console.print(agreements(scores))
    console.print(f"{out}: score.json, and score.png, which shows layer by layer where the information is", style="dim")
    return scores


def scoring_of(values: Mapping[str, Any]) -> Scoring:
    """A Scoring of these values; UserError for a key or a value that it refuses."""
    try:
        return Scoring.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, "prompts", Scoring)) from error


def examples_of(scoring: Scoring) -> Examples:
    """The frames to score on; played ones are kept below FRAMES."""
    environment, _, task = scoring.task.partition("/")
    folder = scoring.data
    if folder is not None and (folder / examples.TABLE).is_file():
        return examples.from_table(folder)
    world = registry.load("environments", environment)
    if task not in world.TASKS:
        raise UnknownName(f"tasks of {environment}", task, world.TASKS, hint="`pr2l list tasks` shows them.")
    if folder is not None:
        contexts = prompt.task_contexts(world.TASKS[task]) or []
        return examples.from_recording(folder, contexts, scoring.frames, scoring.seed)
    parse_options(world.Defaults, scoring.environment_options, f"environment_options of {environment!r}")
    what = scoring.model_dump(include={"frames", "split", "seed"})
    source = Source(environment=environment, tasks=(task,), options=scoring.environment_options, **what)
    return examples.play(source, FRAMES)


def prompts_of(scoring: Scoring) -> list[Prompt]:
    """The prompts named, or all of the task."""
    every = registry.names("prompts")
    own = [name for name in every if name.startswith(f"{scoring.task}/")]
    if not (own or scoring.prompts):
        hint = did_you_mean(scoring.task, {name.rpartition("/")[0] for name in every})
        raise UserError(f"there are no prompts for {scoring.task!r}.{hint} Name some with --prompts.")
    full = ("/" in name or name.endswith(".yaml") for name in scoring.prompts)
    named = [name if whole else f"{scoring.task}/{name}" for name, whole in zip(scoring.prompts, full, strict=True)]
    return [prompt.load(name) for name in named or own]


def options_for(asked: Prompt, scoring: Scoring) -> Defaults:
    """The VLM's options: those of the command, and the prompt's own advice over them."""
    values = {**scoring.vlm_options, **asked.vlm_options}
    return parse_options(Defaults, values, f"vlm_options for prompt {asked.name!r}")


def score_one(asked: Prompt, options: Defaults, vlm: str, known: Examples, *, cells: bool = True) -> PromptScore:
    """One prompt on examples. cells: also probe every layer and segment on its own, which takes the most time."""
    layers = _layers(vlm, options) if cells else options.layers
    seen = read(load(vlm, options.model_copy(update={"layers": layers})), asked, known)
    targets = [context.get("target", "") for context in known.contexts]  # a table of pictures may name none
    yes = np.array([says(*pair) for pair in zip(seen.answers, targets, strict=True)])
    given = [cell for cell in seen.cells if cell[0] in options.layers and cell[1] in asked.segments]
    if not given:
        raise UserError(f"prompt {asked.name!r} keeps {', '.join(asked.segments)}, of which nothing is read")
    view = _probes(np.concatenate([seen.cells[cell] for cell in given], axis=1), known)
    if not view:
        groups = len(np.unique(known.groups))
        raise TooFewFrames(
            f"{len(known)} frames of {groups} episodes, or other groups, are too few, or too alike, to tell prompts"
            f" apart; give more (frames=N), with the target there in {FOLDS} or more episodes and not there in as many"
        )
    each = {cell: _probes(values, known) for cell, values in seen.cells.items()} if cells else {}
    answered = options.generation != "none"
    return PromptScore(
        prompt=asked,
        options=options,
        present=share(yes[known.present], known.groups[known.present]) if answered else None,
        absent=share(~yes[~known.present], known.groups[~known.present]) if answered else None,
        says=yes.tolist(),
        view=view,
        cells={truth: {cell: found[truth] for cell, found in each.items() if truth in found} for truth in view},
        ms=seen.ms,
        answers=seen.answers,
    )


def read(vlm: VLM, asked: Prompt, known: Examples) -> Reading:
    """Answers and states of all examples; the time per frame is that of all batches but the first."""
    texts = prompt.check(asked, known.contexts)
    width, answers = vlm.prompt_length(texts), []
    parts: dict[LayerSegment, list[npt.NDArray[np.float32]]] = {}
    clock = [time.perf_counter()]
    for start in range(0, len(known), BATCH):
        rows = slice(start, start + BATCH)
        hidden = vlm.hidden(known.frames[rows], texts[rows], prompt_tokens=width)
        answers += hidden.answers
        for segment in SEGMENTS:
            span = hidden.spans[segment]
            if span.start == span.stop:
                continue
            pooled = _pooled(segment, hidden.states[:, :, span], hidden.mask[:, span])
            for place, layer in enumerate(vlm.options.layers):
                parts.setdefault((layer, segment), []).append(pooled[:, place].float().cpu().numpy())
        clock.append(time.perf_counter())
    spent, frames = (clock[-1] - clock[1], len(known) - BATCH) if len(clock) > 2 else (clock[-1] - clock[0], len(known))
    return Reading(answers, {cell: np.concatenate(part) for cell, part in parts.items()}, 1000 * spent / frames)


def table(scoring: Scoring, known: Examples, scores: Sequence[PromptScore]) -> Table:
    """Prompts, best first, with what each tells."""
    chances = {truth: 100 * each.chance for truth, each in scores[0].view.items()}
    frames = f"{len(known)} frames, {known.present.mean():.0%} with the target"
    drawn = Table(
        title=f"prompts for {scoring.task}, {scoring.vlm}, {frames}",
        caption="score: mean skill of the probes, 0 = chance; 95 % intervals: frames of an episode count as alike",
    )
    drawn.add_column("prompt", overflow="fold")
    heads = [f"{truth} %, chance {chance:.0f}" for truth, chance in chances.items()]
    for head in ("score", "says yes where it is, %", "no where it is not, %", *heads, "ms/frame"):
        drawn.add_column(head, justify="right")
    for each in scores:
        numbers = (each.present, each.absent, *(each.view[truth].accuracy for truth in chances))
        drawn.add_row(_short(each, scoring), f"{each.score:.2f}", *map(_percent, numbers), f"{each.ms:.0f}")
    return drawn


def agreements(scores: Sequence[PromptScore]) -> Table:
    """Cohen's kappa between every two prompts' answers."""
    drawn = Table(title="agreement of answers (Cohen's kappa; - where both never vary)")
    for head in ("", *(str(number) for number in range(1, len(scores) + 1))):
        drawn.add_column(head, justify="right")
    for number, row in enumerate(_kappas(scores), start=1):
        name = f"{scores[number - 1].prompt.name.rpartition('/')[2]} {number}"
        drawn.add_row(Text(name), *("-" if kappa is None else f"{kappa:.2f}" for kappa in row))
    return drawn


def _kappas(scores: Sequence[PromptScore]) -> list[list[float | None]]:
    return [[agreement(one.says, other.says) for other in scores] for one in scores]


def _report(scoring: Scoring, known: Examples, scores: Sequence[PromptScore]) -> dict[str, Any]:
    kappas = _kappas(scores)
    names = [each.prompt.name for each in scores]
    return {
        "command": sys.argv,
        "scoring": scoring.model_dump(mode="json"),
        "examples": {"frames": len(known), "present": int(known.present.sum())},
        "scores": [each.as_json() for each in scores],
        "agreement": {one: dict(zip(names, row, strict=True)) for one, row in zip(names, kappas, strict=True)},
    }


def _probes(features: npt.NDArray[np.float32], known: Examples) -> dict[str, Probe]:
    found = {name: probe(features[rows], values, known.groups[rows]) for name, (values, rows) in known.truths().items()}
    return {name: each for name, each in found.items() if each is not None}


def _pooled(segment: str, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, L, F] of a segment's states [B, L, T, D]: the image's places side by side, the mean of what has no place."""
    if segment != "image":
        real = mask[:, None, :, None]
        return (states * real).sum(2) / real.sum(2).clamp(min=1)
    side = int(states.shape[2] ** 0.5)
    if side**2 >= IMAGE_TOKENS and states.shape[2] - side**2 <= 1:
        return pool_grid(states, IMAGE_TOKENS).flatten(2)
    runs = adaptive_avg_pool1d(states.flatten(0, 1).transpose(1, 2), min(IMAGE_TOKENS, states.shape[2]))
    return runs.transpose(1, 2).reshape(*states.shape[:2], -1)


def _layers(vlm: str, options: Defaults) -> tuple[int, ...]:
    """Layers for the heat map, as indices from the end: all, or some of many; those asked for among them."""
    if vlm not in _depths:
        _depths[vlm] = load(vlm, options).depth
    depth = _depths[vlm]
    spread = np.linspace(-depth - 1, -1, min(depth + 1, MOST_LAYERS)).round().astype(int).tolist()
    return tuple(sorted({*spread, *options.layers}, key=lambda layer: layer % (depth + 1)))


def load(vlm: str, options: Defaults) -> VLM:
    """The VLM; it is held until another one is asked for, or the same with other options."""
    if (vlm, options) not in _held:
        _held.clear()  # first, as two large ones may not fit into memory
        gc.collect()  # a VLM and its engine hold each other
        _held[vlm, options] = load_vlm(vlm, options)
    return _held[vlm, options]


def _short(each: PromptScore, scoring: Scoring) -> Text:
    """Never read as rich's markup or :emoji:."""
    name = each.prompt.name.removeprefix(f"{scoring.task}/")
    return Text(f"{name}: {each.prompt.text or '(empty)'}")


def _percent(share: Estimate | None) -> str:
    return f"{100 * share.value:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})" if share else "-"


def _as_json(each: Probe) -> dict[str, Any]:
    return {**each.accuracy._asdict(), "chance": each.chance, "frames": each.frames}
