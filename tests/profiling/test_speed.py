"""Speed: the baselines give the states that ours gives, ratios are paired, shapes are those of the names."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from pr2l.core.errors import UserError
from pr2l.profiling import shapes
from pr2l.profiling.speed import (
    Effort,
    Measure,
    as_plain_batch,
    as_the_notebook,
    half_the_ceiling,
    row_by_row,
    speed,
)
from pr2l.profiling.timing import MedianRange, flops, matrix_ceiling, peak_memory, profile, speedup, time_in_turn
from pr2l.vlms.loading import load_vlm
from pr2l.vlms.options import OPTIMIZATIONS, Defaults

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 120, 160, 3), dtype=np.uint8)
TEXTS = ["where is the imp ?"] * 3


def test_variants_run_in_turn_after_one_run_that_is_not_counted():
    order = []
    seconds = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("ab" * 4)
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3}


def test_speedups_are_paired_by_round():
    assert speedup([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == MedianRange(3.0, 2.0, 4.0)


def test_a_verdict_compares_with_the_goal():
    two = MedianRange(2.0, 1.0, 3.0)
    least = [Measure("", two, "x", goal).verdict for goal in (2.0, 2.5, None)]
    assert least == ["reached (>= 2)", "MISSED (>= 2.5)", ""]
    most = [Measure("", two, "", goal, below=True).verdict for goal in (2.0, 1.5)]
    assert most == ["reached (<= 2)", "MISSED (<= 1.5)"]


def test_operations_and_memory_of_a_product():
    product = matrix_ceiling(torch.float32, torch.device("cpu"), side=512)
    assert flops(product) == 2 * 512**3
    for _ in range(2):  # the second time in memory that the first has freed
        used = peak_memory(lambda: [torch.ones(250_000) for _ in range(100)])
        assert used == pytest.approx(100e6, rel=0.15)


def test_a_profile_says_where_the_time_went():
    product = matrix_ceiling(torch.float32, torch.device("cpu"), side=1024)
    numbers = torch.randn(100_000)
    of_products = profile(product)
    of_activations = profile(lambda: [torch.nn.functional.gelu(numbers) for _ in range(9)])
    for shares in (of_products, of_activations):
        assert sum(shares.values()) == pytest.approx(1.0)
    assert of_products["linear layers"] > 0.9
    assert of_activations["activations"] > 0.8 and of_activations["linear layers"] == 0.0


# At 224 pixels CLIP has 320 positions of 1024 numbers fewer.
SIZES = [("smolvlm-256m", 256.5), ("llava-7b", 7063.4), ("llava-7b-224px", 7063.1), ("instructblip-7b", 7913.7)]


@pytest.mark.parametrize(("name", "millions"), SIZES)
def test_shapes_are_as_large_as_their_names_say(name, millions):
    model, _ = shapes.SHAPES[name](device="meta")
    assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_shape_loads_like_any_checkpoint(tmp_path, monkeypatch):
    """The real shapes take gigabytes; the smallest of them, with two layers, is written and read here."""
    small = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 2}
    monkeypatch.setitem(shapes.SHAPES, "small", lambda **how: shapes._llava(small, 56, 1, 64, **how))
    shapes.build("small", tmp_path)
    vlm = load_vlm(str(tmp_path), Defaults(new_tokens=2, min_new_tokens=2))
    assert vlm.hidden(FRAMES, TEXTS).states.shape == (3, 2, vlm.image_length() + vlm.prompt_length(TEXTS) + 2, 64)
    assert vlm.image_length() == 16


def test_the_shape_of_instructblip_loads_and_its_baseline_agrees(tmp_path, monkeypatch):
    text = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 2}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    queries = small | {"encoder_hidden_size": 16}
    shape = partial(shapes._instructblip, text, small, queries, 56)
    monkeypatch.setitem(shapes.SHAPES, "small", shape)
    shapes.build("small", tmp_path)
    vlm = load_vlm(str(tmp_path), Defaults(generation="none"))
    ours = vlm.hidden(FRAMES, TEXTS).states.transpose(1, 2).flatten(2)
    torch.testing.assert_close(as_plain_batch(vlm, FRAMES, TEXTS), ours, rtol=0, atol=2e-5)


def test_the_limit_is_measured_with_32_text_tokens_in_half_the_layers(monkeypatch):
    small = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 4}
    monkeypatch.setitem(shapes.SHAPES, "small", lambda **how: shapes._llava(small, 56, 1, 64, **how))
    measures = list(half_the_ceiling("small", Effort(2, 1)))
    assert [measure.goal for measure in measures] == [155.0, None, None, None, 0.4]
    assert all(measures[at].name.startswith("small, half the layers, 16 + 32 tokens") for at in (0, 1, 2, 4))
    assert measures[3].name == "this machine's bfloat16 matrix product"
    # Two of four layers: projections of 4 x 64 x 64 and 3 x 64 x 128 numbers; torch counts no attention on a CPU.
    in_language = 2 * 2 * 48 * (4 * 64**2 + 3 * 64 * 128) / 1e9
    operations, in_vision = measures[1].value.median, measures[2].value.median
    assert operations * (1 - in_vision) == pytest.approx(in_language, rel=1e-6)


@pytest.mark.parametrize("generation", ["greedy", "none"])
def test_the_baselines_compute_what_ours_does(generation):
    vlm = load_vlm("tiny", Defaults(generation=generation, new_tokens=3, min_new_tokens=3))
    ours = vlm.hidden(FRAMES, TEXTS)
    whole = ours.states[:, :, : ours.spans["prompt"].stop].transpose(1, 2).flatten(2)
    for theirs in (as_the_notebook(vlm, FRAMES, TEXTS), as_plain_batch(vlm, FRAMES, TEXTS)):
        torch.testing.assert_close(theirs[:, : whole.shape[1]], whole, rtol=0, atol=2e-5)
    slow = row_by_row(load_vlm("tiny", vlm.options.model_copy(update={"disable": OPTIMIZATIONS})).hidden)(FRAMES, TEXTS)
    torch.testing.assert_close(slow.states, ours.states, rtol=0, atol=2e-5)
    assert slow.answers == ours.answers and slow.spans == ours.spans and slow.mask.equal(ours.mask)


def test_an_unknown_shape_is_named(tmp_path):
    with pytest.raises(UserError, match="'tiny'"):
        speed(["tinny"], out=tmp_path)


@pytest.mark.slow
def test_the_program_measures_tiny(tmp_path):
    measures = speed(["tiny"], Effort(frames=4, rounds=1), tmp_path)
    written = json.loads((tmp_path / "speed.json").read_text())["measures"]
    assert [each["name"] for each in written] == [measure.name for measure in measures]
    assert all(measure.value.low <= measure.value.median <= measure.value.high for measure in measures)
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "speed.md").read_text().count("\n") == len(measures) + 2
    shares = {measure.name: measure.value.median for measure in measures if "share of time" in measure.name}
    of_ppo = [share for name, share in shares.items() if name.startswith("PPO")]
    assert len(of_ppo) == 3 and sum(of_ppo) == pytest.approx(1.0, abs=0.1)
    of_passes = [share for name, share in shares.items() if ": ours, share" in name]
    assert len(of_passes) == 4 and sum(of_passes) == pytest.approx(1.0)
