"""Attention weights of the query token: of a small network, and by patch and word of the VLM tiny."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from matplotlib.figure import Figure

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.types import Tokens
from pr2l.encoders.base import EncoderSource
from pr2l.policies.networks import mlp, token_transformer
from pr2l.prompting.attention import draw_attention, frame_attention, query_attention
from pr2l.rollout import build

SPACE = spaces.Dict(
    tokens=spaces.Box(-np.inf, np.inf, (4, 6), np.float32),
    mask=spaces.Box(0, 1, (4,), np.uint8),
)


def network(queries=1):
    torch.manual_seed(0)
    sizes = {"width": 8, "heads": 2, "feedforward": 8, "summary": 3}
    return token_transformer.Network(SPACE, token_transformer.Defaults(queries=queries, **sizes))


def test_weights_sum_to_one_and_are_zero_for_padding():
    tokens = Tokens(torch.randn(3, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]).bool())
    weights = query_attention(network(), tokens)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[~tokens.mask] == 0).all() and (weights[tokens.mask] > 0).all()
    assert weights[2, 1] == 1


def test_equal_tokens_have_equal_weights():
    values = torch.randn(1, 1, 6).repeat(1, 4, 1)
    mask = torch.ones(1, 4).bool()
    torch.testing.assert_close(query_attention(network(), Tokens(values, mask)), torch.full((1, 4), 0.25))
    values[0, 2] *= -1
    assert not torch.allclose(query_attention(network(), Tokens(values, mask)), torch.full((1, 4), 0.25))


def test_query_attention_does_not_change_the_network():
    tokens, policy_network = Tokens(torch.randn(2, 4, 6), torch.ones(2, 4).bool()), network()
    summary = policy_network.summarise(tokens.values, tokens.mask)
    query_attention(policy_network, tokens)
    torch.testing.assert_close(policy_network.summarise(tokens.values, tokens.mask), summary, rtol=0, atol=0)


def test_network_without_a_query_raises():
    tokens = Tokens(torch.randn(1, 4, 6), torch.ones(1, 4).bool())
    with pytest.raises(UserError, match="network=token_transformer"):
        query_attention(mlp.Network(SPACE, mlp.Defaults()), tokens)
    with pytest.raises(UserError, match="network_options.queries of at least 1"):
        query_attention(network(queries=0), tokens)


def test_weights_of_several_queries_are_averaged():
    """Queries that do not attend to each other have the same weights alone."""
    tokens, policy_network = Tokens(torch.randn(2, 4, 6), torch.ones(2, 4).bool()), network(queries=2)
    with torch.no_grad():
        policy_network.query.mul_(100)  # so that they attend to different tokens
        policy_network.decoder.self_attn.out_proj.weight.zero_()
    average, queries, weights = query_attention(policy_network, tokens), policy_network.query.data, []
    for number in range(2):
        policy_network.query.data = queries[:, [number, number]]
        weights.append(query_attention(policy_network, tokens))
    torch.testing.assert_close(average, (weights[0] + weights[1]) / 2)
    assert not torch.allclose(weights[0], weights[1])


def test_frame_attention_assigns_weights_to_patches_and_words():
    """tiny pools to 1 + 4 x 4 image tokens; then <s> where is the ... ? </s>; then the answer and its end."""
    config = load_config("doom/fetch/prompted", ["vlm_options.new_tokens=3"])
    encoder = build.encoder(config)
    prompted = encoder.encoder
    weights = torch.arange(prompted.tokens).float()
    attention = frame_attention(encoder, weights, "where is the imp ?", "far left")
    assert attention.patches.tolist() == np.arange(1, 17).reshape(4, 4).tolist()
    prompt, generated = 17, 17 + prompted.prompt_tokens
    words = ["where", "is", "the", "imp", "?"]
    assert attention.words[0] == ("(whole image)", 0.0)
    assert [word for word, _ in attention.words[2:7]] == words
    assert [weight for _, weight in attention.words[2:7]] == [prompt + index for index in range(1, 6)]
    assert attention.words[-3:] == [("> far", generated), ("> left", generated + 1), ("> (end)", generated + 2)]
    figure = Figure()
    draw_attention(*figure.subplots(1, 2), np.zeros((12, 16, 3), np.uint8), attention)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()][2:7] == words


def test_image_tokens_of_a_q_former_are_not_a_grid(monkeypatch):
    """Neither 32 nor 31 is a square number."""
    encoder = build.encoder(load_config("doom/fetch/prompted", ["encoder_options.segments=[image]"])).encoder
    monkeypatch.setattr(encoder.vlm, "image_length", lambda: 32)
    monkeypatch.setattr(encoder, "options", encoder.options.model_copy(update={"image_tokens": None}))
    attention = frame_attention(encoder, torch.arange(32).float(), "", "")
    assert attention.patches is None
    assert attention.words == [(f"(image {number + 1})", float(number)) for number in range(32)]


def test_prompts_of_several_images_raise(monkeypatch):
    encoder = build.encoder(load_config("doom/fetch/prompted"))
    monkeypatch.setattr(encoder.encoder, "frame_history", 2)
    with pytest.raises(UserError, match="prompts with one image, but this prompt has 2"):
        frame_attention(encoder, torch.arange(encoder.tokens).float(), "", "")


def test_other_encoders_raise():
    source = EncoderSource("tiny", None, None, [{}], (8, 8, 3), ())
    from pr2l.encoders import pixels

    with pytest.raises(UserError, match="encoder=prompted"):
        frame_attention(pixels.create(source, pixels.Defaults()), torch.ones(3), "", "")
