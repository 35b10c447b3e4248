"""Fused layers compute what transformers' modules compute, from the weights that those have now."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import BartConfig, BartForConditionalGeneration, Florence2Config
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone

from pr2l.profiling.timing import flops
from pr2l.vlms import load_vlm
from pr2l.vlms.fused import layers
from pr2l.vlms.fused.bart import Bart
from pr2l.vlms.fused.davit import Tower
from pr2l.vlms.options import Defaults

FRAMES = np.random.default_rng(0).integers(0, 256, size=(3, 40, 48, 3), dtype=np.uint8)
TEXTS = ["Where is the red torch?", "Is there a medikit in the room?", "Where is it?"]


def random_weights(module, seed=0):
    """Draw all parameters, so that norms and biases matter too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module.eval().requires_grad_(False)


def backbone(window=4):
    sizes = {"embed_dim": [8, 16], "num_heads": [2, 4], "num_groups": [2, 4], "window_size": window, "depths": [1, 2]}
    patches = {"patch_size": [4, 3], "patch_stride": [4, 2], "patch_padding": [0, 1], "patch_prenorm": [False, True]}
    config = Florence2Config(vision_config={**sizes, **patches, "projection_dim": 16}).vision_config
    return random_weights(Florence2VisionBackbone(config))


def bart():
    sizes = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "vocab_size": 40, "max_position_embeddings": 40}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 24}
    return random_weights(BartForConditionalGeneration(BartConfig(**sizes, **heads)))


def fused_bart(model):
    return Bart(model.model, model.lm_head)


def assert_close(ours, original, tolerance=1e-5):
    assert ours.shape == original.shape
    assert (ours - original).abs().max() <= tolerance * original.abs().max()


@torch.no_grad()
def assert_same_tower(module, pixels):
    assert_close(Tower(module)(pixels), module(pixels).last_hidden_state)


# 32 x 32 pixels are 8 x 8 patches, then 4 x 4: several windows and one; 24 x 40 need padding in both directions.
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("rows", [1, 5])
def test_tower_equals_transformers(rows, size):
    assert_same_tower(backbone(), torch.randn(rows, 3, *size))


def test_tower_without_the_fused_operators(monkeypatch):
    monkeypatch.setattr(layers, "has_fused_operators", lambda: False)
    assert_same_tower(backbone(), torch.randn(2, 3, 32, 32))


@torch.no_grad()
def assert_same_bart(model, lengths=(5, 9, 2)):
    """Compare encoder and three steps of the decoder, for rows of different lengths."""
    rows, longest = len(lengths), max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    inputs = {"inputs_embeds": torch.randn(rows, longest, 32), "attention_mask": mask}
    encoded = model.get_encoder()(**inputs, output_hidden_states=True)
    fused = fused_bart(model)
    memory, states = fused.encode(inputs, range(4))
    for ours, original in zip(states, encoded.hidden_states, strict=True):
        assert_close(ours[mask.bool()], original[mask.bool()])
    tokens = torch.randint(0, 40, (rows, 3))
    for step in range(1, 4):
        out = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=tokens[:, :step],
            output_hidden_states=True,
        )
        logits, states = fused.step(memory, tokens[:, step - 1 : step])
        assert_close(logits[:, 0], out.logits[:, -1])
        for ours, original in zip(states, out.decoder_hidden_states, strict=True):
            assert_close(ours[:, 0], original[:, -1])


@pytest.mark.parametrize("lengths", [(5, 9, 2), (7, 7), (40,) * 5])  # the last has enough rows for oneDNN in float32
def test_bart_equals_transformers(lengths):
    assert_same_bart(bart(), lengths)


def test_bart_with_lora_uses_the_adapters():
    model = bart()
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj", "fc1", "out_proj"], init_lora_weights=False), model)
    assert_same_bart(model.eval(), (40,) * 5)


@torch.no_grad()
def test_weights_that_change_later_are_used():
    model, module = bart(), backbone()
    fused, tower, pixels = fused_bart(model), Tower(module), torch.randn(2, 3, 32, 32)
    inputs = {"inputs_embeds": torch.randn(2, 6, 32), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    fused.encode(inputs, ()), tower(pixels)
    for parameter in [*model.parameters(), *module.parameters()]:
        parameter.mul_(1.5)
    assert_close(fused.encode(inputs, ())[1][-1], model.get_encoder()(**inputs).last_hidden_state)
    assert_close(tower(pixels), module(pixels).last_hidden_state)


def hidden(**options):
    return load_vlm("tiny", Defaults(new_tokens=3, **options)).hidden(FRAMES, TEXTS)


def test_states_and_answers_are_those_without_the_fused_layers():
    ours, original = hidden(), hidden(disable=("fused_layers",))
    assert ours.answers == original.answers
    assert torch.equal(ours.mask, original.mask)
    assert_close(ours.states, original.states)


@torch.no_grad()
def test_operations_of_fused_layers_are_counted():
    layer, inputs, residual = torch.nn.Linear(8, 5), torch.randn(100, 8), torch.randn(100, 5)
    assert flops(lambda: layers.linear_gelu(layer, inputs)) == 2 * 100 * 8 * 5
    assert flops(lambda: layers.linear_add(layer, inputs, residual)) == 2 * 100 * 8 * 5


@pytest.mark.skipif(not layers.has_bfloat16(), reason="this CPU has no bfloat16")
def test_bfloat16_is_as_precise_as_without_the_fused_layers():
    exact = hidden().states
    ours, original = (
        (hidden(dtype="bfloat16", disable=disable).states - exact).square().mean().sqrt()
        for disable in ((), ("fused_layers",))
    )
    assert 0 < ours < 1.2 * original


def test_image_features_with_gradients_come_from_transformers():
    vlm = load_vlm("tiny", Defaults())
    vlm.model.requires_grad_(True)
    features = vlm.image_features(FRAMES)
    features.sum().backward()
    assert vlm.model.model.vision_tower.convs[0].conv.weight.grad.abs().max() > 0
