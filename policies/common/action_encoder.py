"""Encoding of factored actions for action-value functions on frozen tokens.

    action -> embedding of each factor that its type uses            \
                                                                      concatenated
    token of the touched cell, if the type uses the cell -> Linear   /
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import layer_norm

from .action_head import HeadOptions, image_tokens, pointer_cells


class ActionEncoder(nn.Module):
    """Encoding of actions as vectors.

    With as many image tokens as cells, the encoding has the token of the touched cell, so that the value of a touch
    depends on what the VLM represents there. Factors that the type does not use have zeros.

    Args:
        sizes: Number of values of each factor.
        uses: bool [types, factors], which factors each type uses.
        token_size: D, width of a token.
        width: Width of the embedding of a factor, and of the projected token.
        options: Options of the policy, which say which tokens are the image's cells.
    """

    uses: torch.Tensor

    def __init__(
        self, sizes: tuple[int, ...], uses: torch.Tensor, token_size: int, width: int, options: HeadOptions
    ) -> None:
        super().__init__()
        self.register_buffer("uses", uses.clone(), persistent=False)
        self.factors = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.cells, self.touch_factor = pointer_cells(sizes, options), options.touch_factor
        self.touched = nn.Linear(token_size, width) if self.cells else None
        self.width = width * (len(sizes) + bool(self.cells))

    def forward(self, actions: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode actions.

        Args:
            actions: int64 [B, factors], or [N, B, factors] for N actions of each observation.
            tokens: Tokens [B, T, D] of the observations.
            mask: [B, T], 1 = real; the token of a padded slot counts as zero.

        Returns:
            float32 [B, width] or [N, B, width].
        """
        used = self.uses[actions[..., 0]].float()
        parts = [
            embedding(values) * used[..., factor, None]
            for factor, (embedding, values) in enumerate(zip(self.factors, actions.unbind(-1), strict=True))
        ]
        if self.touched is not None:
            rows = torch.arange(len(tokens), device=tokens.device)
            cells = actions[..., self.touch_factor]
            touched = image_tokens(tokens, mask, self.cells)[rows, cells]
            parts.append(self.touched(layer_norm(touched, touched.shape[-1:])) * used[..., self.touch_factor, None])
        return torch.cat(parts, dim=-1)
