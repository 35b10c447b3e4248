"""Encoders of a VLM's hidden states: pooling of the image grid, PCA, and concatenation of layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from einops import rearrange, reduce, repeat
from torch.nn.functional import adaptive_avg_pool2d

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.types import Contexts, Frames, Labels, Tokens
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.pca import PCA

if TYPE_CHECKING:
    from pr2l.vlms import VLM

FIT_BATCH = 16  # frames per VLM call while the PCA is fitted


Pooling: TypeAlias = "int | tuple[int, int] | None"
"""Tokens of an image after pooling: a square number; (rows, columns) of a grid; None = no pooling."""


class StatesEncoder(Encoder):
    """Base class of encoders of hidden states; a subclass implements `states`.

        states [B, L, T, D] -> PCA [B, L, T, C] -> joined: by width [B, T, L * C], or by tokens [B, L * T, C]

    Args:
        layers: L, number of layers.
        length: T, number of tokens of a layer.
        size: D, width of a state.
        pca: C, components per layer and token; None = no PCA, C = D.
        pca_frames: Number of frames that the PCA is fitted on.
        join: Whether layers are concatenated along the width of a token ("width") or become separate tokens ("tokens").

    Raises:
        UserError: length is 0, or pca is not in 1 to size.
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
                "encoder_options: the segments have no tokens; use at least one segment that the VLM has "
                "(image, prompt, or generated with vlm_options.generation)"
            )
        self.pca = PCA(pca, layers, size) if pca is not None else None
        self.fit_frames = pca_frames if pca is not None else 0
        self.join = join
        self._shape = (layers, length, size)
        width = size if pca is None else pca
        self.tokens = length if join == "width" else layers * length
        self.width = layers * width if join == "width" else width

    @abstractmethod
    def states(self, frames: Frames, contexts: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the chosen and pooled states of a batch.

        Args:
            frames: As in `encode`.
            contexts: One context per row.

        Returns:
            States [B, L, T, D] and their mask, bool [B, T].
        """

    def key(self) -> dict[str, Any]:
        """Return the part of the key that all these encoders share.

        A subclass adds its options, its VLM's key, and its prompt.
        """
        pca_digest = digest.of_tensors(self.state_dict()) if self.pca is not None else None
        return {"encoder": type(self).__module__, "tokens": self.tokens, "width": self.width, "fitted": pca_digest}

    def encode(self, frames: Frames, contexts: Contexts, labels: list[Labels] | None = None) -> Tokens:
        states, mask = self._checked_states(frames, contexts)
        if self.pca is not None:
            states = self.pca.transform(states)
        if self.join == "width":
            return Tokens(rearrange(states, "b l t d -> b t (l d)"), mask)
        return Tokens(rearrange(states, "b l t d -> b (l t) d"), repeat(mask, "b t -> b (l t)", l=states.shape[1]))

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
                f"the VLM returned states of shape {tuple(states.shape[1:])} (layers, tokens, width) instead of"
                f" {self._shape}; a VLM must return the same number of tokens for every frame"
            )
        return states, mask


def pool_grid(states: torch.Tensor, count: Pooling) -> torch.Tensor:
    """Average neighbouring tokens of an image grid.

    Args:
        states: [B, L, T, D], the grid row by row. A token before the grid (Florence-2's mean, a class token) is kept if
            `count` is a number, and left out if it is a pair.
        count: Tokens after pooling, see `Pooling`.

    Returns:
        [B, L, pooled_length(T, count), D].
    """
    if count is None:
        return states
    if isinstance(count, tuple):
        rows, columns = count
        side, before = _block(states.shape[2], rows, columns)
        grid = states[:, :, before:].float()
        sizes = {"r": rows, "c": columns, "i": side, "j": side}
        return reduce(grid, "b l (r i c j) d -> b l (r c) d", "mean", **sizes).to(states.dtype)
    before, grid = states.split([_before_grid(states.shape[2]), isqrt(states.shape[2]) ** 2], dim=2)
    square = rearrange(grid.float(), "b l (h w) d -> (b l) d h w", h=isqrt(grid.shape[2]))
    pooled = adaptive_avg_pool2d(square, isqrt(count)).to(states.dtype)
    return torch.cat([before, rearrange(pooled, "(b l) d h w -> b l (h w) d", b=len(states))], dim=2)


def _block(length: int, rows: int, columns: int) -> tuple[int, int]:
    """Return the side of the square of tokens behind each pooled one, and the number of tokens before the grid."""
    side = isqrt(length // (rows * columns))
    before = length - side**2 * rows * columns
    if side < 1 or before > 1:
        raise UserError(
            f"encoder_options: image_tokens=[{rows}, {columns}] does not divide the VLM's {length} image tokens into "
            f"squares of equal size: {length} or {length - 1} must be {rows} x {columns} times a square number"
        )
    return side, before


def pooled_length(length: int, count: Pooling) -> int:
    """Return the number of image tokens after `pool_grid`.

    Args:
        length: Number of image tokens before pooling, a token before the grid included.
        count: Tokens after pooling, see `Pooling`.

    Raises:
        UserError: The tokens do not form a square grid, or count is not a square number of at most its size; or the
            rows and columns do not divide the grid into squares.
    """
    if count is None:
        return length
    if isinstance(count, tuple):
        _block(length, *count)
        return count[0] * count[1]
    side, before = isqrt(length), _before_grid(length)
    if before > 1:
        raise UserError(
            f"encoder_options: image_tokens={count}, but the VLM's {length} image tokens are neither a square grid nor "
            "one token and a square grid, so they cannot be pooled; use image_tokens=null"
        )
    if count > side**2 or count < 1 or isqrt(count) ** 2 != count:
        squares = ", ".join(str(n * n) for n in range(1, side + 1))
        raise UserError(f"encoder_options: image_tokens={count} of {side**2}; it must be one of {squares} or null")
    return before + count


def pool_grids(states: torch.Tensor, lengths: Sequence[int], count: Pooling) -> torch.Tensor:
    """Average neighbouring tokens of several grids, each by itself; a single token among grids stays as it is.

    Args:
        states: [B, L, T, D], grid after grid.
        lengths: Number of tokens of each grid, as `VLM.grids` returns them.
        count: As in `pool_grid`.

    Returns:
        [B, L, pooled_lengths(lengths, count), D].
    """
    grids = zip(states.split(list(lengths), dim=2), _counts(lengths, count), strict=True)
    return torch.cat([pool_grid(grid, own_count) for grid, own_count in grids], dim=2)


def pooled_lengths(lengths: Sequence[int], count: Pooling) -> int:
    """Return the number of image tokens after `pool_grids`.

    Args:
        lengths: As in `pool_grids`.
        count: As in `pool_grid`.

    Raises:
        UserError: As in `pooled_length`.
    """
    pairs = zip(lengths, _counts(lengths, count), strict=True)
    return sum(pooled_length(length, own_count) for length, own_count in pairs)


def _counts(lengths: Sequence[int], count: Pooling) -> list[Pooling]:
    return [None if length == 1 < max(lengths) else count for length in lengths]


def check_pooling(vlm: VLM, count: Pooling) -> None:
    """Raise UserError if the image grid is to be pooled but may not be square (aspect=native).

    Args:
        vlm: VLM of the encoder.
        count: The option image_tokens; None = no pooling.
    """
    if count is not None and vlm.options.aspect == "native":
        raise UserError(
            f"encoder_options: image_tokens={count} needs a square grid of image tokens, but with vlm_options.aspect="
            "native the grid has the shape of the frames; use image_tokens=null, or aspect=letterbox"
        )


def _before_grid(length: int) -> int:
    """Return the number of tokens that remain beside the largest square grid among `length` tokens."""
    return length - isqrt(length) ** 2
