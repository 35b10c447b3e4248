"""`pr2l speed`: the parts that are measured, and the report.

Without `device`, it compares pr2l with other methods on this machine and shows the gain of each optimization. With
`device`, it measures small and large VLMs on that device within a time limit (sweep.py). VLMs other than `tiny` are
shapes with random weights (shapes.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.profiling import sweep
from pr2l.profiling.measure import Measure
from pr2l.profiling.parts import Part, Results, run_parts, select
from pr2l.profiling.passes import ceiling, further_prompts, generation, half_the_layers, per_optimization
from pr2l.profiling.report import as_table, write_report
from pr2l.profiling.storage import rollout, stored
from pr2l.profiling.timing import Effort
from pr2l.profiling.training import training
from pr2l.vlms.checkpoint import find_device

Section = Callable[[Effort], Iterator[Measure]]

SECTIONS: dict[str, dict[str, Section]] = {
    "tiny": {
        "generation": partial(generation, "tiny", None, 3),
        "ceiling": partial(ceiling, "tiny", None),
        "ppo": partial(training, "tiny"),
        "rollout": rollout,
        "store": stored,
    },
    "smolvlm-256m": {
        "generation": partial(generation, "smolvlm-256m", 256, 8),
        "prompts": partial(further_prompts, "smolvlm-256m", 512),
        "ceiling": partial(ceiling, "smolvlm-256m", 512),
        "ppo": partial(training, "smolvlm-256m"),
    },
    "llava-small": {
        "layers": partial(half_the_layers, "llava-small"),
        "optimizations": partial(per_optimization, "llava-small"),
        "ceiling": partial(ceiling, "llava-small", None),
    },
    "llava-7b": {
        "layers": partial(half_the_layers, "llava-7b"),
        "ceiling": partial(ceiling, "llava-7b", None),
    },
    "instructblip-7b": {
        "layers": partial(half_the_layers, "instructblip-7b"),
        "ceiling": partial(ceiling, "instructblip-7b", None),
    },
}
# Shapes that take minutes on a CPU.
EVERYDAY = ("tiny", "smolvlm-256m", "llava-small")
MINUTES = 8.0  # time limit of a measurement of a device
SWEEP_SECONDS = 1.0  # least seconds of one timing there


def speed(
    shapes: Sequence[str] = (),
    effort: Effort | None = None,
    out: Path | None = None,
    *,
    minutes: float | None = None,
    device: str | None = None,
    small: bool = False,
) -> Results:
    """Measure speed and memory, print a table, and write speed.md, speed.json and speed.png.

    Args:
        shapes: Names of shapes in SECTIONS, or with `device` of `sweep.parts`, such as "tiny"; or of single parts, such
            as "tiny:ppo"; none = the default shapes.
        effort: Effort of each measurement; None = the defaults.
        out: Folder for the files; None = runs/speed.
        minutes: Time limit; None = no limit, or MINUTES with `device`.
        device: Torch device to measure small and large VLMs on; None = compare with other methods.
        small: Use small shapes with `device`, to try the measurement in minutes on a CPU.

    Raises:
        UserError: There is no such shape, part or device, or `small` has no device.
    """
    if small and device is None:
        raise UserError("`small` needs a device; add device, e.g. `pr2l speed --device cpu --small`.")
    out = out or Path("runs") / "speed"
    if device is None:
        return measure(select(compared(), shapes or EVERYDAY), effort or Effort(), minutes, out)
    with tempfile.TemporaryDirectory(prefix="pr2l-shapes-") as folder:
        bench = sweep.Bench(find_device(device), Path(folder), small)
        chosen = select(sweep.parts(bench), shapes or sweep.EVERYDAY)
        return measure(chosen, effort or Effort(seconds=SWEEP_SECONDS), minutes or MINUTES, out)


def compared() -> list[Part]:
    """Return the parts that compare pr2l with other methods."""
    return [Part(shape, name, section) for shape, sections in SECTIONS.items() for name, section in sections.items()]


def measure(parts: Sequence[Part], effort: Effort, minutes: float | None, out: Path) -> Results:
    """Run parts, print a table, and write the report after each part.

    Args:
        parts: The parts.
        effort: Effort of each measurement.
        minutes: Time limit; None = no limit.
        out: Folder for the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    save = lambda results: write_report(results.measures, results.unmeasured, out)  # noqa: E731
    results = run_parts(parts, effort, minutes, console, save)
    save(results)
    console.print(as_table(results.measures))
    for name, reason in results.unmeasured.items():
        console.print(f"not measured: {name}: {reason}", markup=False)
    console.print(f"{out}: speed.md, speed.json, speed.png", markup=False)
    return results
