"""Logits of factored actions from features and image tokens.

    features -> Linear  -> logits of each factor
             -> Pointer -> logits of the touched cell, from the image tokens

With as many image tokens as cells, the factor of the touched cell is a pointer: the logit of a cell is the product of a
query, which the features give, and the token of that cell. So the policy points at what the VLM represents there, and a
position that was never touched needs no weights of its own. Otherwise the cell is a factor like the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import nn
from torch.nn.functional import layer_norm

from .factored import FactorTable
from .tokens import without_padding


class ActionHead(nn.Module):
    """Logits of the factors of an action.

    Args:
        features: Width of the features.
        token_size: D, width of a token.
        sizes: Number of values of each factor.
        options: Options of the head.
    """

    def __init__(self, features: int, token_size: int, sizes: Sequence[int], options: HeadOptions) -> None:
        super().__init__()
        self.cells, self.touch_factor = pointer_cells(sizes, options), options.touch_factor
        self.pointer = Pointer(features, token_size, self.cells) if self.cells else None
        self.linear_sizes = [size for factor, size in enumerate(sizes) if not self.cells or factor != self.touch_factor]
        self.linear = nn.Linear(features, sum(self.linear_sizes))

    def forward(self, features: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the logits [B, n] of the n values of each factor.

        Args:
            features: float32 [B, F].
            images: float32 [B, cells, D], the result of `image_tokens`; not used without a pointer.
        """
        logits = [*self.linear(features).split(self.linear_sizes, dim=-1)]
        if self.pointer is not None:
            logits.insert(self.touch_factor, self.pointer(features, images))
        return logits


class Pointer(nn.Module):
    """Logits of the cells of an image, from one token per cell: query . token / sqrt(D) + a learned bias of the cell.

    Args:
        features: Width of the features that give the query.
        token_size: D, width of a token.
        cells: Number of cells.
    """

    def __init__(self, features: int, token_size: int, cells: int) -> None:
        super().__init__()
        self.query = nn.Linear(features, token_size)
        self.bias = nn.Parameter(torch.zeros(cells))

    def forward(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits float32 [B, cells].

        Args:
            features: float32 [B, F].
            images: float32 [B, cells, D].
        """
        images = layer_norm(images, images.shape[-1:])  # states of some VLMs are in the thousands
        queries = self.query(features)
        return torch.einsum("btd,bd->bt", images, queries) / images.shape[-1] ** 0.5 + self.bias


def image_tokens(tokens: torch.Tensor, mask: torch.Tensor, cells: int) -> torch.Tensor:
    """Return the tokens of the image's cells, float32 [B, cells, D], zero at padded slots.

    Args:
        tokens: Tokens [B, T, D], of which the first `cells` are the image's, row by row.
        mask: [B, T], 1 = real, 0 = padding.
        cells: Number of cells, at most T; 0 = none.
    """
    return without_padding(tokens[:, :cells], mask[:, :cells]).float()


def pointer_cells(sizes: Sequence[int], options: HeadOptions) -> int:
    """Return the number of cells of the pointer, 0 if the touched cell is not a pointer.

    Args:
        sizes: Number of values of each factor.
        options: Options of the head.
    """
    factor = options.touch_factor
    return options.image_tokens if factor < len(sizes) and sizes[factor] == options.image_tokens else 0


class HeadOptions(BaseModel):
    """Options of the head of factored actions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors_of_type: FactorTable = ()  # factors that each action type, factor 0, uses; () = every type uses all factors
    touch_factor: PositiveInt = 1  # factor of the touched cell
    image_tokens: NonNegativeInt = 0  # leading tokens that are the image's cells; pointer if touch_factor has as many
