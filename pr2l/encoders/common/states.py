"""What encoders of a VLM's states share: pooling on the image grid, PCA, and joining of layers."""

from __future__ import annotations

from abc import abstractmethod
from math import isqrt
from typing import Any, Literal

import torch
from torch.nn.functional import adaptive_avg_pool2d

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.pca import PCA

FIT_BATCH = 16  # frames per VLM call while the PCA is fitted


class StatesEncoder(Encoder):
    """An encoder file fills in `states`; this makes Tokens of them.

    states [B, L, T, D] -> PCA [B, L, T, C] -> joined: by width [B, T, L * C], or by tokens [B, L * T, C]
    """

    costly = True

    def __init__(
        self,
        layers: int,
        length: int,
        size: int,
        pca: int | None,
        pca_frames: int,
        join: Literal["width", "tokens"],
    ) -> None:
        if length == 0:
            raise UserError(
                "encoder_options: no token is left to encode; name at least one segment that the VLM gives "
                "(image, prompt, or generated with vlm_options.generation)"
            )
        self.pca = PCA(pca, layers, size) if pca is not None else None
        self.fit_frames = pca_frames if pca is not None else 0
        self.join = join
        self._shape = (layers, length, size)
        reduced = size if pca is None else pca
        self.tokens = length if join == "width" else layers * length
        self.width = layers * reduced if join == "width" else reduced

    @abstractmethod
    def states(self, frames: Frames, contexts: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
        """Chosen, pooled states [B, L, T, D] and their mask bool [B, T]."""

    def key(self) -> dict[str, Any]:
        """To which an encoder file adds its options, its VLM's key, and its prompt."""
        fitted = digest.of_tensors(self.state_dict()) if self.pca is not None else None
        return {"encoder": type(self).__module__, "tokens": self.tokens, "width": self.width, "fitted": fitted}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        states, mask = self._checked_states(frames, contexts)
        if self.pca is not None:
            states = self.pca.transform(states)
        if self.join == "width":
            return Tokens(states.transpose(1, 2).flatten(2), mask)
        return Tokens(states.flatten(1, 2), mask.repeat(1, states.shape[1]))

    def fit(self, frames: Frames, contexts: Contexts) -> None:
        if self.pca is None:
            super().fit(frames, contexts)
            return
        for start in range(0, len(frames), FIT_BATCH):
            rows = slice(start, start + FIT_BATCH)
            self.pca.update(*self._checked_states(frames[rows], contexts[rows]))
        self.pca.finish()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"pca/mean": self.pca.mean, "pca/basis": self.pca.basis} if self.pca else {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        if self.pca is not None:
            self.pca.mean, self.pca.basis = state["pca/mean"], state["pca/basis"]

    def _checked_states(self, frames: Frames, contexts: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
        states, mask = self.states(frames, contexts)
        if tuple(states.shape[1:]) != self._shape:
            raise ValueError(
                f"the VLM gave states {tuple(states.shape[1:])} (layers, tokens, width) where its lengths "
                f"promised {self._shape}; every context must be known when the encoder is made"
            )
        return states, mask


def pool_grid(states: torch.Tensor, count: int | None) -> torch.Tensor:
    """Averages neighbours in the square image grid until `count` are left: [B, L, T, D] -> [B, L, T', D].

    T' = pooled_length(T, count). None = as it is. A token before the grid (Florence-2's mean, a CLS) stays.
    """
    if count is None:
        return states
    before, grid = states.split([_before_grid(states.shape[2]), isqrt(states.shape[2]) ** 2], dim=2)
    rows, layers, length, size = grid.shape
    square = grid.float().reshape(rows * layers, isqrt(length), isqrt(length), size).permute(0, 3, 1, 2)
    pooled = adaptive_avg_pool2d(square, isqrt(count)).flatten(2).transpose(1, 2)
    return torch.cat([before, pooled.reshape(rows, layers, count, size).to(states.dtype)], dim=2)


def pooled_length(length: int, count: int | None) -> int:
    """Image tokens after pooling the grid among `length` tokens to `count`; UserError where that is impossible."""
    if count is None:
        return length
    side, before = isqrt(length), _before_grid(length)
    if before > 1:
        raise UserError(
            f"encoder_options: image_tokens={count}, but the VLM's {length} image tokens are no square grid, nor one "
            "with a token before it, and cannot be pooled; use image_tokens=null"
        )
    if count > side**2 or count < 1 or isqrt(count) ** 2 != count:
        squares = ", ".join(str(n * n) for n in range(1, side + 1))
        raise UserError(f"encoder_options: image_tokens={count} of {side**2}; it must be one of {squares} or null")
    return before + count


def _before_grid(length: int) -> int:
    """Tokens that remain of `length` beside the largest square grid."""
    return length - isqrt(length) ** 2
