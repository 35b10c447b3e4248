"""Logits of factored actions from features and image tokens.

    features -> Linear    -> logits of each factor
             -> Pointer   -> logits of the touched cell, from the image tokens
             -> ChildHead -> logits of a factor for each value of its parent, such as of the offset for each cell

With as many image tokens as cells, the factor of the touched cell is a pointer: the logit of a cell is the product of a
query, which the features give, and the token of that cell. So the policy points at what the VLM represents there, and a
position that was never touched needs no weights of its own. Otherwise the cell is a factor like the others.

A factor with a parent is autoregressive, as the heads of AlphaStar (Vinyals et al. 2019): its logits depend on the
value that was chosen for the parent. A child of the touched cell reads the token of that cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import nn
from torch.nn.functional import layer_norm

from .factored import FactorTable, Parents
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
        pointed = {self.touch_factor} if self.cells else set()
        self.parents = options.parent_of
        self.plain = [factor for factor in range(len(sizes)) if factor not in pointed | self.parents.keys()]
        self.plain_sizes = [sizes[factor] for factor in self.plain]
        self.linear = nn.Linear(features, sum(self.plain_sizes))
        self.child_heads = nn.ModuleDict(
            {
                str(factor): ChildHead(
                    features, sizes[parent], sizes[factor], options.child_units, token_size if parent in pointed else 0
                )
                for factor, parent in self.parents.items()
            }
        )

    def forward(self, features: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the logits of each factor: [B, n] of its n values, [B, m, n] if it has a parent of m values.

        Args:
            features: float32 [B, F].
            images: float32 [B, cells, D], the result of `image_tokens`; not used without a pointer.
        """
        logits = dict(zip(self.plain, self.linear(features).split(self.plain_sizes, dim=-1), strict=True))
        if self.pointer is not None:
            logits[self.touch_factor] = self.pointer(features, images)
        for factor in self.parents:
            logits[factor] = self.child_heads[str(factor)](features, images)
        return [logits[factor] for factor in range(len(logits))]


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


class ChildHead(nn.Module):
    """Logits of a factor for each value of its parent.

        hidden = ReLU(Linear(features) + embedding of the value of the parent + Linear(token of the value))
        logits = Linear(hidden)

    Args:
        features: Width of the features.
        parent_size: m, number of values of the parent.
        size: n, number of values of the factor.
        units: Hidden units.
        token_size: D, width of the token of each value, if the parent is the pointer's factor; 0 = no tokens.
    """

    def __init__(self, features: int, parent_size: int, size: int, units: int, token_size: int) -> None:
        super().__init__()
        self.features, self.parent = nn.Linear(features, units), nn.Parameter(torch.zeros(parent_size, units))
        self.token = nn.Linear(token_size, units, bias=False) if token_size else None
        self.logits = nn.Linear(units, size)

    def forward(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits float32 [B, m, n].

        Args:
            features: float32 [B, F].
            images: float32 [B, m, D]; not used without tokens.
        """
        hidden = self.features(features)[:, None] + self.parent
        if self.token is not None:
            hidden = hidden + self.token(layer_norm(images, images.shape[-1:]))
        logits: torch.Tensor = self.logits(hidden.relu())
        return logits


def image_tokens(tokens: torch.Tensor, mask: torch.Tensor, cells: int) -> torch.Tensor:
    """Return the tokens of the image's cells, float32 [B, cells, D], zero at padded slots.

    Args:
        tokens: Tokens [B, T, D], of which the first `cells` are the image's, row by row.
        mask: [B, T], 1 = real, 0 = padding.
        cells: Number of cells, at most T; 0 = none.
    """
    return without_padding(tokens[:, :cells], mask[:, :cells]).float()


def logit_shapes(sizes: Sequence[int], options: HeadOptions) -> list[tuple[int, ...]]:
    """Return the shapes of the logits of each factor without the rows, (n,) or (m, n), as in `ActionHead.forward`.

    Args:
        sizes: Number of values of each factor.
        options: Options of the head.
    """
    parents = options.parent_of
    return [(sizes[parents[factor]], size) if factor in parents else (size,) for factor, size in enumerate(sizes)]


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
    # for each factor, the earlier factor on whose value it depends, 0 = none; () = all factors are independent
    parents: tuple[NonNegativeInt, ...] = ()
    child_units: PositiveInt = 64  # hidden units of the logits of a factor with a parent
    image_tokens: NonNegativeInt = 0  # leading tokens that are the image's cells; pointer if touch_factor has as many

    @property
    def parent_of(self) -> Parents:
        """Parents by the factors that have one."""
        return {factor: parent for factor, parent in enumerate(self.parents) if parent}
