"""`pr2l speed`: speed of embedding on this machine, compared with other methods, and the gain of each optimization.

One process times all variants in turn (timing.py). The results are a table with goals, a JSON file and a figure. VLMs
other than `tiny` are shapes with random weights (shapes.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

from pr2l.core import registry
from pr2l.core.config import RunConfig, load_config
from pr2l.core.console import Console
from pr2l.core.errors import UnknownName
from pr2l.core.io import write_json
from pr2l.core.machine import device
from pr2l.core.types import Frames, Hidden
from pr2l.data.store import Store
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.policies.base import Hooks, Learner
from pr2l.profiling import shapes
from pr2l.profiling.timing import MedianRange, flops, matrix_ceiling, peak_memory, profile, speedup, time_in_turn
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed, observation_space
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.checkpoint import cpu_has_bfloat16
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import OPTIMIZATIONS

TEXT = "where is the red torch ?"
# Overrides with which a rollout takes minutes instead of an hour, and an update takes less time too.
SMALL_ROLLOUTS = (
    "num_envs=8",
    "vlm_options.image_size=256",
    "encoder_options.image_tokens=null",
    "algorithm_options.n_steps=16",
)
TEXTS = (TEXT, "is there an imp ?", "how far is the medikit ?", "what do you see ?")


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Args:
        name: Name of the measurement.
        value: Result over the rounds.
        unit: Unit of the result.
        goal: Minimum of the median, or its maximum if `below`; None = no goal.
        below: Whether smaller is better.
    """

    name: str
    value: MedianRange
    unit: str
    goal: float | None = None
    below: bool = False

    @property
    def verdict(self) -> str:
        """Text that compares the median with the goal; "" without a goal."""
        if self.goal is None:
            return ""
        is_reached = self.value.median <= self.goal if self.below else self.value.median >= self.goal
        return ("reached " if is_reached else "MISSED ") + f"({'<=' if self.below else '>='} {self.goal:g})"


@dataclass(frozen=True)
class Effort:
    """Effort of a measurement.

    Args:
        frames: Frames in a batch.
        rounds: Rounds of timing.
    """

    frames: int = 16
    rounds: int = 3


# Baselines.


def as_the_notebook(vlm: VLM, frames: Frames, texts: Sequence[str]) -> torch.Tensor:
    """Embed by the method of the paper's notebook: `generate` for one frame at a time, with the states of all layers.

    The image processor is pr2l's, which is faster than the notebook's and gives the same pixels.

    Args:
        vlm: The VLM.
        frames: uint8 [B, H, W, 3].
        texts: One prompt per frame, of equal length in tokens.

    Returns:
        float32 [B, T, 2 D], states of the last two layers at image, prompt and generated tokens.
    """
    return torch.cat([as_plain_batch(vlm, frames[row : row + 1], [text]) for row, text in enumerate(texts)])


@torch.no_grad()
def as_plain_batch(vlm: VLM, frames: Frames, texts: Sequence[str]) -> torch.Tensor:
    """Embed all frames in one batch with `generate`, or with a forward pass if `vlm.new_tokens` is 0.

    Args:
        vlm: The VLM.
        frames: uint8 [B, H, W, 3].
        texts: One prompt per frame.

    Returns:
        float32 [B, T, 2 D], states of the last two layers at image, prompt and generated tokens.
    """
    inputs = vlm.inputs(frames, list(texts))
    if not vlm.new_tokens:
        out = vlm.model(**inputs, output_hidden_states=True)
        out = getattr(out, "language_model_outputs", out)  # InstructBLIP's are nested
        return _last_two(out.encoder_hidden_states if vlm.is_encoder_decoder else out.hidden_states)
    out = vlm.model.generate(
        **inputs, max_new_tokens=vlm.new_tokens, output_hidden_states=True, return_dict_in_generate=True
    )
    steps = out.decoder_hidden_states if vlm.is_encoder_decoder else out.hidden_states
    first = out.encoder_hidden_states if vlm.is_encoder_decoder else steps[0]
    return torch.cat([_last_two(first), *map(_last_two, steps[1:])], dim=1)


def _last_two(states: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([states[-2], states[-1]], dim=-1).float()


# Measurements.


def generation(shape: str, size: int | None, tokens: int, effort: Effort) -> Iterator[Measure]:
    """Measure frames per second with generated tokens: notebook, plain batch, pr2l, and pr2l in other precisions.

    Args:
        shape: Name of the VLM's shape.
        size: Image size in pixels; None = the shape's own.
        tokens: Number of generated tokens.
        effort: Effort of the measurement.
    """
    frames, texts = _frames(effort.frames), [TEXT] * effort.frames
    with _vlms(shape, image_size=size, new_tokens=tokens, min_new_tokens=tokens) as load:
        plain, ours = load(disable=OPTIMIZATIONS), load()
        lower = {"bfloat16": load(dtype="bfloat16")} if cpu_has_bfloat16() else {}
        lower |= {"int8": load(dtype="int8")} if not torch.cuda.is_available() else {}
        variants: dict[str, Callable[[], Any]] = {
            "notebook": partial(as_the_notebook, plain, frames, texts),
            "plain batch": partial(as_plain_batch, plain, frames, texts),
            "ours": partial(ours.hidden, frames, texts),
            **{f"ours, {name}": partial(vlm.hidden, frames, texts) for name, vlm in lower.items()},
        }
        title = f"{shape}{f' {size} px' if size else ''}, {tokens} tokens"
        yield from _frames_per_second(title, variants, effort, goals=GOALS.get(shape, {}))
        yield Measure(
            f"{title}: operations a frame", MedianRange.of([flops(variants["ours"]) / effort.frames / 1e9]), "GFLOP"
        )
        for name, vlm in lower.items():
            goal = 0.99 if name == "int8" and shape != "tiny" else None
            cosine = _cosine(ours.hidden(frames, texts).states, vlm.hidden(frames, texts).states)
            yield Measure(f"{title}: cosine of {name} to float32", cosine, "", goal)
        for name in ("ours", *(f"ours, {optimization}" for optimization in lower)):
            for operation, share in profile(variants[name]).items():
                yield Measure(f"{title}: {name}, share of time in {operation}", MedianRange.of([share]), "")


def half_the_layers(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure half the layers without generation, compared with a plain batch that runs all layers.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    frames, texts = _frames(effort.frames), [TEXT] * effort.frames
    with _vlms(shape, generation="none") as load:
        depth = int(load().config.get_text_config().num_hidden_layers)
        half = partial(load, layers=(depth // 2 - 1, depth // 2))
        variants: dict[str, Callable[[], Any]] = {
            "plain batch": partial(as_plain_batch, load(disable=OPTIMIZATIONS), frames, texts),
            "ours, all layers run": partial(half(disable=("early_exit",)).hidden, frames, texts),
            "ours": partial(half().hidden, frames, texts),
        }
        yield from _frames_per_second(
            f"{shape}, half the layers", variants, effort, goals={"ours": ("plain batch", 1.8)}
        )


def per_optimization(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure the optimizations, switched on one after the other, with four prompts per frame and half the layers.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    count = max(1, effort.frames // 8)
    frames, texts = np.repeat(_frames(count), len(TEXTS), axis=0), list(TEXTS) * count
    with _vlms(shape, generation="none") as load:
        depth = load().config.get_text_config().num_hidden_layers
        half = partial(load, layers=(depth // 2 - 1, depth // 2))
        variants = {"no optimization": partial(half(disable=OPTIMIZATIONS).hidden, frames, texts)}
        for number, optimization in enumerate(OPTIMIZATIONS, start=1):
            variants[f"and {optimization}"] = partial(half(disable=OPTIMIZATIONS[number:]).hidden, frames, texts)
        seconds = time_in_turn(variants, effort.rounds)
    before = seconds["no optimization"]
    for name, timings in seconds.items():
        title = f"{shape}, half the layers, {len(TEXTS)} prompts a frame: {name}"
        yield Measure(title, MedianRange.of([len(texts) / duration for duration in timings]), "prompts/s")
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
    frames = _frames(count)
    with _vlms(shape, image_size=size, generation="none") as load:
        vlm = load()
        calls = {
            f"{prompts} prompts": partial(vlm.hidden, np.repeat(frames, prompts, axis=0), list(TEXTS[:prompts]) * count)
            for prompts in (1, len(TEXTS))
        }
        seconds = time_in_turn(calls, effort.rounds)
    single, four = seconds.values()
    share = MedianRange.of(
        [(more - first) / (len(TEXTS) - 1) / first for first, more in zip(single, four, strict=True)]
    )
    yield Measure(f"{shape} {size} px: a further prompt on a frame, share of the first", share, "", 0.15, below=True)


def ceiling(shape: str, size: int | None, effort: Effort) -> Iterator[Measure]:
    """Measure a pass without generation: its operations, and its speed as a fraction of a matrix product's.

    Args:
        shape: Name of the VLM's shape.
        size: Image size in pixels; None = the shape's own.
        effort: Effort of the measurement.
    """
    reduced_effort = replace(effort, frames=max(1, effort.frames // 4)) if size else effort
    with _vlms(shape, image_size=size, generation="none") as load:
        yield from _share_of_ceiling(shape, load(), TEXT, reduced_effort, 0.5 if shape == "smolvlm-256m" else None)


def half_the_ceiling(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure half the layers in bfloat16 with 32 text tokens: `ceiling` and frames per second, with goals for a GPU.

    Args:
        shape: Name of the VLM's shape.
        effort: Effort of the measurement.
    """
    text = " ".join(["imp"] * 32)  # one token a word
    with _vlms(shape, generation="none", dtype="bfloat16") as load:
        middle = int(load().config.get_text_config().num_hidden_layers) // 2
        vlm = load(layers=(middle - 1, middle))
        title = f"{shape}, half the layers, {vlm.image_length()} + {vlm.prompt_length([text])} tokens"
        variants = {"ours": partial(vlm.hidden, _frames(effort.frames), [text] * effort.frames)}
        seconds = time_in_turn(variants, effort.rounds)["ours"]
        rates = MedianRange.of([effort.frames / duration for duration in seconds])
        yield Measure(f"{title}: ours", rates, "frames/s", 155.0)
        yield from _share_of_ceiling(title, vlm, text, effort, 0.4)


def _share_of_ceiling(title: str, vlm: VLM, text: str, effort: Effort, goal: float | None) -> Iterator[Measure]:
    frames = _frames(effort.frames)
    run = partial(vlm.hidden, frames, [text] * effort.frames)
    side = 8192 if torch.cuda.is_available() else 2048  # smaller products do not use a whole GPU
    product = matrix_ceiling(vlm.model.dtype, vlm.model.device, side)
    count, vision_flops = flops(run), flops(partial(vlm.vision, frames))
    seconds = time_in_turn({"matrix product": product, "pass": run}, effort.rounds)
    ceilings = [2 * side**3 / duration for duration in seconds["matrix product"]]
    rates = [count / duration for duration in seconds["pass"]]
    share = MedianRange.of([speed / limit for speed, limit in zip(rates, ceilings, strict=True)])
    dtype = str(vlm.model.dtype).removeprefix("torch.")
    yield Measure(f"{title}: operations a frame", MedianRange.of([count / effort.frames / 1e9]), "GFLOP")
    yield Measure(f"{title}: share of them in the vision tower", MedianRange.of([vision_flops / count]), "")
    yield Measure(
        f"this machine's {dtype} matrix product", MedianRange.of([rate / 1e9 for rate in ceilings]), "GFLOP/s"
    )
    yield Measure(f"{title}: share of it reached", share, "", goal)


def training(shape: str, effort: Effort) -> Iterator[Measure]:
    """Measure PPO in Doom: steps per second, speed-up over the notebook's method, and fractions of the time.

    Args:
        shape: Name of the VLM's shape; the speed-up is measured for `tiny` only.
        effort: Effort of the measurement.
    """
    with tempfile.TemporaryDirectory(prefix="pr2l-shape-") as folder:
        vlm = f"vlm={_checkpoint(shape, Path(folder))}"
        overrides = [vlm, *([] if shape == "tiny" else SMALL_ROLLOUTS)]
        ours = load_config("doom/fetch/prompted", overrides)
        fastest = load_config("doom/fetch/prompted", [*overrides, "vlm_options.dtype=fastest"])
        plain = load_config("doom/fetch/prompted", [*overrides, f"vlm_options.disable={list(OPTIMIZATIONS)}"])
        clocks, fastest_clocks, plain_clocks = [], [], []
        for _ in range(effort.rounds if shape == "tiny" else 1):  # in turn, as in time_in_turn
            clocks.append(_clocked(ours))
            if shape == "tiny":  # takes minutes with a larger VLM, whose ratio `generation` measures
                fastest_clocks.append(_clocked(fastest))
                plain_clocks.append(_clocked(plain, row_by_row))
    yield Measure(f"PPO with {shape}", MedianRange.of([clock.steps / clock.total for clock in clocks]), "steps/s")
    for name, faster in (("", clocks), (" and dtype=fastest", fastest_clocks)):
        if plain_clocks:
            ratio = speedup([clock.total for clock in plain_clocks], [clock.total for clock in faster])
            yield Measure(f"PPO with {shape}{name}, over the notebook's way", ratio, "x", 3.0)
    for section in clocks[0].seconds:
        share = MedianRange.of([clock.seconds[section] / clock.total for clock in clocks])
        goal = 0.1 if section == "the rest" and shape != "tiny" else None
        yield Measure(f"PPO with {shape}, share of time in {section}", share, "", goal, below=True)


@dataclass(frozen=True)
class Clock:
    """Times of one training.

    Args:
        steps: Environment steps.
        seconds: Seconds in the simulators, in the VLM and in the rest, by name.
    """

    steps: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of the whole training."""
        return sum(self.seconds.values())


Ask = Callable[..., Hidden]


def concatenate(batches: Sequence[Hidden]) -> Hidden:
    """Join the states of several batches with equal spans of segments.

    Args:
        batches: At least one batch; the spans are those of the first.
    """
    states, mask = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("states", "mask"))
    return Hidden(states, mask, batches[0].spans, [answer for batch in batches for answer in batch.answers])


def row_by_row(hidden: Ask) -> Ask:
    """Return a version of `VLM.hidden` that processes one frame at a time.

    Args:
        hidden: The method, or a function with the same arguments.
    """

    def by_row(frames: Frames, texts: list[str], prompt_tokens: int | None = None) -> Hidden:
        return concatenate([hidden(frames[row : row + 1], [text], prompt_tokens) for row, text in enumerate(texts)])

    return by_row


class Begin(Hooks):
    """Hooks that start the clock at the first rollout, when the first frames are embedded already.

    Args:
        seconds: Seconds by section, which the start of the clock resets to 0.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.at = seconds, 0.0

    def on_update_start(self, learner: Learner) -> None:
        if not self.at:
            self.seconds.update(dict.fromkeys(self.seconds, 0.0))
            self.at = perf_counter()


def _clocked(config: RunConfig, change: Callable[[Ask], Ask] = lambda ask: ask) -> Clock:
    """Time two rollouts and updates, with `change(vlm.hidden)` in place of `vlm.hidden`."""
    seconds = {"simulators": 0.0, "the VLM": 0.0}

    def timed(section: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[section] += perf_counter() - began

        return timing

    encoder = build.encoder(config)
    vlm = _vlm_of(encoder)
    vlm.hidden = timed("the VLM", change(vlm.hidden))  # type: ignore[method-assign]
    with closing(build.environments(config, "train")) as frames:
        simulators: Any = frames
        simulators.step_wait = timed("simulators", frames.step_wait)
        learner, begin = build.learner(config, encoder, build.spaces_of(frames)), Begin(seconds)
        learner.learn(VecEmbed(frames, encoder), 2 * config.options("algorithm").n_steps * config.num_envs, begin)
        remaining = perf_counter() - begin.at - sum(seconds.values())
        return Clock(learner.num_timesteps, seconds | {"the rest": remaining})


def _vlm_of(encoder: Encoder) -> VLM:
    bare: Any = encoder.encoder if isinstance(encoder, CachedEncoder) else encoder
    vlm: VLM = bare.vlm
    return vlm


def rollout(effort: Effort) -> Iterator[Measure]:
    """Compute the memory of a rollout's observations in the main Doom run, compared with SB3's own storage.

    SB3 stores float32 arrays in the rollout buffer, and flattens them into a second copy for the update.

    Args:
        effort: Not used.
    """
    config = load_config("doom/fetch/prompted")
    options, algorithm = config.options("algorithm"), registry.load("algorithms", config.algorithm)
    space = observation_space(build.frame_spaces(config).observation_space, build.encoder(config))
    memory = sum(algorithm.rollout_bytes(space, config.num_envs, options).values())
    numbers = sum(int(np.prod(subspace.shape or ())) for subspace in space.values())
    rows = options.n_steps * config.num_envs
    yield Measure("a rollout's step in memory", MedianRange.of([memory / rows]), "bytes")
    share = MedianRange.of([memory / (2 * 4 * numbers * rows)])
    yield Measure("a rollout's memory, share of SB3's own", share, "", 0.25, below=True)


def stored(effort: Effort) -> Iterator[Measure]:
    """Measure the speed-up of reading random rows from a store of embeddings, compared with computing them with `tiny`.

    Args:
        effort: Effort of the measurement.
    """
    config = load_config("doom/fetch/prompted", ["cache_frames=0"])
    encoder, frames = build.encoder(config), _frames(effort.frames)
    contexts = [{"target": "imp"}] * effort.frames
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="pr2l-store-") as folder:
        store = Store.create(Path(folder), encoder.key(), (8 * effort.frames, encoder.tokens, encoder.width))
        for _ in range(8):
            store.append(encoder.encode(frames, contexts))
        variants = {
            "computed": lambda: encoder.encode(frames, contexts),
            "read": lambda: store[draw.choice(len(store), effort.frames, replace=False)],
        }
        seconds = time_in_turn(variants, effort.rounds)
    faster = speedup(seconds["computed"], seconds["read"])
    yield Measure("stored embeddings of tiny: read over computed", faster, "x", 20.0)


# The program.

SECTIONS: dict[str, tuple[Callable[[Effort], Iterator[Measure]], ...]] = {
    "tiny": (
        partial(generation, "tiny", None, 3),
        partial(ceiling, "tiny", None),
        partial(training, "tiny"),
        rollout,
        stored,
    ),
    "smolvlm-256m": (
        partial(generation, "smolvlm-256m", 256, 8),
        partial(further_prompts, "smolvlm-256m", 512),
        partial(ceiling, "smolvlm-256m", 512),
        partial(training, "smolvlm-256m"),
    ),
    "llava-small": (
        partial(half_the_layers, "llava-small"),
        partial(per_optimization, "llava-small"),
        partial(ceiling, "llava-small", None),
    ),
    "llava-7b": (
        partial(half_the_layers, "llava-7b"),
        partial(ceiling, "llava-7b", None),
        *([partial(half_the_ceiling, "llava-7b-224px")] if torch.cuda.is_available() else []),
    ),
    "instructblip-7b": (partial(half_the_layers, "instructblip-7b"), partial(ceiling, "instructblip-7b", None)),
}
# Shapes that take minutes on a CPU.
EVERYDAY = ("tiny", "smolvlm-256m", "llava-small")
# shape -> {variant: (variant to compare with, minimum speed-up)}
GOALS = {"smolvlm-256m": {"ours": ("notebook", 4.0), "ours, int8": ("notebook", 8.0)}}


def speed(shapes: Sequence[str] = EVERYDAY, effort: Effort | None = None, out: Path | None = None) -> list[Measure]:
    """Measure speed and memory, print a table, and write speed.md, speed.json and speed.png.

    Args:
        shapes: Names of shapes in SECTIONS.
        effort: Effort of each measurement; None = the defaults.
        out: Folder for the files; None = runs/speed.

    Raises:
        UserError: A shape is not in SECTIONS.
    """
    for shape in shapes:
        if shape not in SECTIONS:
            raise UnknownName("shapes", shape, list(SECTIONS))
    out = out or Path("runs") / "speed"
    out.mkdir(parents=True, exist_ok=True)
    sections = [section for shape in shapes for section in SECTIONS[shape]]
    measures: list[Measure] = []
    console = Console()
    with Progress(console=console) as bars:
        bar = bars.add_task("measure", total=len(sections))
        for section in sections:
            for measure in section(effort or Effort()):
                measures.append(measure)
                bars.console.print(f"{measure.name}: {_format(measure)}", markup=False)
            bars.advance(bar)
    console.print(_table(measures))
    write_json(out / "speed.json", {"machine": _machine(), "measures": [asdict(measure) for measure in measures]})
    (out / "speed.md").write_text(_as_markdown(measures), encoding="utf-8")
    _draw(measures, out / "speed.png")
    console.print(f"{out}: speed.md, speed.json, speed.png", markup=False)
    return measures


# Helpers.


def _frames_per_second(
    title: str, variants: dict[str, Callable[[], Any]], effort: Effort, goals: dict[str, tuple[str, float]]
) -> Iterator[Measure]:
    seconds = time_in_turn(variants, effort.rounds)
    for name, timings in seconds.items():
        rates = MedianRange.of([effort.frames / duration for duration in timings])
        yield Measure(f"{title}: {name}", rates, "frames/s")
    slowest = next(iter(variants))
    for name, timings in list(seconds.items())[1:]:
        reference, goal = goals.get(name, (slowest, None))
        yield Measure(f"{title}: {name} over {reference}", speedup(seconds[reference], timings), "x", goal)
    for name, run in variants.items():
        yield Measure(f"{title}: {name}, memory at its peak", MedianRange.of([peak_memory(run) / 1e6]), "MB")


def _cosine(states: torch.Tensor, reference: torch.Tensor) -> MedianRange:
    """Compute the cosine similarity per token of states [B, L, T, D], without masked tokens, which are zero in both."""
    real = states.flatten(0, 2).norm(dim=-1) > 0
    cosine = torch.cosine_similarity(states.flatten(0, 2)[real], reference.flatten(0, 2)[real], dim=-1)
    return MedianRange(float(cosine.median()), float(cosine.min()), float(cosine.max()))


@contextmanager
def _vlms(shape: str, **common: Any) -> Iterator[Callable[..., VLM]]:
    """Yield a function that loads a VLM of a shape, with the common options and further ones."""
    with tempfile.TemporaryDirectory(prefix="pr2l-shape-") as folder:
        path = _checkpoint(shape, Path(folder))
        options = {key: value for key, value in common.items() if value is not None}
        yield lambda **further: load_vlm(path, Defaults(**{**options, **further}))


def _checkpoint(shape: str, folder: Path) -> str:
    if shape == "tiny":
        return shape
    shapes.build(shape, folder)
    return str(folder)


def _frames(count: int) -> Frames:
    """Draw random frames of the size of Doom's frames."""
    return np.random.default_rng(0).integers(0, 256, (count, 120, 160, 3), dtype=np.uint8)


def _machine() -> dict[str, Any]:
    return {"device": device(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def _format(measure: Measure) -> str:
    digits = 3 if abs(measure.value.median) < 10 else 0
    low, high = f"{measure.value.low:,.{digits}f}", f"{measure.value.high:,.{digits}f}"
    spread = f" [{low}, {high}]" if low != high else ""
    return f"{measure.value.median:,.{digits}f}{spread} {measure.unit}".strip()


def _table(measures: Sequence[Measure]) -> Table:
    table = Table("measured", "median [low, high]", "goal", title="Speed")
    for measure in measures:
        table.add_row(measure.name, _format(measure), measure.verdict)
    return table


def _as_markdown(measures: Sequence[Measure]) -> str:
    rows = [f"| {measure.name} | {_format(measure)} | {measure.verdict} |" for measure in measures]
    return "\n".join(["| measured | median [low, high] | goal |", "|---|---|---|", *rows, ""])


def _draw(measures: Sequence[Measure], path: Path) -> None:
    """Draw the frames per second of each variant with their range, on a logarithmic scale."""
    frame_rates = [measure for measure in measures if measure.unit == "frames/s"][::-1]
    if not frame_rates:
        return
    figure = Figure(figsize=(9, 0.4 * len(frame_rates) + 1.2), layout="constrained")
    axes = figure.subplots()
    middle = [measure.value.median for measure in frame_rates]
    around = [
        [measure.value.median - measure.value.low for measure in frame_rates],
        [measure.value.high - measure.value.median for measure in frame_rates],
    ]
    ours = ["tab:blue" if ": ours" in measure.name else "lightgray" for measure in frame_rates]
    axes.barh([measure.name for measure in frame_rates], middle, xerr=around, color=ours)
    for row, value in enumerate(middle):
        axes.annotate(f"{value:,.1f}", (value, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="frames per second")
    axes.margins(x=0.15)
    figure.savefig(path, dpi=120)
