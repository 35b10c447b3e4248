"""What the query token looks at: in a network whose weights make the answer known, and in the embedded default."""

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


def test_weights_sum_to_one_and_padding_gets_none():
    tokens = Tokens(torch.randn(3, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]).bool())
    weights = query_attention(network(), tokens)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[~tokens.mask] == 0).all() and (weights[tokens.mask] > 0).all()
    assert weights[2, 1] == 1


def test_equal_tokens_are_weighed_equally_and_other_ones_are_not():
    values = torch.randn(1, 1, 6).repeat(1, 4, 1)
    every = torch.ones(1, 4).bool()
    torch.testing.assert_close(query_attention(network(), Tokens(values, every)), torch.full((1, 4), 0.25))
    values[0, 2] *= -1
    assert not torch.allclose(query_attention(network(), Tokens(values, every)), torch.full((1, 4), 0.25))


def test_asking_leaves_the_network_as_it_was():
    tokens, asked = Tokens(torch.randn(2, 4, 6), torch.ones(2, 4).bool()), network()
    before = asked.summarise(tokens.values, tokens.mask)
    query_attention(asked, tokens)
    torch.testing.assert_close(asked.summarise(tokens.values, tokens.mask), before, rtol=0, atol=0)


def test_a_network_without_a_query_is_refused():
    tokens = Tokens(torch.randn(1, 4, 6), torch.ones(1, 4).bool())
    with pytest.raises(UserError, match="network=token_transformer"):
        query_attention(mlp.Network(SPACE, mlp.Defaults()), tokens)
    with pytest.raises(UserError, match="network_options.queries=1"):
        query_attention(network(queries=0), tokens)


def test_several_queries_are_averaged():
    """Where queries do not look at each other, each alone gives its part of the mean."""
    tokens, both = Tokens(torch.randn(2, 4, 6), torch.ones(2, 4).bool()), network(queries=2)
    with torch.no_grad():
        both.query.mul_(100)  # so that they look at different tokens
        both.decoder.self_attn.out_proj.weight.zero_()
    together, pair, parts = query_attention(both, tokens), both.query.data, []
    for number in range(2):
        both.query.data = pair[:, [number, number]]
        parts.append(query_attention(both, tokens))
    torch.testing.assert_close(together, (parts[0] + parts[1]) / 2)
    assert not torch.allclose(parts[0], parts[1])


def test_weights_are_told_apart_by_patch_and_word():
    """tiny pools to 1 + 4 x 4 image tokens; then <s> where is the ... ? </s>; then the answer and its end."""
    config = load_config("doom/fetch/prompted", ["vlm_options.new_tokens=3"])
    encoder = build.encoder(config)
    inner = encoder.encoder
    weights = torch.arange(inner.tokens).float()
    found = frame_attention(encoder, weights, "where is the imp ?", "far left")
    assert found.patches.tolist() == np.arange(1, 17).reshape(4, 4).tolist()
    prompt, generated = 17, 17 + inner.prompt_tokens
    words = ["where", "is", "the", "imp", "?"]
    assert found.words[0] == ("(whole image)", 0.0)
    assert [word for word, _ in found.words[2:7]] == words
    assert [weight for _, weight in found.words[2:7]] == [prompt + place for place in range(1, 6)]
    assert found.words[-3:] == [("> far", generated), ("> left", generated + 1), ("> (end)", generated + 2)]
    figure = Figure()
    draw_attention(*figure.subplots(1, 2), np.zeros((12, 16, 3), np.uint8), found)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()][2:7] == words


def test_image_tokens_without_a_place_are_no_grid(monkeypatch):
    """As the 32 queries of a Q-Former: 32 is no square, nor one more."""
    encoder = build.encoder(load_config("doom/fetch/prompted", ["encoder_options.segments=[image]"])).encoder
    monkeypatch.setattr(encoder.vlm, "image_length", lambda: 32)
    monkeypatch.setattr(encoder, "options", encoder.options.model_copy(update={"image_tokens": None}))
    found = frame_attention(encoder, torch.arange(32).float(), "", "")
    assert found.patches is None
    assert found.words == [(f"(image {number + 1})", float(number)) for number in range(32)]


def test_other_encoders_are_refused():
    source = EncoderSource("tiny", None, None, [{}], (8, 8, 3), ())
    from pr2l.encoders import pixels

    with pytest.raises(UserError, match="encoder=prompted"):
        frame_attention(pixels.create(source, pixels.Defaults()), torch.ones(3), "", "")
