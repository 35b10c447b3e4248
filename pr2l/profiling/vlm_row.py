"""The result of `pr2l vlm check` as one JSON file: a checkpoint on one machine, in one data type.

It has no user name and no path: a local folder appears as its last name and a digest of its files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from pr2l.core import digest
from pr2l.core.errors import UserError, explain
from pr2l.core.io import read_json, write_json
from pr2l.vlms.proof import TOLERANCES

SAME_ANSWERS = 0.5  # smallest share of rows with the same answer, in a data type that rounds
BUSY = 0.1  # share of the cores that other programs used, from which on the speed counts as too low
DEPENDS = 1e-3  # relative difference from which on a state depends on something

Text = Annotated[str, Field(min_length=1)]
PerLayer = tuple[NonNegativeFloat, ...]


class Part(BaseModel):
    """A part of a row: no unknown keys, no NaN, no infinite number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Case(Part):
    """Rows of one kind of batch, compared with the unmodified model; see `exactness.Difference`."""

    rows: PositiveInt
    relative: PerLayer  # largest relative difference of a token's state, for each layer
    of_rms: PerLayer  # largest difference, in units of the root mean square of the states
    same_answers: NonNegativeInt  # rows


class Size(Part):
    """Sizes of the model, and tokens of an input."""

    parameters: PositiveInt
    layers: PositiveInt
    hidden_size: PositiveInt
    image_size: PositiveInt  # side in pixels of the square that the vision tower reads
    image_tokens: NonNegativeInt  # of one image
    prompt_tokens: PositiveInt  # of `prompt`, with the tokens of the chat template
    prompt: Text
    new_tokens: NonNegativeInt


class Speed(Part):
    """Speed of batches of one size, median over rounds; without bounds if there were too few rounds."""

    batch: PositiveInt
    frames_per_second: PositiveFloat
    low: PositiveFloat | None = None
    high: PositiveFloat | None = None


class Memory(Part):
    """Bytes of the weights, and of what a batch needs beside them at its peak."""

    weights: PositiveInt
    batch: PositiveInt
    peak: NonNegativeInt


class Dependence(Part):
    """How much states change, relative to their size, for each layer; () = there are no such tokens."""

    image_on_prompt: PerLayer
    prompt_on_image: PerLayer


class Processor(Part):
    """Input of the checkpoint's own processor, compared with that of pr2l; see `processor_inputs.ProcessorInput`."""

    same_text: bool
    image_tokens: NonNegativeInt
    pixels: NonNegativeFloat | None


class Row(Part):
    """One checked checkpoint, as its JSON file stores it."""

    format: Literal[1] = 1  # version of the keys of a row
    model: Text  # a Hub id, a name that comes with pr2l, or the last name of a folder
    source: Literal["Hub", "pr2l", "folder"]
    revision: Annotated[str, Field(pattern=r"^(sha256|commit) \w+$")]
    model_type: Text
    architecture: Text  # class of the model
    family: Text
    row_by_row: bool  # the rows of a batch run one by one, because the model's own batches are not exact
    dtype: Literal["float32", "float16", "bfloat16", "int8"]
    token_order: Literal["image_first", "text_first"]
    layers: Annotated[tuple[int, ...], Field(min_length=1)]  # which were compared
    options: dict[str, Any]  # of the VLM, as they were given
    size: Size
    cases: Annotated[dict[str, Case], Field(min_length=1)]
    processor: Processor | None  # None = not compared
    dependence: Dependence
    expects_dependence: bool  # whether pr2l takes image tokens to depend on the prompt
    speed: tuple[Speed, ...]  # () = not measured
    busy: Annotated[float, Field(ge=0, le=1)]  # share of all cores that other programs used before the measurement
    threads: PositiveInt  # of torch
    memory: Memory
    device: Text
    machine: Text
    pr2l: Text  # versions
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None  # of pr2l; None = it was installed as a package
    uncommitted: bool
    python: Text
    torch: Text
    transformers: Text
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]

    @property
    def name(self) -> str:
        """Name of the row's file without suffix: checkpoint, data type, device, and a digest of the options if any."""
        words = [self.model, self.dtype, self.device, *([digest.of_json(self.options)[:6]] if self.options else [])]
        return "-".join(slug(word) for word in words)

    @property
    def difference(self) -> float:
        """Largest relative difference of a token's state, over all cases and layers."""
        return max(max(case.relative) for case in self.cases.values())

    @property
    def same_answers(self) -> float:
        """Share of rows whose answers are those of the unmodified model."""
        cases = self.cases.values()
        return sum(case.same_answers for case in cases) / sum(case.rows for case in cases)

    @property
    def verdict(self) -> str:
        """Whether states and answers equal those of the unmodified model."""
        needed = 1.0 if self.dtype == "float32" else SAME_ANSWERS
        if not (self.difference <= TOLERANCES[self.dtype] and self.same_answers >= needed):
            return "not exact"
        return "exact" if self.dtype == "float32" else "exact up to rounding"

    @property
    def is_exact(self) -> bool:
        """Whether the verdict is one of those that are good."""
        return self.verdict != "not exact"

    @property
    def input(self) -> str:
        """How the input of the checkpoint's own processor compares with that of pr2l."""
        if self.processor is None:
            return "not compared"
        text = "the same text" if self.processor.same_text else "another text"
        tokens = f"{self.processor.image_tokens} image tokens, where pr2l has {self.size.image_tokens}"
        if self.processor.image_tokens == self.size.image_tokens:
            tokens = "as many image tokens"
        pixels = (
            "another shape" if self.processor.pixels is None else f"up to {self.processor.pixels:.0e} of difference"
        )
        return f"{text}, {tokens}, pixels: {pixels}"

    @property
    def image_sees(self) -> str:
        """What the states of image tokens depend on beside the image."""
        return dependence(self.dependence.image_on_prompt, self.layers, "the prompt")


def dependence(changes: PerLayer, layers: tuple[int, ...], what: str) -> str:
    """Describe on which layers states depend on something.

    Args:
        changes: Relative change of the states, for each layer.
        layers: Indices of the layers.
        what: What was changed.
    """
    if not changes:
        return "no such tokens"
    dependent = [layer for layer, change in zip(layers, changes, strict=True) if change > DEPENDS]
    if not dependent:
        return f"nothing of {what}"
    return what if len(dependent) == len(layers) else f"{what}, in layers {', '.join(map(str, dependent))}"


def slug(text: str) -> str:
    """Return a text as a part of a file name.

    Args:
        text: Any text, such as "NVIDIA H100 80GB HBM3".
    """
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")


def validated(values: Any, where: str) -> Row:
    """Return a row from JSON values.

    Args:
        values: Values of the file.
        where: The file, for error messages.

    Raises:
        UserError: A key is unknown or missing, or a value is not valid.
    """
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, where, Row)) from error
    counts = {len(row.layers)}
    counts |= {len(values) for case in row.cases.values() for values in (case.relative, case.of_rms)}
    counts |= {len(values) for values in (row.dependence.image_on_prompt, row.dependence.prompt_on_image) if values}
    if len(counts) > 1:
        raise UserError(f"{where}: its cases do not have one number for each of the layers {list(row.layers)}")
    if any(case.same_answers > case.rows for case in row.cases.values()):
        raise UserError(f"{where}: a case has more equal answers than rows; was it edited by hand?")
    return row


def read_row(path: Path) -> Row:
    """Read a row from its file.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged, or its content is not a valid row.
    """
    return validated(read_json(path, "`pr2l vlm check MODEL` writes it again."), str(path))


def write_row(path: Path, row: Row) -> None:
    """Write a row as JSON, with one line per key for readable diffs.

    Args:
        path: The file, which is replaced atomically; its folder is created.
        row: The row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row.model_dump(mode="json"), lines=True)
