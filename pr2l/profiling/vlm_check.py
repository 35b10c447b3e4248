"""`pr2l vlm check MODEL`: a checkpoint on this machine: exactness, what its tokens depend on, speed and memory.

    load with pr2l -> cases of batches -> dependence -> speed -> memory -> free -> unmodified model -> differences

The result is a table and one JSON file (vlm_row.py), which `pr2l vlm submit` makes ready for a pull request.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pr2l import __version__
from pr2l.core import machine
from pr2l.core.config import parse_options
from pr2l.core.console import Console
from pr2l.core.disk import in_units
from pr2l.core.errors import UserError
from pr2l.profiling import exactness
from pr2l.profiling.exactness import CASES, ROWS, TEXTS, Reference, RowStates
from pr2l.profiling.passes import draw_frames
from pr2l.profiling.processor_inputs import compare_with_processor
from pr2l.profiling.sweep import free_memory
from pr2l.profiling.timing import Effort, Variant, peak_memory, rate, time_in_turn
from pr2l.profiling.vlm_row import BUSY, DEPENDS, Row, dependence, validated, write_row
from pr2l.training.runs import code
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.checkpoint import locate, model_type, shipped
from pr2l.vlms.loading import family, layer_count, load_vlm
from pr2l.vlms.proof import TOLERANCES

BATCHES = (1, 4, 16)
FOLDER = Path("runs/vlms")
PIXELS = 0.02  # relative difference of pixels from which on there is a warning; bfloat16 rounds by 0.004
NOT_OPTIONS = ("device", "layers", "min_new_tokens", "dtype")  # which the row has elsewhere, or `check` fixes

Step = Callable[[str], None]


def check(
    model: str,
    options: Mapping[str, Any] | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    seconds: float = 10.0,
    out: Path | None = None,
) -> Row:
    """Check a checkpoint, print a table, and write the row.

    Args:
        model: As in `load_vlm`.
        options: Options of the VLM; by default four layers from the embeddings to the last one are compared.
        batches: Batch sizes whose speed is measured; () = no speed.
        seconds: Duration of the measurement of speed.
        out: File of the row; None = below FOLDER.

    Raises:
        UserError: The checkpoint cannot be loaded, or the options do not fit.
    """
    chosen = check_options(model, dict(options or {}))
    console = Console()
    with progress(console, len(CASES) + len(ROWS) + 5) as step:
        step(f"load {model}")
        vlm = load_vlm(model, chosen)
        values, reference = measure(model, vlm, batches, Effort(seconds=seconds), step)
        step("the checkpoint's processor")
        processor = compare_with_processor(vlm, locate(model), exactness.draw_pictures(vlm, 1)[0], TEXTS[0])
        values["processor"] = None if isinstance(processor, str) else asdict(processor)
        ours = run_cases(vlm, step)
        del vlm
        free_memory()
        theirs = list(unmodified_rows(reference, step))
    cases = {name: asdict(exactness.compare(CASES[name], rows, theirs)) for name, rows in ours.items()}
    row = validated(values | {"cases": cases}, f"the result for {model}")
    path = out or FOLDER / f"{row.name}.json"
    write_row(path, row)
    for table in tables(row):
        console.print(table)
    if isinstance(processor, str):
        console.print(f"input not compared with the checkpoint's processor: {processor}", markup=False)
    for problem in problems(row):
        console.print(f"[yellow]warning:[/] {escape(problem)}")
    console.print(f"{path}: submit it with `pr2l vlm submit {path}`", markup=False)
    return row


def check_options(model: str, options: dict[str, Any]) -> Defaults:
    """Return the options of the VLM that is checked.

    Args:
        model: As in `load_vlm`.
        options: Options by name.

    Raises:
        UserError: An option does not fit the comparison with the unmodified model.
    """
    chosen = parse_options(Defaults, options, "options of the VLM")
    if chosen.server is not None:
        raise UserError("server: `pr2l vlm check` compares a model in this process; leave the option out.")
    if chosen.generation == "sample":
        raise UserError("generation=sample cannot be compared; use generation=greedy or generation=none.")
    depth = layer_count(model)
    layers = tuple({layer % (depth + 1): layer for layer in (0, depth // 2, -2, -1)}.values())
    # Every answer has the same length, so that there are states to compare, and speeds are comparable.
    fixed = {"min_new_tokens": chosen.new_tokens} | ({} if "layers" in options else {"layers": layers})
    return chosen.model_copy(update=fixed)


@contextmanager
def progress(console: Console, steps: int) -> Iterator[Step]:
    """Show the progress, and yield a function that is called with the description of each step when it begins.

    Args:
        console: Console of the progress bar.
        steps: Number of steps.
    """
    columns = (BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=steps, completed=-1)

        def step(description: str) -> None:
            bars.update(bar, description=escape(description), advance=1)

        yield step


def measure(
    model: str, vlm: VLM, batches: Sequence[int], effort: Effort, step: Step
) -> tuple[dict[str, Any], Reference]:
    """Return the values of a row without its cases, and how to load the unmodified model.

    Args:
        model: Name under which the VLM was loaded.
        vlm: The VLM.
        batches: Batch sizes.
        effort: Effort of the measurement of speed.
        step: Function that is called when a step begins.
    """
    step("memory")
    memory = memory_of(vlm, batches)
    fitting = [size for size in batches if size <= memory["batch"]]
    step("what tokens depend on")
    depends = {
        "image_on_prompt": exactness.prompt_seen_by_image(vlm),
        "prompt_on_image": exactness.image_seen_by_prompt(vlm),
    }
    step("speed")
    busy = psutil.cpu_percent(interval=1.0) / 100
    values = {
        **origin(model, vlm),
        "size": sizes(vlm),
        "dependence": depends,
        "expects_dependence": vlm.image_sees_prompt,
        "busy": busy,
        "speed": speed_of(vlm, fitting, effort),
        "memory": memory,
    }
    return values, exactness.reference(vlm, locate(model))


def run_cases(vlm: VLM, step: Step) -> dict[str, list[list[RowStates]]]:
    """Return the states of the rows of each case that fits into the memory.

    Args:
        vlm: The VLM.
        step: Function that is called when a case begins.
    """
    results = {}
    for name, batches in CASES.items():
        step(f"states: {name}")
        try:
            results[name] = exactness.run_case(vlm, batches)
        except torch.OutOfMemoryError:
            free_memory()
    return results


def unmodified_rows(reference: Reference, step: Step) -> Iterator[RowStates]:
    """Yield the states of each row by the unmodified model, with the progress."""
    rows = reference.rows()
    for number in range(len(ROWS)):
        step("load the unmodified model" if number == 0 else f"unmodified model, row {number + 1}")
        yield next(rows)


def origin(model: str, vlm: VLM) -> dict[str, Any]:
    """Return what identifies the checkpoint, the program and the machine.

    Args:
        model: Name under which the VLM was loaded.
        vlm: The VLM.
    """
    key = vlm.key()
    options = vlm.options.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_OPTIONS))
    return {
        "model": key["name"],
        "source": "pr2l" if model in shipped() else "folder" if Path(model).is_dir() else "Hub",
        "revision": key["revision"],
        "model_type": vlm.config.model_type,
        "architecture": type(vlm.model).__name__,
        "family": family(model_type(locate(model))).__name__.rpartition(".")[2],
        "row_by_row": getattr(vlm, "row_by_row", False),
        "dtype": "int8" if vlm.options.dtype == "int8" else str(vlm.model.dtype).removeprefix("torch."),
        "token_order": vlm.options.token_order,
        "layers": vlm.options.layers,
        "options": options,
        "device": machine.device() if vlm.model.device.type == "cuda" else machine.processor(),
        "machine": machine.machine(),
        "threads": torch.get_num_threads(),
        **code(),
        "pr2l": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": date.today().isoformat(),
    }


def sizes(vlm: VLM) -> dict[str, Any]:
    """Return the sizes of the model, and the numbers of tokens of an input."""
    return {
        "parameters": sum(parameter.numel() for parameter in vlm.model.parameters()),
        "layers": vlm.depth,
        "hidden_size": vlm.hidden_size,
        "image_size": vlm.image_size,
        "image_tokens": vlm.image_length(),
        "prompt_tokens": vlm.prompt_length([TEXTS[0]]),
        "prompt": TEXTS[0],
        "new_tokens": vlm.new_tokens,
    }


def speed_of(vlm: VLM, batches: Sequence[int], effort: Effort) -> list[dict[str, Any]]:
    """Return the speed of each batch size.

    Args:
        vlm: The VLM.
        batches: Batch sizes.
        effort: Effort of the measurement.
    """
    variants = {str(size): Variant(embedding(vlm, size), size) for size in batches}
    rows = []
    for name, timings in time_in_turn(variants, effort).items() if variants else ():
        value, low, high = rate(timings)
        bounds = {"low": low, "high": high} if math.isfinite(low) else {}
        rows.append({"batch": int(name), "frames_per_second": value} | bounds)
    return rows


def embedding(vlm: VLM, count: int) -> Callable[[], object]:
    """Return a function that embeds a batch of frames, of Doom's size unless the VLM takes one size only."""
    native = vlm.options.aspect == "native"
    frames = exactness.draw_pictures(vlm, count) if native else draw_frames(count)
    return partial(vlm.hidden, frames, [TEXTS[0]] * count)


def memory_of(vlm: VLM, batches: Sequence[int]) -> dict[str, int]:
    """Return the bytes of the weights, and the peak beside them of the largest batch that fits into the memory.

    Args:
        vlm: The VLM.
        batches: Batch sizes; without any, one frame.

    Raises:
        UserError: No batch fits.
    """
    weights = sum(weight.nbytes for weight in (*vlm.model.parameters(), *vlm.model.buffers()))
    for size in sorted({1, *batches}, reverse=True):
        try:
            peak = peak_memory(embedding(vlm, size))
        except torch.OutOfMemoryError:
            free_memory()
        else:
            return {"weights": weights, "batch": size, "peak": max(peak, 0)}
    raise UserError(
        f"the weights take {in_units(weights)}, and one frame does not fit into the memory beside them; use"
        " dtype=bfloat16, a smaller image_size, or a machine with more memory."
    )


# The report.


def tables(row: Row) -> Iterator[Table]:
    """Yield the table of the checkpoint, and that of the comparison.

    Args:
        row: The row.
    """
    title = escape(f"{row.model} ({row.family}, {row.dtype}) on {row.device}")
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, text in lines(row):
        table.add_row(name, escape(text))
    yield table
    layers = [f"layer {layer}" for layer in row.layers]
    title = "relative difference from the unmodified model"
    table = Table("batch", "rows", "same answers", *layers, title=title, title_justify="left")
    for name, case in row.cases.items():
        table.add_row(name, str(case.rows), str(case.same_answers), *(f"{value:.1e}" for value in case.relative))
    yield table


def lines(row: Row) -> Iterator[tuple[str, str]]:
    """Yield the lines of the first table: name, text.

    Args:
        row: The row.
    """
    size, limit = row.size, TOLERANCES[row.dtype]
    of_rms = max(max(case.of_rms) for case in row.cases.values())
    yield "states", f"{row.verdict}: differences up to {row.difference:.1e} of a token's state (allowed: {limit:.0e})"
    yield "", f"and of a single number up to {of_rms:.1e} of the root mean square of all states"
    yield "image tokens see", row.image_sees
    yield "prompt tokens see", dependence(row.dependence.prompt_on_image, row.layers, "the image")
    answer = f", {size.new_tokens} generated" if size.new_tokens else ""
    yield "input of its processor", row.input
    yield "tokens", f"{size.image_tokens} of an image, {size.prompt_tokens} of {size.prompt!r}{answer}"
    yield "model", f"{size.parameters / 1e6:,.1f} million parameters, {size.layers} layers of width {size.hidden_size}"
    weights, peak = in_units(row.memory.weights), in_units(row.memory.peak)
    yield "memory", f"{weights} of weights, {peak} more for a batch of {row.memory.batch}"
    for speed in row.speed:
        bounds = f" [{speed.low:,.1f}, {speed.high:,.1f}]" if speed.low and speed.high else ""
        yield f"batches of {speed.batch}", f"{speed.frames_per_second:,.1f}{bounds} frames/s"


def problems(row: Row) -> Iterator[str]:
    """Yield what a reader of the row should know.

    Args:
        row: The row.
    """
    if not row.is_exact:
        yield "the states or answers differ from those of the unmodified model. Please report it, with the JSON file."
    if missing := [name for name in CASES if name not in row.cases]:
        yield f"not compared, because the memory does not suffice: {', '.join(missing)}."
    if (processor := row.processor) is not None and processor.image_tokens == row.size.image_tokens:
        if not processor.same_text:
            yield "the checkpoint's processor gives the prompt other tokens, for example another chat template."
        if processor.pixels is not None and processor.pixels > PIXELS:
            yield f"the checkpoint's processor gives other pixels, by {processor.pixels:.0%} of the largest value."
    changes = row.dependence.image_on_prompt
    if changes and row.expects_dependence != any(change > DEPENDS for change in changes):
        yield f"pr2l takes image tokens to see {'the' if row.expects_dependence else 'no'} prompt, which is not so."
    if row.speed and row.busy > BUSY:
        yield f"other programs used {row.busy:.0%} of the processor, so the frames per second are too low."
