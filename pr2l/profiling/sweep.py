"""`pr2l speed --device cuda --minutes 8`: forward passes and PPO of small and large VLMs on one device.

    shape             passes                                           generation   PPO
    llava-7b-224px    eager, SDPA, compiled, CUDA graphs; batch sizes      x         x     half the layers in passes
    tiny              the same                                                       x     against the notebook
    smolvlm-256m      the same                                             x
    instructblip-7b   the same                                             x               half the layers in passes

Each pass is compared with the speed of a matrix product in the same data type, measured in the same rounds. The parts
have shares of the minutes, and what does not fit is listed. Weights are random and drawn on the device. With `small`,
small shapes of the same architectures run through the same code in minutes on a CPU, most of them to compile.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pr2l.core.disk import DiskFull
from pr2l.profiling import shapes, training
from pr2l.profiling.baselines import as_the_notebook
from pr2l.profiling.measure import OF_PRODUCT, Measure, Unmeasured, exact
from pr2l.profiling.parts import Part
from pr2l.profiling.passes import draw_frames, frames_per_second
from pr2l.profiling.timing import Effort, Variant, flops, matrix_product, peak_memory, rate, speedup, time_in_turn
from pr2l.vlms.backends.local import reading_stack, vision_tower
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.compile import compile_forward
from pr2l.vlms.loading import layer_count, load_vlm
from pr2l.vlms.options import OPTIMIZATIONS

Results = Iterator[Measure | Unmeasured]

TEXT = " ".join(["imp"] * 32)  # one token a word
NEW_TOKENS = 8  # as in the paper's notebook
NOTEBOOK_FRAMES = 2
# Shapes in the order of the measurement, with their shares of the time for passes.
WEIGHTS = {"llava-7b": 5.0, "llava-7b-224px": 5.0, "tiny": 0.8, "smolvlm-256m": 1.2, "instructblip-7b": 3.0}
EVERYDAY = ("llava-7b-224px", "tiny", "smolvlm-256m", "instructblip-7b")
TRAINED = ("tiny", "llava-7b", "llava-7b-224px")
BATCHES = (1, 2, 4, 8, 32, 64, 128)  # beside the main batch
HALF = ("llava-7b", "llava-7b-224px", "instructblip-7b")  # shapes of which half the layers are measured
GOAL = 0.4  # share of the matrix product's speed, for these shapes
WARM_UPS = 4  # passes before code is compiled, and a CUDA graph recorded and replayed
SMALL_SIDE = 512  # rows of the matrices of a product with `small`
SMALL_BATCHES = (1, 4)
# Overrides of PPO with `small`.
SMALL_TRAINING = (
    "num_envs=2",
    "algorithm_options.n_steps=4",
    "algorithm_options.batch_size=8",
    "algorithm_options.n_epochs=1",
)


@dataclass(frozen=True)
class Bench:
    """A device, and the checkpoints that are measured on it.

    Args:
        device: A torch device.
        folder: Folder for the checkpoints, which are written when they are first needed.
        small: Whether to use small shapes.
    """

    device: str
    folder: Path
    small: bool = False

    def checkpoint(self, shape: str) -> str:
        """Return the name or the folder of a VLM.

        Args:
            shape: Name of the shape.

        Raises:
            DiskFull: The weights do not fit on the disk.
        """
        create = (shapes.SMALL_SHAPES if self.small else shapes.SHAPES).get(shape)
        if create is None:
            return shape
        finished, unfinished = self.folder / shape, self.folder / f"{shape}-unfinished"
        if not finished.exists():
            dtype = torch.float32 if self.device == "cpu" else torch.bfloat16
            check_space(shape, create, dtype, self.folder)
            shapes.build(create, unfinished, self.device, dtype)
            free_memory()
            unfinished.rename(finished)
        return str(finished)

    def options(self, shape: str) -> dict[str, Any]:
        """Return the options of a pass without generation."""
        middle = layer_count(self.checkpoint(shape)) // 2
        return {"generation": "none"} | ({"layers": (middle - 1, middle)} if shape in HALF else {})

    def load(self, shape: str, **options: Any) -> VLM:
        """Load a VLM onto the device, after the memory of earlier ones is free."""
        free_memory()
        return load_vlm(self.checkpoint(shape), Defaults(device=self.device, **options))


def check_space(shape: str, create: shapes.Shape, dtype: torch.dtype, folder: Path) -> None:
    """Raise DiskFull if a checkpoint does not fit on the disk."""
    model, _ = create(device="meta", dtype=dtype)
    needed = dtype.itemsize * sum(parameter.numel() for parameter in model.parameters())
    if needed > shutil.disk_usage(folder).free:
        raise DiskFull(folder, f"the weights of {shape}", needed, "set TMPDIR to a folder on a larger disk.")


def parts(bench: Bench) -> list[Part]:
    """Return the parts of the measurement, the most important first.

    Args:
        bench: The device.
    """
    of_passes = [Part(shape, "passes", partial(passes, bench, shape), weight) for shape, weight in WEIGHTS.items()]
    of_training = [Part(shape, "ppo", partial(ppo, bench, shape)) for shape in TRAINED]
    answering = [shape for shape in WEIGHTS if shape != "tiny"]
    of_generation = [Part(shape, "generation", partial(generation, bench, shape), 0.8) for shape in answering]
    whole = [*of_passes[:3], *of_training, *of_passes[3:], *of_generation]
    return [replace(part, measure=partial(without_goals, part.measure)) for part in whole] if bench.small else whole


def without_goals(measure: Callable[[Effort], Results], effort: Effort) -> Results:
    """Return the measures of a part without goals, which are for the large shapes."""
    for result in measure(effort):
        yield replace(result, goal=None) if isinstance(result, Measure) else result


# Forward passes.


def passes(bench: Bench, shape: str, effort: Effort) -> Results:
    """Measure passes without generation: attention, batch sizes and compiled code.

    Args:
        bench: The device.
        shape: Name of the shape.
        effort: Effort of the measurement.
    """
    vlm, eager = (bench.load(shape, **bench.options(shape)) for _ in range(2))
    eager.model.set_attn_implementation("eager")
    curve = Curve(shape, vlm, matrix_product(vlm.model.dtype, vlm.model.device, SMALL_SIDE if bench.small else None))
    yield from curve.operations(effort.frames)
    yield from curve.measure(effort, {"SDPA": partial(ask, vlm), "eager": partial(ask, eager)})
    memory = exact(peak_memory(partial(ask, vlm, effort.frames)) / 1e6)
    yield Measure(f"{shape}: SDPA, {effort.frames} frames, memory beside the weights", memory, "MB")
    del eager
    free_memory()
    yield from curve.batches(effort, SMALL_BATCHES if bench.small else BATCHES)
    try:
        yield from curve.compiled(effort)
    finally:
        torch._dynamo.reset()  # forgets the code


def ask(vlm: VLM, frames: int) -> None:
    """Embed a batch of random frames with a text of 32 tokens."""
    vlm.hidden(draw_frames(frames), [TEXT] * frames)


@dataclass(frozen=True)
class Curve:
    """Measures of the passes of one shape.

    Args:
        shape: Name of the shape.
        vlm: The VLM.
        product: A matrix product in the VLM's data type.
    """

    shape: str
    vlm: VLM
    product: Callable[[], object]

    @property
    def description(self) -> str:
        """The shape, its number of tokens, and the data type."""
        layers = "half the layers, " if self.shape in HALF else ""
        dtype = str(self.vlm.model.dtype).removeprefix("torch.")
        return f"{self.shape} ({layers}{self.vlm.image_length()} + {self.vlm.prompt_length([TEXT])} tokens, {dtype})"

    def operations(self, frames: int) -> Iterator[Measure]:
        """Count the operations of a frame, and the share of the vision tower."""
        total, of_vision = flops(partial(ask, self.vlm, frames)), flops(partial(self.vlm.vision, draw_frames(frames)))
        yield Measure(f"{self.description}: operations a frame", exact(total / frames / 1e9), "GFLOP")
        yield Measure(f"{self.description}: share of them in the vision tower", exact(of_vision / total), "")

    def measure(
        self, effort: Effort, implementations: dict[str, Callable[[int], object]], *, is_first: bool = True
    ) -> Iterator[Measure]:
        """Time implementations and a matrix product in turn.

        Args:
            effort: Effort of the measurement.
            implementations: Functions of the number of frames, by name; the others are compared with the first.
            is_first: Whether to yield the measures of the first implementation too, and of the matrix product.
        """
        frames = effort.frames
        of_frame, of_product = flops(partial(ask, self.vlm, frames)) / frames, flops(self.product)
        variants = {name: Variant(partial(run, frames), frames) for name, run in implementations.items()}
        seconds = time_in_turn({"product": Variant(self.product)} | variants, effort)
        product = seconds.pop("product")
        first = next(iter(seconds))
        if is_first:
            yield Measure(f"{self.shape}: matrix product", rate(product, of_product / 1e12), "TFLOP/s")
            yield from self.shares(first, frames, seconds[first], [of_frame / of_product * limit for limit in product])
        for name, timings in list(seconds.items())[1:]:
            yield from self.shares(name, frames, timings, [of_frame / of_product * limit for limit in product])
            labels = self.labels(name, frames)
            ratio = speedup(seconds[first], timings)
            yield Measure(f"{self.shape}: {name}, {frames} frames, over {first}", ratio, "x", labels=labels)

    def shares(self, name: str, frames: int, timings: Sequence[float], limits: Sequence[float]) -> Iterator[Measure]:
        """Return the frames per second of an implementation, and its share of the limit.

        Args:
            name: Name of the implementation.
            frames: Frames in a batch.
            timings: Seconds per frame in each round.
            limits: Seconds in which a matrix product does as many operations, in each round.
        """
        title, labels = f"{self.shape}: {name}, {frames} frames", self.labels(name, frames)
        goal = GOAL if self.shape in HALF and frames >= 16 else None
        yield Measure(title, rate(timings), "frames/s", labels=labels)
        yield Measure(f"{title}, share", speedup(limits, timings), OF_PRODUCT, goal, labels=labels)

    def labels(self, implementation: str, frames: int) -> dict[str, str | int]:
        """Return the labels of a measure."""
        return {"shape": self.shape, "implementation": implementation, "batch": frames}

    def batches(self, effort: Effort, sizes: Sequence[int]) -> Results:
        """Time other batch sizes, in ascending order, up to the largest that fits into the memory."""
        for frames in sizes:
            if frames == effort.frames:
                continue
            try:
                timings = time_in_turn({"SDPA": Variant(partial(ask, self.vlm, frames), frames)}, effort)["SDPA"]
            except torch.OutOfMemoryError:
                yield Unmeasured(f"{self.shape}: SDPA, {frames} frames and more", "out of memory")
                free_memory()
                return
            labels = self.labels("SDPA", frames)
            yield Measure(f"{self.shape}: SDPA, {frames} frames", rate(timings), "frames/s", labels=labels)

    def compiled(self, effort: Effort) -> Results:
        """Compile the model with and without CUDA graphs, and time both against SDPA."""
        implementations: dict[str, Callable[[int], object]] = {"SDPA": partial(ask, self.vlm)}
        for name, graphs in (("compiled", False), ("CUDA graphs", True)):
            if graphs and self.vlm.model.device.type != "cuda":
                yield Unmeasured(f"{self.shape}: {name}", "needs a GPU of NVIDIA")
                continue
            code = compiled_forwards([reading_stack(self.vlm), vision_tower(self.vlm)], graphs)
            run = partial(ask_compiled, self.vlm, code)
            for _ in range(WARM_UPS):
                run(effort.frames)
            yield from self.measure(effort, {**implementations, name: run}, is_first=False)


Forwards = list[tuple[Any, Callable[..., Any]]]  # modules and their compiled forward passes


def compiled_forwards(modules: Sequence[nn.Module], graphs: bool) -> Forwards:
    """Compile the forward passes of modules, without changing the modules."""
    code: Forwards = []
    for module in modules:
        whole: Any = module
        compile_forward(whole, graphs=graphs)
        code.append((whole, whole.forward))
        del whole.forward
    return code


@contextmanager
def installed(code: Forwards) -> Iterator[None]:
    """Use compiled forward passes in the block."""
    for module, forward in code:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in code:
            del module.forward


def ask_compiled(vlm: VLM, code: Forwards, frames: int) -> None:
    """Embed a batch as in `ask`, with compiled forward passes."""
    with installed(code):
        ask(vlm, frames)


# Generation and training.


def generation(bench: Bench, shape: str, effort: Effort) -> Results:
    """Measure generated tokens, in the whole model: the notebook's method and pr2l's.

    Args:
        bench: The device.
        shape: Name of the shape.
        effort: Effort of the measurement.
    """
    tokens: dict[str, Any] = {"new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    plain, ours = bench.load(shape, disable=OPTIMIZATIONS, **tokens), bench.load(shape, **tokens)
    frames, few = draw_frames(effort.frames), min(effort.frames, NOTEBOOK_FRAMES)
    texts = [TEXT] * len(frames)
    variants = {
        "notebook": Variant(partial(as_the_notebook, plain, frames[:few], texts[:few]), few),
        "ours": Variant(partial(ours.hidden, frames, texts), len(frames)),
    }
    yield from frames_per_second(f"{shape}, {NEW_TOKENS} tokens", variants, effort, {})


def ppo(bench: Bench, shape: str, effort: Effort) -> Results:
    """Measure PPO in Doom: steps per second and where the time goes; for `tiny` also against the notebook's method.

    Args:
        bench: The device.
        shape: Name of the shape.
        effort: Effort of the measurement.
    """
    size = SMALL_TRAINING if bench.small else (training.SHORT_ROUNDS,)
    overrides = [f"vlm_options.device={bench.device}", f"algorithm_options.device={bench.device}", *size]
    if shape == "tiny":
        yield from training.against_the_notebook(shape, shape, overrides, effort)
        return
    free_memory()
    overrides += ["vlm_options.generation=none", f"vlm_options.layers={list(bench.options(shape)['layers'])}"]
    yield from training.alone(shape, bench.checkpoint(shape), overrides, effort)


def free_memory() -> None:
    """Return the memory of deleted models to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
