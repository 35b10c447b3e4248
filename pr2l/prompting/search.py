"""Search for a prompt: candidates from templates, ranked by their score within a budget of frames.

Successive halving (Jamieson and Talwalkar 2016): all candidates are scored on few frames, the best third of them on
three times as many, and so on. Each rung gets the same fraction of the budget.

    24 candidates x 100 frames -> 8 x 300 -> 3 x 800

Every result is written immediately, with a digest of everything that it depends on, so that the same command resumes
an interrupted search.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, log
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table
from rich.text import Text

from pr2l.core import digest, prompt
from pr2l.core.config import read_config
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, json_line, parse_json, write_text
from pr2l.core.lock import locked
from pr2l.core.prompt import Prompt
from pr2l.core.types import Segment
from pr2l.core.yaml_files import dump
from pr2l.prompting.examples import Examples
from pr2l.prompting.score import (
    SEGMENTS,
    PromptScore,
    Scoring,
    TooFewFrames,
    examples_of,
    options_for,
    score_one,
)
from pr2l.vlms import checkpoint

KEEP = 3  # one in KEEP candidates reaches the next rung
FEWEST = 60  # frames in the first rung: with fewer, the ranking is noise
RESULTS = "results.jsonl"  # one line per candidate and rung
REPLACED = {"frames": "--budget", "prompts": "--space"}  # options of Scoring that a search sets -> their replacements


class Space(BaseModel):
    """Search space: all combinations of auxiliary texts, questions, option values and segments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    auxiliary: tuple[str, ...] = ("",)  # text before the question; "" = none
    questions: tuple[str, ...] = Field(min_length=1)  # with slots of the task's contexts
    vlm_options: dict[str, tuple[Any, ...]] = Field(default_factory=dict)  # option -> values, e.g. token_order, layers
    segments: tuple[tuple[Segment, ...], ...] = (SEGMENTS,)  # segments whose states are kept

    def prompts(self) -> list[Prompt]:
        """Return the candidates: one prompt for each distinct combination."""
        options = [dict(zip(self.vlm_options, values, strict=True)) for values in product(*self.vlm_options.values())]
        prompts: dict[str, Prompt] = {}
        # Options vary slowest, so that each VLM is loaded once.
        for vlm_options, segments, auxiliary, question in product(
            options, self.segments, self.auxiliary, self.questions
        ):
            text = f"{auxiliary} {question}".strip()
            reading = {"vlm_options": vlm_options, "segments": segments}
            key = digest.of_json([text, reading])
            prompts.setdefault(key, _prompt(f"candidate {len(prompts) + 1}", text, reading))
        return list(prompts.values())


@dataclass(frozen=True)
class Candidate:
    """Scored candidate.

    Attributes:
        prompt: The candidate's prompt.
        rung: The last rung that the candidate reached; 0 = the first.
        line: The candidate's line in RESULTS for that rung.
    """

    prompt: Prompt
    rung: int
    line: dict[str, Any]

    @property
    def score(self) -> float:
        """Score in the candidate's last rung; 0 = chance, 1 = perfect."""
        return float(self.line["score"])


def search(space_name: str, scoring: Scoring, out: Path, budget: int) -> list[Candidate]:
    """Search a space; write RESULTS, and the best prompt as best.yaml.

    Args:
        space_name: Name of the search space in configs/, or a YAML file.
        scoring: Task, VLM, options of the VLM, and seed. `frames` and `prompts` must not be set.
        out: Folder to write to.
        budget: Number of frames for the VLM, over all candidates. If it is too small for all candidates, a random
            subset is scored.

    Returns:
        Candidates, best first. Candidates that the VLM cannot process are missing, for example if the VLM does not
        support their token order.

    Raises:
        UserError: If another process uses the folder, the VLM can process no candidate, there are too few frames, or
            `scoring` sets a forbidden option.
    """
    for key, option in REPLACED.items():
        if key in scoring.model_fields_set:
            raise UserError(f"a search chooses {key} itself; use {option} instead of {key}=")
    space = read_config(Space, space_name)
    with locked(out):
        return _search(space_name, space, scoring, out, budget)


def _search(space_name: str, space: Space, scoring: Scoring, out: Path, budget: int) -> list[Candidate]:
    console = Console()
    _weights.cache_clear()  # a VLM may have been trained again into the same folder
    candidates = space.prompts()
    rungs = plan(len(candidates), budget)
    sampled = np.random.default_rng(scoring.seed).permutation(len(candidates))[: rungs[0][0]]
    # About half of the played frames become examples.
    scoring = scoring.model_copy(update={"frames": 2 * rungs[-1][1]})
    examples = examples_of(scoring)
    console.print(" -> ".join(f"{count} candidates x {frames} frames" for count, frames in rungs))
    running, scored = set(sampled.tolist()), dict[int, Candidate]()
    try:
        for rung, (count, frames) in enumerate(rungs):
            ranked = sorted(running, key=lambda number: -scored[number].score if number in scored else 0)[:count]
            selected = {number: candidates[number] for number in sorted(ranked)}
            running = set()
            for number, candidate in _run(selected, rung, examples.spread(frames), scoring, out, console):
                scored[number] = candidate
                running.add(number)
    except KeyboardInterrupt:
        console.print(f"stopped; results so far are in {out / RESULTS}, and the same command resumes", markup=False)
        raise
    best = sorted(scored.values(), key=lambda candidate: (-candidate.rung, -candidate.score))
    if not best:
        raise UserError(f"{scoring.vlm} cannot read any candidate of {space_name}; see the reasons above")
    _write(best[0].prompt, out / "best.yaml", scoring)
    console.print(table(best, scoring))
    advice = f"{out / 'best.yaml'} is the best; copy it to prompts/{scoring.task}/ to use it by name"
    console.print(advice, style="dim", markup=False)
    return best


def plan(candidates: int, budget: int) -> list[tuple[int, int]]:
    """Return the number of candidates and the frames per candidate of every rung.

    Args:
        candidates: Number of available candidates. Fewer are used if each would get fewer than FEWEST frames.
        budget: Number of frames over all candidates.

    Raises:
        UserError: If the budget is less than FEWEST.
    """
    for count in range(candidates, 0, -1):
        rungs = 1 + int(log(count, KEEP) + 1e-9)
        sizes = [ceil(count / KEEP**rung) for rung in range(rungs)]
        frames = [budget // (rungs * size) for size in sizes]
        if frames[0] >= FEWEST:
            return list(zip(sizes, frames, strict=True))
    raise UserError(f"a budget of {budget} frames is too small for one candidate; use at least {FEWEST}")


def table(candidates: Sequence[Candidate], scoring: Scoring) -> Table:
    """Return the table of candidates.

    Args:
        candidates: Candidates in the order of the rows.
        scoring: Task and VLM of the search.
    """
    score_table = Table(
        title=Text(f"best prompts for {scoring.task}, {scoring.vlm}", style="table.title"),
        caption="score: mean skill of the probes",
    )
    for head in ("rung", "frames", "score", "ms/frame"):
        score_table.add_column(head, justify="right")
    score_table.add_column("text and options", overflow="fold")
    for candidate in candidates:
        variant, line = candidate.prompt, candidate.line
        options = json.dumps(variant.vlm_options) if variant.vlm_options else ""
        numbers = (f"{candidate.rung + 1}", str(line["frames"]), f"{candidate.score:.2f}")
        text = Text.assemble(variant.text or "(empty)", " ", (options, "dim"))
        score_table.add_row(*numbers, f"{line['ms_per_frame']:.0f}", text)
    return score_table


def _run(
    prompts: dict[int, Prompt], rung: int, examples: Examples, scoring: Scoring, out: Path, console: Console
) -> Iterator[tuple[int, Candidate]]:
    """Score candidates on these examples, or read their scores from RESULTS; yield number and candidate."""
    lines = _read(out / RESULTS)
    for position, (number, variant) in enumerate(prompts.items(), start=1):
        key = _key(variant, examples, scoring)
        if key not in lines:
            try:
                score = score_one(variant, options_for(variant, scoring), scoring.vlm, examples, cells=False)
            except TooFewFrames:
                raise
            except UserError as error:
                console.print(Text(f"{variant.name} is left out: {error}", style="yellow"))
                continue
            lines[key] = _line(key, len(examples), score)
            with (out / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json_line(lines[key]))
        candidate = Candidate(variant, rung, lines[key])
        console.print(Text(f"rung {rung + 1}, {position}/{len(prompts)}: {candidate.score:.2f}  {variant.text}"))
        yield number, candidate


def _key(variant: Prompt, examples: Examples, scoring: Scoring) -> str:
    """Return a digest of everything that a score depends on: prompt, options, weights and examples."""
    prompt_values = variant.model_dump(mode="json", include={"text", "vlm_options", "segments"})
    options = scoring.model_dump(mode="json")["vlm_options"]
    return digest.of_json([prompt_values, options, _weights(scoring.vlm), examples.digest])


@lru_cache(maxsize=1)  # a digest of large weights takes long
def _weights(vlm: str) -> dict[str, str]:
    """Return digests of the weights of the VLM with this name; UserError if there is no such VLM."""
    path = checkpoint.locate(vlm)
    checkpoint.read_values(path)  # downloads the config of a VLM that is not here yet
    return checkpoint.source(path)


def _line(key: str, frames: int, score: PromptScore) -> dict[str, Any]:
    values = {name: value for name, value in score.as_json().items() if name not in ("prompt", "cells", "some_answers")}
    return {"key": key, "text": score.prompt.text, "frames": frames, **values}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the lines by key; remove an incomplete last line, which a killed process leaves."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    if lines and lines[-1]:
        write_text(path, b"\n".join([*lines[:-1], b""]).decode(errors="replace"))
    results = {}
    for number, line in enumerate(lines[:-1], 1):
        hint = f"Remove line {number}: the search scores its prompt again."
        values = parse_json(line.decode(errors="replace"), path, hint)
        if "key" not in values:
            raise DamagedFile(path, f"line {number} has no key", hint)
        results[values["key"]] = values
    return results


def _prompt(name: str, text: str, reading: dict[str, Any]) -> Prompt:
    slots = tuple(sorted(prompt.slots(text, name)))
    return Prompt(name=name, text=text, slots=slots, why="proposed by templates", source="a search space", **reading)


def _write(best: Prompt, path: Path, scoring: Scoring) -> None:
    values = best.model_dump(mode="json", exclude={"name", "messages"})
    origin = {"why": f"the best of a search on {scoring.task} with {scoring.vlm}", "source": "`pr2l prompts search`"}
    write_text(path, dump(values | origin))
