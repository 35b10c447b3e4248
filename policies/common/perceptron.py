"""Multi-layer perceptron for the heads of value functions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Return linear layers with ReLU between them.

    Args:
        inputs: Width of the input.
        hidden: Units of each hidden layer; () = one linear layer.
        outputs: Width of the output.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
