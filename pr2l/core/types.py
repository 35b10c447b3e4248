"""The arrays that pass between modules; every shape is written once, here.

Letters used in all docstrings: B rows of a batch (one per environment), T tokens, D width of a token,
L chosen VLM layers, H x W pixels, P proprioceptive numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # torch takes a second to import, and `pr2l list` does not need it
    import torch

Frames: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [B, H, W, 3], RGB, 0..255."""

Context: TypeAlias = dict[str, str]
"""What a task says about the current episode, e.g. {"target": "red armor"}; fills the slots of a prompt."""

Contexts: TypeAlias = list[Context]
"""One context per row of a batch of frames."""

Labels: TypeAlias = list[dict[str, Any]]
"""A frame's ground truth, per object {"name": str, "box": (x0, y0, x1, y1) in pixels, "distance": float}."""

Scene: TypeAlias = Mapping[str, Any]
"""What a frame shows as a whole: {"room": its type, "kept": {name: whether people keep it in such rooms}}, or {}."""


Segment: TypeAlias = Literal["image", "prompt", "generated"]
"""What a token of a VLM's states belongs to."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """Hidden states of a VLM for one batch of frames and texts.

    states: float [B, L, T, D], layers in the order asked for.
    mask: bool [B, T], True where the token is real (padding is False).
    spans: where "image", "prompt" and "generated" lie along T; the same for all rows, an absent segment is an
        empty slice.
    answers: the generated text of each row, "" where nothing was generated.
    """

    states: torch.Tensor
    mask: torch.Tensor
    spans: dict[str, slice]
    answers: list[str]

    def __post_init__(self) -> None:
        rows, _, tokens, _ = self.states.shape
        _check_mask(self.mask, (rows, tokens))
        if len(self.answers) != rows:
            raise ValueError(f"{len(self.answers)} answers for {rows} rows; give one per row, '' for none")


@dataclass(frozen=True, eq=False)
class Tokens:
    """What an encoder makes of a batch of frames.

    values: float16 or float32 [B, T, D]; entries where the mask is False carry no meaning.
    mask: bool [B, T], True where the token is real (torch.nn.Transformer wants the opposite: pass ~mask).
    """

    values: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self) -> None:
        rows, tokens, _ = self.values.shape
        _check_mask(self.mask, (rows, tokens))


def _check_mask(mask: torch.Tensor, shape: tuple[int, int]) -> None:
    if tuple(mask.shape) != shape or str(mask.dtype) != "torch.bool":
        given = f"{mask.dtype} {tuple(mask.shape)}"
        raise ValueError(f"the mask is {given}; it must be torch.bool {shape}, True = real token")
