"""Compiled modules and their few batch sizes, since torch.compile generates code for one shape at a time.

    4 environments             rows 0 1 2 3          run as they are: n = 4
    and a terminal frame       rows 0 1 2 3 4        run at 2n, as rows 0 1 2 3 4 4 4 4
    three prompts of a length  rows 0 1 3            run at n, as rows 0 1 3 3

On a GPU the code is recorded as CUDA graphs, so that the CPU does not start thousands of small kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

SHAPES = 64  # compiled versions of a module, beyond which it runs uncompiled: two batch sizes per length of a prompt


class Buckets:
    """Batch sizes n and 2n, where n is the number of rows of the first batch.

    Args:
        fixed: Whether batches are padded to these sizes; False = batches keep their size.
    """

    def __init__(self, fixed: bool) -> None:
        self.fixed, self.n = fixed, 0

    def pieces(self, count: int) -> list[list[int]]:
        """Split the rows of a batch into pieces of at most 2n.

        Args:
            count: Number of rows.

        Returns:
            Indices of the rows of each piece.
        """
        self.n = self.n or count
        most = 2 * self.n if self.fixed else count
        return [list(range(start, min(start + most, count))) for start in range(0, count, most)]

    def padded(self, rows: Sequence[int]) -> list[int]:
        """Repeat the last of at most 2n rows until there are n or 2n.

        Args:
            rows: Indices of at least one row. The first call, here or in `pieces`, sets n.

        Returns:
            n or 2n indices; the rows themselves if the sizes are not fixed.
        """
        self.n = self.n or len(rows)
        size = self.n if len(rows) <= self.n else 2 * self.n
        return [*rows, *[rows[-1]] * (size - len(rows) if self.fixed else 0)]


def compile_forward(module: nn.Module, *, graphs: bool = True) -> None:
    """Compile a module's forward passes, except those with gradients and those with a cache of keys and values.

    Cached decoding is left out because every token has a new shape.

    Args:
        module: Its `forward` is replaced; it must have parameters. torch's limit of recompilations, which holds for the
            whole process, becomes at least SHAPES.
        graphs: Whether to record CUDA graphs on a GPU.
    """
    whole: Any = module
    plain, device = whole.forward, next(module.parameters()).device
    # CUDA graphs are not tested.
    fast = torch.compile(plain, dynamic=False, mode="reduce-overhead" if graphs and device.type == "cuda" else None)
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, SHAPES)
    whole.forward = _where_it_can(plain, fast)


def _where_it_can(plain: Callable[..., Any], fast: Callable[..., Any]) -> Callable[..., Any]:
    began = False

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal began
        cached = kwargs.get("use_cache") or any(kwargs.get(name) is not None for name in ("past_key_values", "cache"))
        # In its first pass transformers adds hooks for the states to a module; earlier code would be compiled again.
        if cached or torch.is_grad_enabled() or not began:
            began = began or not cached
            return plain(*args, **kwargs)
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, torch.clone, fast(*args, **kwargs))  # a graph's next run overwrites its results

    return forward
