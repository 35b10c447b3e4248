"""Score prompts before training a policy.

Measures how often the VLM's answer is right about the presence of the target (true yes and true no rates, as in the
paper), and how well linear probes predict presence, direction and distance of the target from the hidden states.

    examples --VLM, prompt--> answers -------------------> true yes rate, true no rate
                        \\---> states, per layer and segment --probes--> accuracies: a heat map
                                   \\-- the policy's input --probes--> accuracies; their mean skill is the score
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
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch.nn.functional import adaptive_avg_pool1d

from pr2l.core import prompt, registry
from pr2l.core.config import Seed, parse_options
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
from pr2l.prompting.probes import FOLDS, LayerSegment, Probe, agreement, probe, says, share
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import as_prompts, by_row
from pr2l.vlms.loading import layer_count, load_vlm

SEGMENTS: tuple[Segment, ...] = ("image", "prompt", "generated")
BATCH = 16  # frames per VLM call
IMAGE_TOKENS = 16  # the image segment is pooled to a 4 x 4 grid, so that a probe can locate objects
MOST_LAYERS = 12  # maximum number of layers in the heat map
FRAMES = Path("data/labelled")  # played frames, in folders named by a digest of their source
STORED_ANSWERS = 6  # answers kept in score.json


_loaded: dict[tuple[str, Defaults], VLM] = {}  # the VLM that was loaded last


class TooFewFrames(UserError):
    """Error for too few frames to compare prompts."""


class Scoring(BaseModel):
    """Options of `pr2l prompts score`: prompts, VLM and frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str  # <environment>/<task>
    prompts: tuple[str, ...] = ()  # variants of the task, full names, or YAML files; () = every variant of the task
    vlm: str = "tiny"
    vlm_options: dict[str, Any] = Field(default_factory=dict)  # values in the prompt's file have priority
    environment_options: dict[str, Any] = Field(default_factory=dict)
    frames: PositiveInt = 480  # to play; about half of them are kept, for balance
    split: str = "evaluation"  # of the environment: rooms that neither `tiny` nor a policy was trained in
    seed: Seed = 0  # of the frames; no seed gives episodes that `evaluate` plays
    data: Path | None = None  # a folder with labels.csv or of `pr2l collect --labels`; None = play


@dataclass(frozen=True)
class Reading:
    """Output of a VLM for N examples with one prompt.

    Attributes:
        answers: N generated texts.
        cells: float32 [N, F] states of each layer and segment.
        ms: Milliseconds per frame.
    """

    answers: list[str]
    cells: dict[LayerSegment, npt.NDArray[np.float32]]
    ms: float


@dataclass(frozen=True)
class PromptScore:
    """Scores of one prompt.

    Attributes:
        prompt: The prompt.
        options: Options of the VLM.
        present: Fraction of frames with the target whose answer says that it is present; None without answers.
        absent: Fraction of frames without the target whose answer does not say that it is present; None without
            answers.
        says: For each frame, whether the answer says that the target is present.
        view: Probes on the states that a policy would get, by label. Labels with fewer than two usable classes are
            missing.
        cells: Probes on each layer and segment, by label; empty if only `view` was probed.
        ms: Milliseconds per frame.
        answers: Answer of the VLM for each frame.
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
        """Mean skill of the probes in `view`; 0 = chance, 1 = perfect."""
        return float(np.mean([probe.skill for probe in self.view.values()]))

    def as_json(self) -> dict[str, Any]:
        """Return the scores as JSON values, with the first SHOWN answers."""
        rates = {"present": self.present, "absent": self.absent}
        return {
            "prompt": self.prompt.model_dump(mode="json"),
            "vlm_options": self.options.model_dump(mode="json"),
            "score": self.score,
            "answers": {name: rate._asdict() if rate else None for name, rate in rates.items()},
            "view": {label: _as_json(result) for label, result in self.view.items()},
            "cells": {
                label: {f"{segment}/{layer}": _as_json(result) for (layer, segment), result in cells.items()}
                for label, cells in self.cells.items()
            },
            "ms_per_frame": self.ms,
            "some_answers": self.answers[:STORED_ANSWERS],
        }


def score(scoring: Scoring, out: Path) -> list[PromptScore]:
    """Score prompts; print tables and write score.json and score.png.

    Args:
        scoring: Prompts, VLM and frames.
        out: Folder to write to.

    Returns:
        Scores, best first.

    Raises:
        UserError: If a name is unknown, or there are too few frames.
    """
    prompts = prompts_of(scoring)
    examples = examples_of(scoring, max(variant.images for variant in prompts))
    options = {variant.name: options_for(variant, scoring) for variant in prompts}
    prompts = sorted(prompts, key=lambda variant: options[variant.name].model_dump_json())  # loads each VLM once
    scores = [
        score_one(variant, options[variant.name], scoring.vlm, examples)
        for variant in track(prompts, "scoring prompts")
    ]
    scores.sort(key=lambda result: -result.score)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "score.json", _report(scoring, examples, scores))
    draw_scores(scores, out / "score.png")
    console = Console()
    console.print(table(scoring, examples, scores))
    if len(scores) > 1:
        console.print(agreements(scores))
    files = "score.json, and score.png with the accuracy of every layer and segment"
    console.print(f"{out}: {files}", style="dim", markup=False)
    return scores


def scoring_of(values: Mapping[str, Any]) -> Scoring:
    """Return validated options.

    Args:
        values: Values by the names of the fields of Scoring.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    try:
        return Scoring.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, "prompts", Scoring)) from error


def examples_of(scoring: Scoring, frame_history: int = 1) -> Examples:
    """Return the labelled frames, from a folder or from the simulator.

    Frames from the simulator are stored below FRAMES, so that the next call with the same options reads them.

    Args:
        scoring: Task, frames and seed; `data` selects a folder.
        frame_history: K, number of frames of an example, for prompts of up to K images. The examples are otherwise the
            same for every K.

    Raises:
        UserError: If a name or option is unknown, the folder has no usable labels, or K > 1 and the folder has single
            pictures.
    """
    environment, _, task = scoring.task.partition("/")
    folder = scoring.data
    if folder is not None and (folder / examples.TABLE).is_file():
        if frame_history > 1:
            raise UserError(
                f"a prompt takes the last {frame_history} frames of an episode, and the pictures of"
                f" {folder / examples.TABLE} are single frames; choose prompts with one image (--prompts), or give"
                " episodes, which `pr2l collect --labels` records"
            )
        return examples.from_table(folder)
    world = registry.load("environments", environment)
    if task not in world.TASKS:
        raise UnknownName(f"tasks of {environment}", task, world.TASKS, hint="`pr2l list tasks` shows them.")
    if folder is not None:
        contexts = prompt.task_contexts(world.TASKS[task]) or []
        return examples.from_recording(folder, contexts, scoring.frames, scoring.seed, frame_history)
    parse_options(world.Defaults, scoring.environment_options, f"environment_options of {environment!r}")
    played = scoring.model_dump(include={"frames", "split", "seed"})
    source = Source(environment=environment, tasks=(task,), options=scoring.environment_options, **played)
    return examples.play(source, FRAMES, frame_history=frame_history)


def prompts_of(scoring: Scoring) -> list[Prompt]:
    """Return the prompts that the options name, or all prompts of the task if they name none.

    Args:
        scoring: Its `task` ("<environment>/<task>") and `prompts` are used. A prompt is the name of a variant of the
            task,
            a full name in prompts/, or the path of a YAML file.

    Raises:
        UserError: If a prompt is unknown, or the task has no prompts.
    """
    every = registry.names("prompts")
    of_task = [name for name in every if name.startswith(f"{scoring.task}/")]
    if not (of_task or scoring.prompts):
        hint = did_you_mean(scoring.task, {name.rpartition("/")[0] for name in every})
        raise UserError(f"there are no prompts for {scoring.task!r}.{hint} Name prompts with --prompts.")
    full = ("/" in name or name.endswith(".yaml") for name in scoring.prompts)
    named = [name if is_full else f"{scoring.task}/{name}" for name, is_full in zip(scoring.prompts, full, strict=True)]
    return [prompt.load(name) for name in named or of_task]


def options_for(variant: Prompt, scoring: Scoring) -> Defaults:
    """Return the VLM's options for a prompt: those of the command, overridden by those in the prompt's file.

    Args:
        variant: The prompt, whose `vlm_options` come from its file.
        scoring: Options of the command; its `vlm_options` are used.

    Raises:
        UserError: An option is unknown or has a wrong value.
    """
    values = {**scoring.vlm_options, **variant.vlm_options}
    return parse_options(Defaults, values, f"vlm_options for prompt {variant.name!r}")


def score_one(variant: Prompt, options: Defaults, vlm: str, examples: Examples, *, cells: bool = True) -> PromptScore:
    """Score one prompt.

    Args:
        variant: The prompt.
        options: Options of the VLM.
        vlm: Name of the VLM.
        examples: Labelled frames.
        cells: Whether to probe every layer and segment too. This takes most of the time.

    Raises:
        UserError: If the VLM has no states for any of the prompt's segments.
        TooFewFrames: If the frames are too few to probe any label.
    """
    layers = _layers(vlm, options) if cells else options.layers
    reading = read(load(vlm, options.model_copy(update={"layers": layers})), variant, examples)
    targets = [context.get("target", "") for context in examples.contexts]  # a table of pictures may have none
    yes = np.array([says(answer, target) for answer, target in zip(reading.answers, targets, strict=True)])
    used_cells = [cell for cell in reading.cells if cell[0] in options.layers and cell[1] in variant.segments]
    if not used_cells:
        raise UserError(
            f"prompt {variant.name!r} selects the segments {', '.join(variant.segments)}, but the VLM has no states of"
            " them"
        )
    view = _probes(np.concatenate([reading.cells[cell] for cell in used_cells], axis=1), examples)
    if not view:
        groups = len(np.unique(examples.groups))
        raise TooFewFrames(
            f"{len(examples)} frames of {groups} episodes or groups are too few to compare prompts; use more"
            f" (frames=N): the target must be present in at least {FOLDS} episodes, and absent in at least {FOLDS}"
        )
    of_cells = {cell: _probes(values, examples) for cell, values in reading.cells.items()} if cells else {}
    answered = options.generation != "none"
    return PromptScore(
        prompt=variant,
        options=options,
        present=share(yes[examples.present], examples.groups[examples.present]) if answered else None,
        absent=share(~yes[~examples.present], examples.groups[~examples.present]) if answered else None,
        says=yes.tolist(),
        view=view,
        cells={label: {cell: probes[label] for cell, probes in of_cells.items() if label in probes} for label in view},
        ms=reading.ms,
        answers=reading.answers,
    )


def read(vlm: VLM, variant: Prompt, examples: Examples) -> Reading:
    """Return a VLM's answers and states for all examples.

    Args:
        vlm: The VLM, with the layers to read in its options.
        variant: The prompt.
        examples: Labelled frames.

    Returns:
        The reading. The time per frame excludes the first batch if there are several.

    Raises:
        UserError: If a context lacks a slot, or the examples have fewer frames than the prompt has images.
    """
    frames = examples.last_frames(variant.images)
    prompts: Any = [variant.fill(context) for context in examples.contexts]
    width, answers = vlm.prompt_length(prompts), []
    grids = vlm.grids(as_prompts(prompts[:1])[0])
    features: dict[LayerSegment, list[npt.NDArray[np.float32]]] = {}
    clock = [time.perf_counter()]
    for start in range(0, len(examples), BATCH):
        rows = slice(start, start + BATCH)
        hidden = vlm.hidden(by_row(variant.images_in(frames[rows])), prompts[rows], prompt_tokens=width)
        answers += hidden.answers
        for segment in SEGMENTS:
            span = hidden.spans[segment]
            if span.start == span.stop:
                continue
            pooled = _pooled(segment, hidden.states[:, :, span], hidden.mask[:, span], grids)
            for index, layer in enumerate(vlm.options.layers):
                features.setdefault((layer, segment), []).append(pooled[:, index].float().cpu().numpy())
        clock.append(time.perf_counter())
    spent, count = (
        (clock[-1] - clock[1], len(examples) - BATCH) if len(clock) > 2 else (clock[-1] - clock[0], len(examples))
    )
    return Reading(answers, {cell: np.concatenate(batches) for cell, batches in features.items()}, 1000 * spent / count)


def table(scoring: Scoring, examples: Examples, scores: Sequence[PromptScore]) -> Table:
    """Return the table of prompts.

    Args:
        scoring: Options of the scores.
        examples: Labelled frames of the scores.
        scores: Scores in the order of the rows.
    """
    chances = {label: 100 * result.chance for label, result in scores[0].view.items()}
    frames = f"{len(examples)} frames, {examples.present.mean():.0%} with the target"
    score_table = Table(
        title=Text(f"prompts for {scoring.task}, {scoring.vlm}, {frames}", style="table.title"),
        caption="score: mean skill of the probes, 0 = chance, 1 = perfect; 95 % intervals over episodes",
    )
    score_table.add_column("prompt", overflow="fold")
    heads = [f"{label} %, chance {chance:.0f}" for label, chance in chances.items()]
    for head in ("score", "true yes, %", "true no, %", *heads, "ms/frame"):
        score_table.add_column(head, justify="right")
    for score in scores:
        numbers = (score.present, score.absent, *(score.view[label].accuracy for label in chances))
        score_table.add_row(_short(score, scoring), f"{score.score:.2f}", *map(_percent, numbers), f"{score.ms:.0f}")
    return score_table


def agreements(scores: Sequence[PromptScore]) -> Table:
    """Return the table of Cohen's kappa between the answers of every two prompts.

    Args:
        scores: Scores of the prompts on the same examples; row and column n of the table are the n-th prompt.
    """
    kappa_table = Table(title="agreement of answers (Cohen's kappa; -: both are constant)")
    for head in ("", *(str(number) for number in range(1, len(scores) + 1))):
        kappa_table.add_column(head, justify="right")
    for number, row in enumerate(_kappas(scores), start=1):
        name = f"{scores[number - 1].prompt.name.rpartition('/')[2]} {number}"
        kappa_table.add_row(Text(name), *("-" if kappa is None else f"{kappa:.2f}" for kappa in row))
    return kappa_table


def _kappas(scores: Sequence[PromptScore]) -> list[list[float | None]]:
    return [[agreement(row.says, column.says) for column in scores] for row in scores]


def _report(scoring: Scoring, examples: Examples, scores: Sequence[PromptScore]) -> dict[str, Any]:
    kappas = _kappas(scores)
    names = [score.prompt.name for score in scores]
    return {
        "command": sys.argv,
        "scoring": scoring.model_dump(mode="json"),
        "examples": {"frames": len(examples), "present": int(examples.present.sum())},
        "scores": [score.as_json() for score in scores],
        "agreement": {name: dict(zip(names, row, strict=True)) for name, row in zip(names, kappas, strict=True)},
    }


def _probes(features: npt.NDArray[np.float32], examples: Examples) -> dict[str, Probe]:
    labels = examples.labels().items()
    results = {name: probe(features[rows], values, examples.groups[rows]) for name, (values, rows) in labels}
    return {name: result for name, result in results.items() if result is not None}


def _pooled(segment: str, states: torch.Tensor, mask: torch.Tensor, grids: Sequence[int]) -> torch.Tensor:
    """Return features [B, L, F] of a segment's states [B, L, T, D].

    The tokens of each image, and of each grid of a video, are pooled to a grid (or to runs, without a square grid) and
    concatenated; text tokens are averaged.
    """
    if segment == "image":
        return torch.cat([_pooled_image(grid) for grid in states.split(list(grids), dim=2)], dim=2)
    real = mask[:, None, :, None]
    return (states * real).sum(2) / real.sum(2).clamp(min=1)


def _pooled_image(states: torch.Tensor) -> torch.Tensor:
    side = int(states.shape[2] ** 0.5)
    if side**2 >= IMAGE_TOKENS and states.shape[2] - side**2 <= 1:
        return pool_grid(states, IMAGE_TOKENS).flatten(2)
    runs = adaptive_avg_pool1d(states.flatten(0, 1).transpose(1, 2), min(IMAGE_TOKENS, states.shape[2]))
    return runs.transpose(1, 2).reshape(*states.shape[:2], -1)


def _layers(vlm: str, options: Defaults) -> tuple[int, ...]:
    """Return layers for the heat map, as indices from the end.

    They are at most MOST_LAYERS evenly spread layers, and the layers of the options.
    """
    depth = layer_count(vlm)
    spread = np.linspace(-depth - 1, -1, min(depth + 1, MOST_LAYERS)).round().astype(int).tolist()
    return tuple(sorted({*spread, *options.layers}, key=lambda layer: layer % (depth + 1)))


def load(vlm: str, options: Defaults) -> VLM:
    """Load a VLM, or return the one that was loaded last if name and options are the same.

    Args:
        vlm: Name of the VLM.
        options: Options of the VLM.
    """
    if (vlm, options) not in _loaded:
        _loaded.clear()  # first: two large VLMs may not fit into memory
        gc.collect()  # a VLM and its engine refer to each other
        _loaded[vlm, options] = load_vlm(vlm, options)
    return _loaded[vlm, options]


def _short(score: PromptScore, scoring: Scoring) -> Text:
    """Return a prompt's name and text, as Text so that rich does not interpret markup or :emoji: in it."""
    name = score.prompt.name.removeprefix(f"{scoring.task}/")
    return Text(f"{name}: {' '.join(score.prompt.texts) or '(empty)'}")


def _percent(share: Estimate | None) -> str:
    return f"{100 * share.value:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})" if share else "-"


def _as_json(result: Probe) -> dict[str, Any]:
    return {**result.accuracy._asdict(), "chance": result.chance, "frames": result.frames}
