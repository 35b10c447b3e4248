"""Linear layers in int8 on a CPU, with one scale per row of activations and one per row of weights.

    x float32 [rows, K] --largest magnitude of each row--> scale [rows, 1], levels uint8 [rows, K]
    levels x weight int8 [K, N] --> sums int32 --x scale x scale of the weight, + bias--> float32 [rows, N]

A row is quantised without regard to the other rows of the batch. With one scale for the whole tensor, as in torch's
dynamic quantisation, the largest entry of one frame would round all other frames more coarsely.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pr2l.core.errors import UserError

SMALLEST = 1e-30  # scale of a row of zeros


class Int8Linear(nn.Module):
    """Linear layer with int8 weights, whose activations are quantised in each pass.

    Args:
        linear: The layer in float32, which is not changed.

    Raises:
        UserError: This build of torch has no int8 products.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # Without VNNI instructions two products are added in int16, where larger levels would overflow.
        self.levels = 127 if torch.cpu._is_vnni_supported() else 63
        weight = linear.weight.detach().float()
        self.scale = weight.abs().amax(1).clamp_(min=SMALLEST) / 127
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().float()
        rounded = (weight / self.scale[:, None]).round_().to(torch.int8)
        try:
            self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"dtype=int8 needs oneDNN's int8 products, which this build of torch does not have ({error}); use"
                " dtype=fastest or dtype=auto."
            ) from error

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs float32 [..., N] for inputs float32 [..., K]."""
        scale = inputs.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST).div_(self.levels)
        zero = self.levels + 1
        levels = (inputs / scale).add_(zero + 0.5).to(torch.uint8)  # the conversion rounds down
        product = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero, self.weight, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(self.bias, product, scale, out=product)


def with_int8_layers(model: nn.Module) -> nn.Module:
    """Replace the linear layers of a model by int8 layers, in place.

    Args:
        model: A model in float32 on the CPU. Layers of subclasses of nn.Linear stay, because their callers may read the
            weights.

    Returns:
        The same model.

    Raises:
        UserError: This build of torch has no int8 products.
    """
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Int8Linear(child))
        else:
            with_int8_layers(child)
    return model
