"""Int8 layers: the exact arithmetic, and rows that do not depend on the other rows of a batch."""

import numpy as np
import pytest
import torch
from torch import nn

from pr2l.vlms.int8 import Int8Linear, with_int8_layers
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import Defaults


def layer(inputs=96, outputs=40, bias=True):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bias", [True, False])
def test_product_equals_the_product_of_rounded_numbers(bias):
    linear, inputs = layer(bias=bias), rows(7, 96)
    quantised = Int8Linear(linear)
    steps = inputs.abs().amax(1, keepdim=True) / quantised.levels
    weight_steps = linear.weight.abs().amax(1, keepdim=True) / 127
    exact = (inputs / steps).round() @ (linear.weight / weight_steps).round().T * steps * weight_steps.T
    exact = exact + linear.bias if bias else exact
    torch.testing.assert_close(quantised(inputs), exact, rtol=0, atol=1e-5)
    assert 0.001 < (quantised(inputs) - linear(inputs)).norm() / linear(inputs).norm() < 0.02


def test_row_does_not_depend_on_the_other_rows():
    """A row with large numbers, which would set the scale of the whole tensor, changes no other row."""
    quantised, inputs = Int8Linear(layer()), rows(4, 5, 96)
    inputs[0] *= 1000
    together = quantised(inputs)
    assert together.shape == (4, 5, 40)
    for index, row in enumerate(inputs):
        assert together[index].equal(quantised(row))


def test_row_of_zeros_gives_the_bias():
    linear = layer()
    assert Int8Linear(linear)(torch.zeros(2, 96)).equal(linear.bias.expand(2, -1))


def test_layers_of_subclasses_stay():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "mlp": nn.Sequential(layer(8, 8), nn.GELU())})
    with_int8_layers(model)
    assert isinstance(model["mlp"][0], Int8Linear)
    assert isinstance(model["attention"].out_proj, nn.Linear)


def test_states_of_tiny_are_close_to_float32_and_have_their_own_key():
    frames = np.random.default_rng(0).integers(0, 256, (2, 120, 160, 3), dtype=np.uint8)
    texts = ["where is the imp ?"] * 2
    exact, rounded = (load_vlm("tiny", Defaults(generation="none", dtype=dtype)) for dtype in ("float32", "int8"))
    states = exact.hidden(frames, texts).states
    difference = rounded.hidden(frames, texts).states - states
    assert 0.002 < difference.norm() / states.norm() < 0.02
    assert rounded.key()["dtype"] == "int8 by rows"
