"""Checkpoints with random weights: the sizes of the models, and that pr2l loads them."""

import numpy as np
import pytest
import torch

from pr2l.profiling import shapes
from pr2l.profiling.baselines import as_plain_batch
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import Defaults

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 120, 160, 3), dtype=np.uint8)
TEXTS = ["where is the imp ?"] * 3
# At 224 pixels CLIP has 320 fewer position embeddings, of 1024 numbers each.
SIZES = [("smolvlm-256m", 256.5), ("llava-7b", 7063.4), ("llava-7b-224px", 7063.1), ("instructblip-7b", 7913.7)]


@pytest.mark.parametrize(("name", "millions"), SIZES)
def test_number_of_parameters_of_random_models(name, millions):
    model, _ = shapes.SHAPES[name](device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", ["smolvlm-256m", "llava-7b", "instructblip-7b"])
def test_small_shape_loads_like_a_checkpoint_and_equals_its_baseline(name, tmp_path):
    shapes.build(shapes.SMALL_SHAPES[name], tmp_path)
    vlm = load_vlm(str(tmp_path), Defaults(generation="none"))
    ours = vlm.hidden(FRAMES, TEXTS).states
    assert ours.shape == (3, 2, vlm.image_length() + vlm.prompt_length(TEXTS), 64)
    plain = as_plain_batch(vlm, FRAMES, TEXTS)
    # Sorted, as the order of the tokens differs.
    ours, plain = (states.sort(dim=1).values for states in (ours.transpose(1, 2).flatten(2), plain))
    torch.testing.assert_close(plain, ours, rtol=0, atol=2e-5)


def test_shape_is_written_in_half_precision(tmp_path):
    shapes.build(shapes.SMALL_SHAPES["llava-7b"], tmp_path, "cpu", torch.bfloat16)
    assert load_vlm(str(tmp_path), Defaults(dtype="bfloat16")).model.dtype == torch.bfloat16
    written = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    model, _ = shapes.SMALL_SHAPES["llava-7b"](device="meta")
    assert written == pytest.approx(2 * sum(parameter.numel() for parameter in model.parameters()), rel=0.1)


def test_tiny_needs_no_checkpoint(tmp_path):
    assert shapes.checkpoint("tiny", tmp_path) == "tiny" and list(tmp_path.iterdir()) == []
