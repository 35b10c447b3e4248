"""Speed measurements: timing, baselines, and the sizes of the models."""

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


def test_variants_run_in_turn_after_a_warm_up():
    order = []
    seconds = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("ab" * 4)
    assert {name: len(rounds) for name, rounds in seconds.items()} == {"a": 3, "b": 3}


def test_speedup_is_the_ratio_of_each_round():
    assert speedup([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == MedianRange(3.0, 2.0, 4.0)


def test_verdict_compares_the_median_with_the_goal():
    value = MedianRange(2.0, 1.0, 3.0)
    at_least = [Measure("", value, "x", goal).verdict for goal in (2.0, 2.5, None)]
    assert at_least == ["reached (>= 2)", "MISSED (>= 2.5)", ""]
    at_most = [Measure("", value, "", goal, below=True).verdict for goal in (2.0, 1.5)]
    assert at_most == ["reached (<= 2)", "MISSED (<= 1.5)"]


def test_flops_and_peak_memory_of_known_functions():
    product = matrix_ceiling(torch.float32, torch.device("cpu"), side=512)
    assert flops(product) == 2 * 512**3
    for _ in range(2):  # the second time in freed memory
        peak = peak_memory(lambda: [torch.ones(250_000) for _ in range(100)])
        assert peak == pytest.approx(100e6, rel=0.15)


def test_profile_returns_shares_of_time():
    product = matrix_ceiling(torch.float32, torch.device("cpu"), side=1024)
    numbers = torch.randn(100_000)
    of_products = profile(product)
    of_activations = profile(lambda: [torch.nn.functional.gelu(numbers) for _ in range(9)])
    for shares in (of_products, of_activations):
        assert sum(shares.values()) == pytest.approx(1.0)
    assert of_products["linear layers"] > 0.9
    assert of_activations["activations"] > 0.8 and of_activations["linear layers"] == 0.0


# At 224 pixels CLIP has 320 fewer position embeddings, of 1024 numbers each.
SIZES = [("smolvlm-256m", 256.5), ("llava-7b", 7063.4), ("llava-7b-224px", 7063.1), ("instructblip-7b", 7913.7)]


@pytest.mark.parametrize(("name", "millions"), SIZES)
def test_number_of_parameters_of_random_models(name, millions):
    model, _ = shapes.SHAPES[name](device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_random_model_loads_like_a_checkpoint(tmp_path, monkeypatch):
    """With two small layers, because the full models take gigabytes."""
    small = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 2}
    monkeypatch.setitem(shapes.SHAPES, "small", lambda **how: shapes._llava(small, 56, 1, 64, **how))
    shapes.build("small", tmp_path)
    vlm = load_vlm(str(tmp_path), Defaults(new_tokens=2, min_new_tokens=2))
    assert vlm.hidden(FRAMES, TEXTS).states.shape == (3, 2, vlm.image_length() + vlm.prompt_length(TEXTS) + 2, 64)
    assert vlm.image_length() == 16


def test_random_instructblip_equals_its_baseline(tmp_path, monkeypatch):
    text = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 2}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    queries = small | {"encoder_hidden_size": 16}
    shape = partial(shapes._instructblip, text, small, queries, 56)
    monkeypatch.setitem(shapes.SHAPES, "small", shape)
    shapes.build("small", tmp_path)
    vlm = load_vlm(str(tmp_path), Defaults(generation="none"))
    ours = vlm.hidden(FRAMES, TEXTS).states.transpose(1, 2).flatten(2)
    torch.testing.assert_close(as_plain_batch(vlm, FRAMES, TEXTS), ours, rtol=0, atol=2e-5)


def test_ceiling_is_measured_with_32_text_tokens_in_half_of_the_layers(monkeypatch):
    small = {"hidden_size": 64, "intermediate_size": 128, "heads": 1, "layers": 4}
    monkeypatch.setitem(shapes.SHAPES, "small", lambda **how: shapes._llava(small, 56, 1, 64, **how))
    measures = list(half_the_ceiling("small", Effort(2, 1)))
    assert [measure.goal for measure in measures] == [155.0, None, None, None, 0.4]
    assert all(measures[index].name.startswith("small, half the layers, 16 + 32 tokens") for index in (0, 1, 2, 4))
    assert measures[3].name == "this machine's bfloat16 matrix product"
    # Two of four layers: projections of 4 x 64 x 64 and 3 x 64 x 128 numbers; torch counts no attention on a CPU.
    language_operations = 2 * 2 * 48 * (4 * 64**2 + 3 * 64 * 128) / 1e9
    operations, vision_share = measures[1].value.median, measures[2].value.median
    assert operations * (1 - vision_share) == pytest.approx(language_operations, rel=1e-6)


@pytest.mark.parametrize("generation", ["greedy", "none"])
def test_baselines_compute_the_same_states(generation):
    vlm = load_vlm("tiny", Defaults(generation=generation, new_tokens=3, min_new_tokens=3))
    ours = vlm.hidden(FRAMES, TEXTS)
    image_and_prompt = ours.states[:, :, : ours.spans["prompt"].stop].transpose(1, 2).flatten(2)
    for states in (as_the_notebook(vlm, FRAMES, TEXTS), as_plain_batch(vlm, FRAMES, TEXTS)):
        torch.testing.assert_close(states[:, : image_and_prompt.shape[1]], image_and_prompt, rtol=0, atol=2e-5)
    slow = row_by_row(load_vlm("tiny", vlm.options.model_copy(update={"disable": OPTIMIZATIONS})).hidden)(FRAMES, TEXTS)
    torch.testing.assert_close(slow.states, ours.states, rtol=0, atol=2e-5)
    assert slow.answers == ours.answers and slow.spans == ours.spans and slow.mask.equal(ours.mask)


def test_misspelled_model_raises_with_a_suggestion(tmp_path):
    with pytest.raises(UserError, match="'tiny'"):
        speed(["tinny"], out=tmp_path)


@pytest.mark.slow
def test_speed_measures_tiny_and_writes_reports(tmp_path):
    measures = speed(["tiny"], Effort(frames=4, rounds=1), tmp_path)
    report = json.loads((tmp_path / "speed.json").read_text())["measures"]
    assert [measure["name"] for measure in report] == [measure.name for measure in measures]
    assert all(measure.value.low <= measure.value.median <= measure.value.high for measure in measures)
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "speed.md").read_text().count("\n") == len(measures) + 2
    shares = {measure.name: measure.value.median for measure in measures if "share of time" in measure.name}
    ppo_shares = [share for name, share in shares.items() if name.startswith("PPO")]
    assert len(ppo_shares) == 3 and sum(ppo_shares) == pytest.approx(1.0, abs=0.1)
    pass_shares = [share for name, share in shares.items() if ": ours, share" in name]
    assert len(pass_shares) == 4 and sum(pass_shares) == pytest.approx(1.0)
