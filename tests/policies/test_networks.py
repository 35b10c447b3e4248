"""Every network: shapes, gradients everywhere, and padding that cannot be seen."""

import gymnasium as gym
import pytest
import torch
from token_world import token_space

from pr2l.core import registry
from pr2l.policies.common.tokens import Handles, TokenTable
from pr2l.policies.networks import cnn, mlp, token_transformer

TOKENS, WIDTH = 8, 24  # a width that cnn can read as RGB
NETWORKS = registry.names("networks")


def build(name, proprio=3, seed=0, **options):
    module = registry.load("networks", name)
    torch.manual_seed(seed)
    return module.Network(token_space(TOKENS, WIDTH, proprio), module.Defaults(**options))


def observations(rows=5, proprio=3):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(rows, TOKENS, dtype=torch.uint8)
    mask[0, 3:] = 0
    observation = {"tokens": torch.randn(rows, TOKENS, WIDTH, generator=generator), "mask": mask}
    return observation | ({"proprio": torch.randn(rows, proprio, generator=generator)} if proprio else {})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("proprio", [3, None])
def test_proprio_is_appended_to_the_summary_unchanged(name, proprio):
    network, observation = build(name, proprio), observations(proprio=proprio)
    features = network(observation)
    assert features.shape == (5, network.features_dim)
    assert torch.isfinite(features).all()
    if proprio:
        assert torch.equal(features[:, -3:], observation["proprio"])


@pytest.mark.parametrize("name", NETWORKS)
def test_handles_are_read_as_the_tokens_that_they_stand_for(name):
    table = TokenTable(2, 5, (TOKENS, WIDTH), torch.float32, torch.device("cpu"))
    observation, others = observations(), observations(proprio=None)
    for shown in (others, observation):
        ids = table.put(shown["tokens"].numpy(), shown["mask"].numpy())
    space = gym.spaces.Dict({"handle": Handles(table), "proprio": token_space(TOKENS, WIDTH, 3)["proprio"]})
    torch.manual_seed(0)
    module = registry.load("networks", name)
    network = module.Network(space, module.Defaults())
    handled = {"handle": torch.from_numpy(ids).float()[:, None], "proprio": observation["proprio"]}
    assert torch.equal(network(handled), build(name)(observation))
    assert torch.equal(network(observation), build(name)(observation))
    assert list(network.state_dict()) == list(build(name).state_dict())  # the table is not among the weights


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    network = build(name, **({"input_norm": True, "positions": True} if name == "token_transformer" else {}))
    network(observations()).square().sum().backward()
    assert [key for key, value in network.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_what_lies_in_padding_cannot_be_seen(name, garbage):
    network, clean = build(name), observations()
    dirty = {**clean, "tokens": clean["tokens"].clone()}
    dirty["tokens"][0, 3:] = garbage
    clean["tokens"][0, 3:] = 0
    assert torch.equal(network(dirty), network(clean))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_row_of_padding_alone_is_finite_and_constant(name):
    network, observation = build(name, proprio=None), observations(proprio=None)
    observation["mask"][:2] = 0
    features = network(observation)
    assert torch.isfinite(features).all()
    assert torch.allclose(features[0], features[1], atol=1e-6)


class NoEncoderMask(token_transformer.Network):
    """Wrong on purpose: real tokens attend to padding."""

    def summarise(self, tokens, mask):
        padding = ~token_transformer.attendable(mask)
        memory = self.encoder(self.project(tokens))
        query = self.query.expand(len(tokens), -1, -1)
        return self.to_summary(self.decoder(query, memory, memory_key_padding_mask=padding)[:, 0])


class NoDecoderMask(token_transformer.Network):
    """Wrong on purpose, as the published notebook is: the query attends to padding."""

    def summarise(self, tokens, mask):
        memory = self.encoder(self.project(tokens), src_key_padding_mask=~token_transformer.attendable(mask))
        return self.to_summary(self.decoder(self.query.expand(len(tokens), -1, -1), memory)[:, 0])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("network", "leaks"), [(token_transformer.Network, False), (NoEncoderMask, True), (NoDecoderMask, True)]
)
def test_the_attention_masks_alone_hide_padding(network, leaks, train):
    """`summarise` by itself, since `forward` also zeroes padding, which would hide a missing mask."""
    torch.manual_seed(0)
    options = token_transformer.Defaults(width=16, feedforward=16, summary=8)
    built = network(token_space(TOKENS, WIDTH, None), options).train(train)
    observation = observations(proprio=None)
    mask, tokens = observation["mask"].bool(), observation["tokens"]
    other = tokens.masked_fill(~mask[..., None], 5.0)
    with torch.no_grad():
        moved = (built.summarise(other, mask) - built.summarise(tokens, mask)).abs().amax(dim=1)
    assert (moved[0] > 1e-3) == leaks
    assert (moved[1:] == 0).all()


def test_without_a_query_the_summary_is_the_mean_of_the_real_tokens():
    network, observation = build("token_transformer", None, width=16, queries=0), observations(proprio=None)
    memory = network.encoder(network.project(observation["tokens"][:1, :3]))  # of row 0 the rest is padding
    expected = network.to_summary(memory.mean(dim=1))
    assert torch.allclose(network(observation)[:1], expected, atol=1e-6)
    network(observation).sum().backward()
    assert all(value.grad is not None for value in network.parameters())


def test_outputs_of_several_queries_stand_side_by_side():
    """Two queries change places, and their columns of the next layer with them: the summary stays."""
    network, observation = build("token_transformer", None, width=16, queries=2), observations(proprio=None)
    before, layer = network(observation), network.to_summary[0]
    with torch.no_grad():
        network.query.copy_(network.query.flip(1))
        assert not torch.allclose(network(observation), before, atol=1e-4)
        layer.weight.copy_(layer.weight.unflatten(1, (2, 16)).flip(1).flatten(1))
    assert torch.allclose(network(observation), before, atol=1e-6)


def test_position_embeddings_tell_tokens_apart_by_their_slot():
    """Without them the tokens are a set; with them (once learned) they are a sequence."""
    observation = observations(proprio=None)
    observation["mask"][:] = 1
    flipped = {**observation, "tokens": observation["tokens"].flip(1)}
    unordered, ordered = build("token_transformer", None), build("token_transformer", None, positions=True)
    torch.nn.init.normal_(ordered.positions)
    assert torch.allclose(unordered(flipped), unordered(observation), atol=1e-5)
    assert not torch.allclose(ordered(flipped), ordered(observation), atol=1e-2)


def test_the_mlp_averages_real_tokens_only():
    network = mlp.Network(token_space(3, 1, None), mlp.Defaults(hidden=(1,)))
    torch.nn.init.ones_(network.layers[0].weight)
    torch.nn.init.zeros_(network.layers[0].bias)
    observation = {"tokens": torch.tensor([[[2.0], [4.0], [9.0]]]), "mask": torch.tensor([[1, 1, 0]])}
    assert network(observation).item() == 3.0


def test_cnn_sees_the_image_that_the_rows_make():
    """A red frame and a blue frame differ only in which of three channels is lit."""
    network = cnn.Network(token_space(8, 24, None), cnn.Defaults(channels=(4,)))
    seen = []
    network.convolutions.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    red = torch.zeros(1, 8, 24)
    red[:, :, 0::3] = 1
    network({"tokens": red, "mask": torch.ones(1, 8)})
    assert seen[0].shape == (1, 3, 8, 8)
    assert torch.equal(seen[0].sum(dim=(0, 2, 3)), torch.tensor([64.0, 0.0, 0.0]))


def test_errors_say_what_to_use_instead():
    with pytest.raises(ValueError, match="not a multiple of heads 3; try width=63"):
        build("token_transformer", width=64, heads=3)
    with pytest.raises(ValueError, match="width 7 is not a multiple of 3; use encoder pixels"):
        cnn.Network(token_space(4, 7, None), cnn.Defaults())
