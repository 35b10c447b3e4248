"""Arrays that are passed between modules, with their shapes.

Letters in all docstrings: B rows of a batch (one per environment), T tokens, D width of a token, L selected VLM layers,
H x W pixels, P proprioceptive numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # torch takes a second to import, and `pr2l list` does not need it
    import torch

THRESHOLD = 0.5  # an episode with at least this probability of success, from an evaluator, counts as a success

Frames: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [B, H, W, 3], RGB, 0..255."""

Frame: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB, 0..255."""

Context: TypeAlias = dict[str, str]
"""The task's description of the current episode, e.g. {"target": "red armor"}; fills the slots of a prompt."""

Contexts: TypeAlias = list[Context]
"""One context per row of a batch of frames."""

Labels: TypeAlias = list[dict[str, Any]]
"""A frame's ground truth, per object {"name": str, "box": (x0, y0, x1, y1) in pixels, "distance": float}."""

Scene: TypeAlias = Mapping[str, Any]
"""Ground truth about a whole frame: {"room": its type, "kept": {name: whether people keep it there}}, or {}."""


Segment: TypeAlias = Literal["image", "prompt", "generated"]
"""The part of a VLM's sequence that a token belongs to."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """Hidden states of a VLM for one batch of frames and texts.

    Attributes:
        states: Float [B, L, T, D], layers in the order of the option `layers`.
        mask: Bool [B, T], True for real tokens, False for padding.
        spans: Slices of the "image", "prompt" and "generated" tokens along T, the same for all rows; an absent segment
            has an empty slice.
        answers: The generated text of each row, "" if the VLM generated no text.
    """

    states: torch.Tensor
    mask: torch.Tensor
    spans: dict[str, slice]
    answers: list[str]

    def __post_init__(self) -> None:
        rows, _, tokens, _ = self.states.shape
        _check_mask(self.mask, (rows, tokens))
        if len(self.answers) != rows:
            raise ValueError(f"{len(self.answers)} answers for {rows} rows; pass one per row, '' for no answer")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Output of an encoder for a batch of frames.

    Attributes:
        values: Float16 or float32 [B, T, D]; entries of padding tokens are arbitrary.
        mask: Bool [B, T], True for real tokens (torch.nn.Transformer expects the opposite: pass ~mask).
    """

    values: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self) -> None:
        rows, tokens, _ = self.values.shape
        _check_mask(self.mask, (rows, tokens))


def _check_mask(mask: torch.Tensor, shape: tuple[int, int]) -> None:
    if tuple(mask.shape) != shape or str(mask.dtype) != "torch.bool":
        actual = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"the mask is {actual}; it must be torch.bool {shape}, with True for real tokens")
