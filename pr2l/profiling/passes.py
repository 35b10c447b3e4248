"""Measurements of a VLM's forward passes: other methods, each optimization, precisions, and the machine's limit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pr2l.core.statistics import Estimate, median_interval
from pr2l.core.types import Frames
from pr2l.profiling import precision, shapes
from pr2l.profiling.baselines import as_plain_batch, as_the_notebook
from pr2l.profiling.measure import Measure, exact
from pr2l.profiling.timing import (
    Effort,
    Variant,
    flops,
    matrix_product,
    peak_memory,
    profile,
    rate,
    speedup,
    time_in_turn,
)
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.checkpoint import cpu_has_bfloat16
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import OPTIMIZATIONS

TEXT = "where is the red torch ?"
TEXTS = (TEXT, "is there an imp ?", "how far is the medikit ?", "what do you see ?")
NOTEBOOK_FRAMES = 4  # the notebook's method takes the same time for each frame, so a few are enough
# shape -> {variant: (variant to compare with, minimum speed-up)}
GOALS = {"smolvlm-256m": {"ours": ("notebook", 4.0), "ours, int8": ("notebook", 8.0)}}


def generation(shape: str, size: int | None, tokens: int, effort: Effort) -> Iterator[Measure]:
    """Measure frames per second with generated tokens: notebook, plain batch, pr2l, and pr2l in other precisions.

    Args:
        shape: Name of the VLM's shape.
        size: Image size in pixels; None = the shape's own.
        tokens: Number of generated tokens.
        effort: Effort of the measurement.
    """
    frames, texts, few = draw_frames(effort.frames), [TEXT] * effort.frames, min(effort.frames, NOTEBOOK_FRAMES)
    with vlms(shape, image_size=size, new_tokens=tokens, min_new_tokens=tokens) as load:
        plain, ours = load(disable=OPTIMIZATIONS), load()
        lower = {"bfloat16": load(dtype="bfloat16")} if cpu_has_bfloat16() else {}
        lower |= {"int8": load(dtype="int8")} if not torch.cuda.is_available() else {}
        runs: dict[str, Callable[[], object]] = {
            "plain batch": partial(as_plain_batch, plain, frames, texts),
            "ours": partial(ours.hidden, frames, texts),
            **{f"ours, {name}": partial(vlm.hidden, frames, texts) for name, vlm in lower.items()},
        }
        variants = {"notebook": Variant(partial(as_the_notebook, plain, frames[:few], texts[:few]), few)}
        variants |= {name: Variant(run, len(frames)) for name, run in runs.items()}
        title = f"{shape}{f' {size} px' if size else ''}, {tokens} tokens"
        yield from frames_per_second(title, variants, effort, goals=GOALS.get(shape, {}))
        yield Measure(f"{title}: operations a frame", exact(flops(variants["ours"].run) / effort.frames / 1e9), "GFLOP")
        full = ours.hidden(frames, texts)
        yield from precision.of_rows(f"{title}: float32", ours, full, frames, texts)
        for name, vlm in lower.items():
            goal = 0.99 if name == "int8" and shape != "tiny" else None
            states = vlm.hidden(frames, texts)
            yield from precision.to_float32(f"{title}: {name}", states, full, goal)
            yield from precision.of_rows(f"{title}: {name}", vlm, states, frames, texts)
        for name in ("ours", *(f"ours, {optimization}" for optimization in lower)):
            for operation, share in profile(variants[name].run).items():
                yield Measure(f"{title}: {name}, share of time in {operation}", exact(share), "")


def half_the_layers(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure half the layers without generation, compared with a plain batch that runs all layers.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    frames, texts = draw_frames(effort.frames), [TEXT] * effort.frames
    with vlms(shape, generation="none") as load:
        half = partial(load, layers=middle_layers(load()))
        runs: dict[str, Callable[[], object]] = {
            "plain batch": partial(as_plain_batch, load(disable=OPTIMIZATIONS), frames, texts),
            "ours, all layers run": partial(half(disable=("early_exit",)).hidden, frames, texts),
            "ours": partial(half().hidden, frames, texts),
        }
        variants = {name: Variant(run, len(frames)) for name, run in runs.items()}
        goals = {"ours": ("plain batch", 1.8)}
        yield from frames_per_second(f"{shape}, half the layers", variants, effort, goals)


def per_optimization(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure the optimizations, switched on one after the other, with four prompts per frame and half the layers.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    count = max(1, effort.frames // 8)
    frames, texts = np.repeat(draw_frames(count), len(TEXTS), axis=0), list(TEXTS) * count
    with vlms(shape, generation="none") as load:
        half = partial(load, layers=middle_layers(load()))
        variants = {"no optimization": Variant(partial(half(disable=OPTIMIZATIONS).hidden, frames, texts), len(texts))}
        for number, optimization in enumerate(OPTIMIZATIONS[:-1], start=1):  # only Florence-2 has fused_layers
            run = partial(half(disable=OPTIMIZATIONS[number:]).hidden, frames, texts)
            variants[f"and {optimization}"] = Variant(run, len(texts))
        seconds = time_in_turn(variants, effort)
    before = seconds["no optimization"]
    for name, timings in seconds.items():
        title = f"{shape}, half the layers, {len(TEXTS)} prompts a frame: {name}"
        yield Measure(title, rate(timings), "prompts/s")
        if name != "no optimization":
            yield Measure(f"{title}, over the row before", speedup(before, timings), "x")
        before = timings


def further_prompts(shape: str, size: int, effort: Effort) -> Iterator[Measure]:
    """Measure the mean cost of the second to fourth prompts on a frame, as a fraction of the first.

    Args:
        shape: Name of the VLM's shape.
        size: Image size in pixels.
        effort: Effort of the measurement.
    """
    count = max(1, effort.frames // 4)
    frames = draw_frames(count)
    with vlms(shape, image_size=size, generation="none") as load:
        vlm = load()
        variants = {
            f"{prompts} prompts": Variant(
                partial(vlm.hidden, np.repeat(frames, prompts, axis=0), list(TEXTS[:prompts]) * count), count
            )
            for prompts in (1, len(TEXTS))
        }
        first, four = time_in_turn(variants, effort).values()
    share = Estimate(*((ratio - 1) / (len(TEXTS) - 1) for ratio in speedup(four, first)))
    yield Measure(f"{shape} {size} px: a further prompt on a frame, share of the first", share, "", 0.15, below=True)


def ceiling(shape: str, size: int | None, effort: Effort) -> Iterator[Measure]:
    """Measure a pass without generation: its operations, and its speed as a fraction of a matrix product's.

    Args:
        shape: Name of the VLM's shape.
        size: Image size in pixels; None = the shape's own.
        effort: Effort of the measurement.
    """
    reduced_effort = replace(effort, frames=max(1, effort.frames // 4)) if size else effort
    with vlms(shape, image_size=size, generation="none") as load:
        yield from share_of_ceiling(shape, load(), reduced_effort, 0.5 if shape == "smolvlm-256m" else None)


def share_of_ceiling(title: str, vlm: VLM, effort: Effort, goal: float | None) -> Iterator[Measure]:
    """Measure the operations per second of a pass, as a fraction of a matrix product's in the same rounds.

    Args:
        title: First words of the names of the measures.
        vlm: The VLM.
        effort: Effort of the measurement.
        goal: Minimum of the fraction; None = no goal.
    """
    frames = draw_frames(effort.frames)
    run = partial(vlm.hidden, frames, [TEXT] * effort.frames)
    product = matrix_product(vlm.model.dtype, vlm.model.device)
    operations, of_vision, of_product = flops(run), flops(partial(vlm.vision, frames)), flops(product)
    seconds = time_in_turn({"product": Variant(product), "pass": Variant(run)}, effort)
    share = [
        (operations / of_pass) / (of_product / of_limit)
        for of_pass, of_limit in zip(seconds["pass"], seconds["product"], strict=True)
    ]
    dtype = str(vlm.model.dtype).removeprefix("torch.")
    yield Measure(f"{title}: operations a frame", exact(operations / effort.frames / 1e9), "GFLOP")
    yield Measure(f"{title}: share of them in the vision tower", exact(of_vision / operations), "")
    yield Measure(f"this machine's {dtype} matrix product", rate(seconds["product"], of_product / 1e9), "GFLOP/s")
    yield Measure(f"{title}: share of it reached", median_interval(share), "", goal)


# Helpers.


def frames_per_second(
    title: str, variants: Mapping[str, Variant], effort: Effort, goals: Mapping[str, tuple[str, float]]
) -> Iterator[Measure]:
    """Time variants in turn; measure their frames per second, their speed-ups over the first, and their memory.

    Args:
        title: First words of the names of the measures.
        variants: Variants by name, the slowest first.
        effort: Effort of the measurement.
        goals: Another variant to compare with, and the goal, by name.
    """
    seconds = time_in_turn(variants, effort)
    for name, timings in seconds.items():
        yield Measure(f"{title}: {name}", rate(timings), "frames/s")
    slowest = next(iter(variants))
    for name, timings in list(seconds.items())[1:]:
        reference, goal = goals.get(name, (slowest, None))
        yield Measure(f"{title}: {name} over {reference}", speedup(seconds[reference], timings), "x", goal)
    for name, variant in variants.items():
        yield Measure(f"{title}: {name}, memory at its peak", exact(peak_memory(variant.run) / 1e6), "MB")


@contextmanager
def vlms(shape: str, **common: Any) -> Iterator[Callable[..., VLM]]:
    """Yield a function that loads a VLM of a shape, with the common options and further ones."""
    with tempfile.TemporaryDirectory(prefix="pr2l-shape-") as folder:
        path = shapes.checkpoint(shape, Path(folder))
        options = {key: value for key, value in common.items() if value is not None}
        yield lambda **further: load_vlm(path, Defaults(**{**options, **further}))


def middle_layers(vlm: VLM) -> tuple[int, int]:
    """Return the indices of the two layers in the middle of the language model."""
    middle = int(vlm.config.get_text_config().num_hidden_layers) // 2
    return middle - 1, middle


@cache
def draw_frames(count: int) -> Frames:
    """Draw random frames of the size of Doom's frames, once, so that drawing them is not timed."""
    return np.random.default_rng(0).integers(0, 256, (count, 120, 160, 3), dtype=np.uint8)
