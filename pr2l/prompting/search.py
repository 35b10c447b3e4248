"""A good prompt, found: variants from templates, ranked by their score under a budget of frames.

Successive halving (Jamieson and Talwalkar 2016): all candidates are read on few frames, the best third of them on
three times as many, and so on; each rung takes the same share of the budget.

    24 candidates x 100 frames -> 8 x 300 -> 3 x 800

What was read is written down at once, under a digest of everything that it depends on; the same command goes on where
it was stopped, by Ctrl-C or otherwise.
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
import yaml
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table
from rich.text import Text

from pr2l.core import digest, prompt
from pr2l.core.config import read_config
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.prompt import Prompt
from pr2l.core.types import Segment
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

KEEP = 3  # one of so many goes on to the next rung
FEWEST = 60  # frames in the first rung: fewer tell prompts apart by chance only
RESULTS = "results.jsonl"  # a line for each candidate and rung
OWN = {"frames": "--budget", "prompts": "--space"}  # what is no option of a search, and what decides on it


class Space(BaseModel):
    """What may be combined: every auxiliary text with every question, and with every value of every option."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    auxiliary: tuple[str, ...] = ("",)  # what is said before the question; "" = nothing
    questions: tuple[str, ...] = Field(min_length=1)  # with the slots of the task's contexts
    vlm_options: dict[str, tuple[Any, ...]] = Field(default_factory=dict)  # option -> values, e.g. token_order, layers
    segments: tuple[tuple[Segment, ...], ...] = (SEGMENTS,)  # which ones to keep

    def prompts(self) -> list[Prompt]:
        """Every combination, each once."""
        options = [dict(zip(self.vlm_options, chosen, strict=True)) for chosen in product(*self.vlm_options.values())]
        made: dict[str, Prompt] = {}
        # Options first: candidates that stand together are read by the same VLM, which is loaded once.
        for chosen, segments, auxiliary, question in product(options, self.segments, self.auxiliary, self.questions):
            text = " ".join(part for part in (auxiliary, question) if part)
            parts = {"vlm_options": chosen, "segments": segments}
            made.setdefault(digest.of_json([text, parts]), _prompt(f"candidate {len(made) + 1}", text, parts))
        return list(made.values())


@dataclass(frozen=True)
class Found:
    """A candidate and the last that is known of it: the rung (from 0) that it reached, and its line in RESULTS."""

    prompt: Prompt
    rung: int
    line: dict[str, Any]

    @property
    def score(self) -> float:
        return float(self.line["score"])


def search(space_name: str, scoring: Scoring, out: Path, budget: int) -> list[Found]:
    """The candidates of a space, best first; writes RESULTS, and the best as best.yaml, into `out`.

    budget: frames to read, over all candidates. Where it does not do for all candidates, some are drawn by the seed.
    Candidates that the VLM cannot read, such as a token order that it does not know, are left out with a word. Raises
    UserError where it can read none, or the frames are too few.
    """
    for key, instead in OWN.items():
        if key in scoring.model_fields_set:
            raise UserError(f"a search decides on {key} itself; leave out {key}=, and give {instead}")
    console, space = Console(), read_config(Space, space_name)
    _weights.cache_clear()  # a VLM may have been trained again into the same folder
    candidates = space.prompts()
    rungs = plan(len(candidates), budget)
    drawn = np.random.default_rng(scoring.seed).permutation(len(candidates))[: rungs[0][0]]
    # About half of the frames that are looked at make an example.
    scoring = scoring.model_copy(update={"frames": 2 * rungs[-1][1]})
    known = examples_of(scoring)
    console.print(" -> ".join(f"{count} candidates x {frames} frames" for count, frames in rungs))
    out.mkdir(parents=True, exist_ok=True)
    running, found = set(drawn.tolist()), dict[int, Found]()
    try:
        for rung, (count, frames) in enumerate(rungs):
            ranked = sorted(running, key=lambda number: -found[number].score if number in found else 0)[:count]
            asked = {number: candidates[number] for number in sorted(ranked)}
            running = set()
            for number, each in _run(asked, rung, known.spread(frames), scoring, out, console):
                found[number] = each
                running.add(number)
    except KeyboardInterrupt:
        console.print(f"stopped; what was read is in {out / RESULTS}, and the same command goes on from there")
        raise
    best = sorted(found.values(), key=lambda one: (-one.rung, -one.score))
    if not best:
        raise UserError(f"{scoring.vlm} can read none of the candidates of {space_name}")
    _write(best[0].prompt, out / "best.yaml", scoring)
    console.print(table(best, scoring))
    console.print(f"{out / 'best.yaml'} is the best, to be copied to prompts/{scoring.task}/<name>.yaml", style="dim")
    return best


def plan(candidates: int, budget: int) -> list[tuple[int, int]]:
    """(candidates, frames each) of every rung; fewer candidates where each would get fewer than FEWEST frames."""
    for count in range(candidates, 0, -1):
        rungs = 1 + int(log(count, KEEP) + 1e-9)
        sizes = [ceil(count / KEEP**rung) for rung in range(rungs)]
        frames = [budget // (rungs * size) for size in sizes]
        if frames[0] >= FEWEST:
            return list(zip(sizes, frames, strict=True))
    raise UserError(f"a budget of {budget} frames does not do for one candidate: give at least {FEWEST}")


def table(found: Sequence[Found], scoring: Scoring) -> Table:
    """Candidates, the best first: those that came far before those that did not."""
    drawn = Table(title=f"prompts found for {scoring.task}, {scoring.vlm}", caption="score: mean skill of the probes")
    for head in ("rung", "frames", "score", "ms/frame"):
        drawn.add_column(head, justify="right")
    drawn.add_column("text and options", overflow="fold")
    for one in found:
        options = json.dumps(one.prompt.vlm_options) if one.prompt.vlm_options else ""
        numbers = (f"{one.rung + 1}", str(one.line["frames"]), f"{one.score:.2f}", f"{one.line['ms_per_frame']:.0f}")
        drawn.add_row(*numbers, Text.assemble(one.prompt.text or "(empty)", " ", (options, "dim")))
    return drawn


def _run(
    prompts: dict[int, Prompt], rung: int, known: Examples, scoring: Scoring, out: Path, console: Console
) -> Iterator[tuple[int, Found]]:
    """Each candidate, by its number, on these examples; from RESULTS where it was read before."""
    lines = _read(out / RESULTS)
    for place, (number, each) in enumerate(prompts.items(), start=1):
        key = _key(each, known, scoring)
        if key not in lines:
            try:
                score = score_one(each, options_for(each, scoring), scoring.vlm, known, cells=False)
            except TooFewFrames:
                raise
            except UserError as error:
                console.print(Text(f"{each.name} is left out: {error}", style="yellow"))
                continue
            lines[key] = _line(key, len(known), score)
            with (out / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[key]) + "\n")
        found = Found(each, rung, lines[key])
        said = f"rung {rung + 1}, {place}/{len(prompts)}: {found.score:.2f}  {each.text}"
        console.print(Text(said))
        yield number, found


def _key(asked: Prompt, known: Examples, scoring: Scoring) -> str:
    """Of all that a score depends on: what is asked, how it is read, by which weights, and the examples."""
    what = asked.model_dump(mode="json", include={"text", "vlm_options", "segments"})
    return digest.of_json([what, scoring.model_dump(mode="json")["vlm_options"], _weights(scoring.vlm), known.digest])


@lru_cache(maxsize=1)  # of one search: a digest of large weights takes long
def _weights(vlm: str) -> dict[str, str]:
    """Which weights a VLM's name stands for now. Raises UserError where there is no such VLM."""
    path = checkpoint.locate(vlm)
    checkpoint.read_values(path)  # asks the Hub for a VLM that is not here yet
    return checkpoint.source(path)


def _line(key: str, frames: int, score: PromptScore) -> dict[str, Any]:
    kept = {name: value for name, value in score.as_json().items() if name not in ("prompt", "cells", "some_answers")}
    return {"key": key, "text": score.prompt.text, "frames": frames, **kept}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Key -> line; what a kill cut short is no line, and is read again."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    if lines and lines[-1]:
        path.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    return {line["key"]: line for line in map(json.loads, lines[:-1])}


def _prompt(name: str, text: str, parts: dict[str, Any]) -> Prompt:
    slots = tuple(sorted(prompt.slots(text, name)))
    return Prompt(name=name, text=text, slots=slots, why="proposed by templates", source="a search space", **parts)


def _write(best: Prompt, path: Path, scoring: Scoring) -> None:
    values = best.model_dump(mode="json", exclude={"name"})
    said = {"why": f"the best of a search on {scoring.task} with {scoring.vlm}", "source": "`pr2l prompts search`"}
    path.write_text(yaml.safe_dump(values | said, sort_keys=False), encoding="utf-8")
