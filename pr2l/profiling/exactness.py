"""Comparison of a loaded VLM with the unmodified model, over batches of rows, and over what tokens depend on.

    VLM of pr2l --batches of CASES--> states and answers of each row --+
         |                                                             +--> differences, per case and layer
         +--inputs of a single row--> the unmodified model ------------+

The two are not in memory together: first the VLM runs all cases, then the unmodified model reads each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pr2l.core.errors import UserError
from pr2l.core.types import Frames, Hidden
from pr2l.vlms import checkpoint
from pr2l.vlms.base import VLM
from pr2l.vlms.decoding import before_end, take_over_decoding
from pr2l.vlms.family import Family
from pr2l.vlms.token_ids import image_tokens_first
from pr2l.vlms.unmodified import Unmodified

# The first two have equally many tokens in most models.
TEXTS = ("is it near ?", "is it left ?", "where is the medikit ? is it left of you ?")
ROWS = ((0, TEXTS[0]), (1, TEXTS[0]), (2, TEXTS[1]), (3, TEXTS[2]), (0, TEXTS[2]))  # index of the frame, text
FRAMES = 4
MANY = 17  # rows in the largest batch
# Case -> its batches, of indices of ROWS.
CASES: dict[str, list[list[int]]] = {
    "single rows": [[row] for row in range(len(ROWS))],
    "equal lengths": [[0, 1, 2]],
    "different lengths": [[0, 1, 2, 3]],
    "another order": [[3, 2, 0, 1]],
    "one frame, two prompts": [[0, 4]],
    f"{MANY} rows": [[number % len(ROWS) for number in range(MANY)]],
}


class RowStates(NamedTuple):
    """States and answers of one row, on the CPU.

    Args:
        inputs: float32 [L, I + P, D], image tokens first.
        generated: float32 [L, N, D].
        text: The answer of N tokens, as text.
        tokens: Ids of the answer that may end earlier.
    """

    inputs: Tensor
    generated: Tensor
    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Difference:
    """Differences of a case between pr2l and the unmodified model.

    Args:
        rows: Number of rows.
        relative: For each layer the largest relative difference of a token's state, |ours - theirs| / |theirs| with
            Euclidean norms.
        of_rms: For each layer the largest difference of a number, in units of the root mean square of the row's states.
        same_answers: Number of rows whose answers are the same.
    """

    rows: int
    relative: tuple[float, ...]
    of_rms: tuple[float, ...]
    same_answers: int


@dataclass(frozen=True)
class Reference:
    """How to load the unmodified model, and its inputs.

    Args:
        read: Function that loads the model.
        tokenizer: The tokenizer of the checkpoint.
        inputs: Inputs of each of ROWS.
        orders: For each of ROWS, the order of the states: image tokens first.
        layers: Indices of layers.
        new_tokens: Length of an answer; 0 = no answers.
    """

    read: Callable[[], Any]
    tokenizer: Any
    inputs: list[dict[str, Any]]
    orders: list[Tensor]
    layers: tuple[int, ...]
    new_tokens: int

    def rows(self) -> Iterator[RowStates]:
        """Load the unmodified model, and yield the states of each of ROWS."""
        model = self.read()
        eos = take_over_decoding(model, self.tokenizer)
        unmodified = Unmodified(model, self.layers, eos)
        for inputs, order in zip(self.inputs, self.orders, strict=True):
            states = unmodified.states(inputs)[:, order].cpu()
            if not self.new_tokens:
                yield RowStates(states, states[:, :0], "", [])
                continue
            ids, generated = unmodified.answer_of_length(inputs, self.new_tokens)
            answer = torch.tensor([unmodified.answer(inputs, self.new_tokens)])
            tokens = answer[before_end(answer, eos)].tolist()
            text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
            yield RowStates(states, generated.cpu(), text, tokens)


def reference(vlm: VLM, path: str) -> Reference:
    """Return the reference of a VLM, without its model, so that the VLM's memory can be freed.

    Args:
        vlm: The VLM.
        path: Folder or Hub id from which it was loaded.
    """
    frames, options = draw_pictures(vlm, FRAMES), vlm.options
    where = path, str(vlm.model.device), options.dtype
    return Reference(
        partial(checkpoint.read_model, *where, weights_reader(vlm), options.random_weights),
        vlm.tokenizer,
        [dict(vlm.inputs(frames[frame : frame + 1], [text])) for frame, text in ROWS],
        [image_tokens_first(vlm.ids([text]), vlm.image_token_id) for _, text in ROWS],
        options.layers,
        vlm.new_tokens,
    )


def weights_reader(vlm: VLM) -> Callable[[str, torch.dtype], Any]:
    """Return a function that reads all weights of the unmodified model, and does not keep the VLM in memory.

    Args:
        vlm: The VLM.
    """
    if type(vlm).read_weights is Family.read_weights:
        return checkpoint.read_weights
    family = object.__new__(type(vlm))  # whose model transformers does not have
    family.options, family.config = vlm.options.model_copy(update={"generation": "greedy"}), vlm.config
    return family.read_weights


def draw_pictures(vlm: VLM, count: int) -> Frames:
    """Draw random frames of the size of the vision tower's pictures, uint8 [count, H, W, 3].

    Args:
        vlm: The VLM.
        count: Number of frames.
    """
    return np.random.default_rng(0).integers(0, 256, (count, *vlm.picture_size, 3), dtype=np.uint8)


def run_case(vlm: VLM, batches: Iterable[Sequence[int]]) -> list[list[RowStates]]:
    """Return the states of the rows of each batch.

    Args:
        vlm: A VLM whose answers have a fixed length.
        batches: Indices of ROWS.

    Raises:
        UserError: A state is NaN or infinite.
    """
    frames = draw_pictures(vlm, FRAMES)
    return [_run(vlm, frames[[ROWS[row][0] for row in batch]], [ROWS[row][1] for row in batch]) for batch in batches]


def _run(vlm: VLM, frames: Frames, texts: list[str]) -> list[RowStates]:
    hidden = vlm.hidden(frames, texts)
    if not hidden.states.isfinite().all():
        dtype = str(vlm.model.dtype).removeprefix("torch.")
        raise UserError(f"some states are NaN or infinite in {dtype}; use dtype=float32 or dtype=bfloat16.")
    tokens = vlm.generate(frames, texts, vlm.new_tokens) if vlm.new_tokens else [[] for _ in texts]
    return [
        RowStates(input_states(hidden, row), hidden.states[row][:, hidden.spans["generated"]].cpu(), text, ids)
        for row, (text, ids) in enumerate(zip(hidden.answers, tokens, strict=True))
    ]


def input_states(hidden: Hidden, row: int) -> Tensor:
    """Return the states of a row's input without padding, float32 [L, I + P, D].

    Args:
        hidden: States of a batch.
        row: Index of the row.
    """
    end = hidden.spans["prompt"].stop
    return hidden.states[row][:, :end][:, hidden.mask[row, :end]].float().cpu()


def compare(batches: Sequence[Sequence[int]], ours: list[list[RowStates]], theirs: Sequence[RowStates]) -> Difference:
    """Compare the rows of a case with the unmodified model.

    Args:
        batches: Indices of ROWS.
        ours: States of the rows of each batch.
        theirs: States of each of ROWS.

    Raises:
        UserError: A row has another number of states.
    """
    pairs = [
        (row, theirs[index])
        for batch, rows in zip(batches, ours, strict=True)
        for index, row in zip(batch, rows, strict=True)
    ]
    layers = [_differences(row, expected) for row, expected in pairs]
    relative, of_rms = (tuple(np.max(values, axis=0).tolist()) for values in zip(*layers, strict=True))
    same = sum((row.text, row.tokens) == (expected.text, expected.tokens) for row, expected in pairs)
    return Difference(len(pairs), relative, of_rms, same)


def _differences(ours: RowStates, theirs: RowStates) -> tuple[list[float], list[float]]:
    """Return the relative differences of each layer, and those in units of the root mean square.

    The states of an answer are compared only if the answers are the same; in half precision they may differ.
    """
    parts = [(ours.inputs, theirs.inputs)]
    parts += [(ours.generated, theirs.generated)] if ours.text == theirs.text else []
    for actual, expected in parts:
        if actual.shape != expected.shape:
            raise UserError(
                f"a row has states [layers, tokens, width] of {list(actual.shape)}, and the unmodified model of"
                f" {list(expected.shape)}: the layout of the family's input is wrong, which is a bug. Please report it"
                " with the name of the checkpoint."
            )
    actual, expected = (torch.cat(states, dim=1) for states in zip(*parts, strict=True))
    return relative_differences(actual, expected), _of_rms(actual, expected)


def relative_differences(ours: Tensor, theirs: Tensor) -> list[float]:
    """Return for each layer the largest |ours - theirs| / |theirs| of a token's state.

    Args:
        ours: [L, T, D].
        theirs: [L, T, D].
    """
    smallest = torch.finfo(theirs.dtype).tiny
    ratios = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(smallest)
    return ratios.amax(1).tolist()


def _of_rms(ours: Tensor, theirs: Tensor) -> list[float]:
    scale = theirs.square().mean((1, 2)).sqrt()
    return ((ours - theirs).abs().amax((1, 2)) / scale).tolist()


# What tokens depend on.


@torch.no_grad()
def prompt_seen_by_image(vlm: VLM) -> list[float]:
    """Return for each layer how much the states of image tokens change with the prompt; [] without image tokens.

    Args:
        vlm: The VLM.
    """
    frame = draw_pictures(vlm, 1)
    first, second = (_segment(vlm.hidden(frame, [text]), "image") for text in TEXTS[:2])
    return relative_differences(first, second) if first.shape[1] else []


@torch.no_grad()
def image_seen_by_prompt(vlm: VLM) -> list[float]:
    """Return for each layer how much the states of the prompt's tokens change with the frame.

    Args:
        vlm: The VLM.
    """
    frames = draw_pictures(vlm, 2)
    first, second = (_segment(vlm.hidden(frames[row : row + 1], [TEXTS[0]]), "prompt") for row in (0, 1))
    return relative_differences(first, second)


def _segment(hidden: Hidden, name: str) -> Tensor:
    span = hidden.spans[name]
    return hidden.states[0][:, span][:, hidden.mask[0, span]].cpu()
