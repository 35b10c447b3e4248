"""Linear layers fused with what follows them: the bias, a GELU or a residual sum.

They use the operators of oneDNN that torch.compile generates for a CPU. Where these do not exist, or the layer is not a
plain nn.Linear (int8, LoRA), the functions compute the same with separate operations. None of them has a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

T = TypeVar("T")
FEW_ROWS = 64  # below this, a product in float32 is faster in MKL than in oneDNN


def linear(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Apply a linear layer to inputs [..., K].

    Args:
        layer: nn.Linear, or a module in its place.
        inputs: [..., K], contiguous.
    """
    if not _fuses(layer, inputs):
        outputs: Tensor = layer(inputs)
        return outputs
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, "none", [], "")
    return fused


def linear_gelu(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Apply a linear layer and then the exact GELU.

    Args:
        layer: As in `linear`.
        inputs: As in `linear`.
    """
    if not _fuses(layer, inputs):
        return functional.gelu(layer(inputs))
    fused: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, "gelu", [], "none")
    return fused


def linear_add(layer: nn.Module, inputs: Tensor, residual: Tensor) -> Tensor:
    """Apply a linear layer and add a residual.

    Args:
        layer: As in `linear`.
        inputs: As in `linear`.
        residual: Of the shape of the result.
    """
    if not _fuses(layer, inputs):
        return layer(inputs) + residual
    fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, layer.weight, layer.bias, "add")
    return fused


def _fuses(layer: nn.Module, inputs: Tensor) -> bool:
    if type(layer) is not nn.Linear or not has_fused_operators():
        return False
    if inputs.dtype == torch.bfloat16:
        return has_bfloat16()
    return inputs.dtype == torch.float32 and inputs.numel() >= FEW_ROWS * inputs.shape[-1]


@cache
def has_fused_operators() -> bool:
    """Return whether this build of torch has the fused operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def has_bfloat16() -> bool:
    """Return whether oneDNN computes in bfloat16 on this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


if has_fused_operators():

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def product_flops(inputs: Any, *others: Any, **options: Any) -> int:
        """Count the operations of a fused layer, which torch's counter does not know.

        Args:
            inputs: Shape [..., K].
            others: Shape of a residual if there is one, then that of the weight [N, K], then others.
            options: Not used.
        """
        weight = others[0] if isinstance(others[2], str) else others[1]  # others[2] is the activation or the bias
        return 2 * math.prod(inputs) * int(weight[0])


class Derived(Generic[T]):
    """A value computed from parameters, and computed again when they change.

    Args:
        compute: Function from the parameters to the value, which must not share their memory.
    """

    def __init__(self, compute: Callable[..., T]) -> None:
        self.compute = compute
        self._state: list[tuple[int, int]] | None = None

    def __call__(self, *parameters: Tensor) -> T:
        """Return the value for the current parameters."""
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if state != self._state:
            with torch.no_grad():
                self._value, self._state = self.compute(*parameters), state
        return self._value


class JoinedLinear:
    """Linear layers of the same input, as one product.

    Args:
        parent: Module with the layers.
        names: Attributes of the layers.
    """

    def __init__(self, parent: nn.Module, *names: str) -> None:
        self.parent, self.names = parent, names
        self._joined = Derived(_joined)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all layers [..., sum of N], one after the other, for inputs [..., K]."""
        layers: list[Any] = [getattr(self.parent, name) for name in self.names]  # LoRA may have replaced them
        if any(type(layer) is not nn.Linear for layer in layers):
            return torch.cat([layer(inputs) for layer in layers], dim=-1)
        return linear(self._joined(*(layer.weight for layer in layers), *(layer.bias for layer in layers)), inputs)


def _joined(*parameters: Tensor) -> nn.Linear:
    weights, biases = parameters[: len(parameters) // 2], parameters[len(parameters) // 2 :]
    layer = nn.Linear(1, 1, device="meta")
    layer.weight, layer.bias = (nn.Parameter(torch.cat(parts), requires_grad=False) for parts in (weights, biases))
    return layer
