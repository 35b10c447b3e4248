"""Every network: shapes, gradients of all parameters, and no influence of padding."""

import gymnasium as gym
import pytest
import torch
from token_world import token_space

from pr2l.core import registry
from pr2l.policies.common.tokens import Handles, TokenTable
from pr2l.policies.networks import cnn, mlp, token_transformer

TOKENS, WIDTH = 8, 24  # cnn reads rows of RGB
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
def test_handles_give_the_features_of_their_tokens(name):
    table = TokenTable(2, 5, (TOKENS, WIDTH), torch.float32, torch.device("cpu"))
    observation, others = observations(), observations(proprio=None)
    for stored in (others, observation):
        ids = table.put(stored["tokens"].numpy(), stored["mask"].numpy())
    space = gym.spaces.Dict({"handle": Handles(table), "proprio": token_space(TOKENS, WIDTH, 3)["proprio"]})
    torch.manual_seed(0)
    module = registry.load("networks", name)
    network = module.Network(space, module.Defaults())
    with_handle = {"handle": torch.from_numpy(ids).float()[:, None], "proprio": observation["proprio"]}
    assert torch.equal(network(with_handle), build(name)(observation))
    assert torch.equal(network(observation), build(name)(observation))
    assert list(network.state_dict()) == list(build(name).state_dict())  # the table is not a weight


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    network = build(name, **({"input_norm": True, "positions": True} if name == "token_transformer" else {}))
    network(observations()).square().sum().backward()
    assert [key for key, value in network.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_features_do_not_depend_on_padding(name, garbage):
    network, clean = build(name), observations()
    changed = {**clean, "tokens": clean["tokens"].clone()}
    changed["tokens"][0, 3:] = garbage
    clean["tokens"][0, 3:] = 0
    assert torch.equal(network(changed), network(clean))


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_without_real_tokens_have_finite_constant_features(name):
    network, observation = build(name, proprio=None), observations(proprio=None)
    observation["mask"][:2] = 0
    features = network(observation)
    assert torch.isfinite(features).all()
    assert torch.allclose(features[0], features[1], atol=1e-6)


class NoEncoderMask(token_transformer.Network):
    """A wrong network, in which real tokens attend to padding."""

    def summarise(self, tokens, mask):
        padding = ~token_transformer.attendable(mask)
        memory = self.encoder(self.project(tokens))
        query = self.query.expand(len(tokens), -1, -1)
        return self.to_summary(self.decoder(query, memory, memory_key_padding_mask=padding)[:, 0])


class NoDecoderMask(token_transformer.Network):
    """A wrong network, in which the query attends to padding, as in the published notebook."""

    def summarise(self, tokens, mask):
        memory = self.encoder(self.project(tokens), src_key_padding_mask=~token_transformer.attendable(mask))
        return self.to_summary(self.decoder(self.query.expand(len(tokens), -1, -1), memory)[:, 0])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("network", "leaks"), [(token_transformer.Network, False), (NoEncoderMask, True), (NoDecoderMask, True)]
)
def test_attention_masks_hide_padding(network, leaks, train):
    """Calls `summarise`, because `forward` also zeroes padding, which would hide a missing mask."""
    torch.manual_seed(0)
    options = token_transformer.Defaults(width=16, feedforward=16, summary=8)
    model = network(token_space(TOKENS, WIDTH, None), options).train(train)
    observation = observations(proprio=None)
    mask, tokens = observation["mask"].bool(), observation["tokens"]
    other = tokens.masked_fill(~mask[..., None], 5.0)
    with torch.no_grad():
        difference = (model.summarise(other, mask) - model.summarise(tokens, mask)).abs().amax(dim=1)
    assert (difference[0] > 1e-3) == leaks
    assert (difference[1:] == 0).all()


def of_torch_layers(network, tokens, mask):
    """Return the summary that torch's own forward methods of the layers compute."""
    padding = ~token_transformer.attendable(mask)
    embedded = network.project(network.norm(tokens)) + network.positions
    memory = network.encoder(embedded, src_key_padding_mask=padding)
    if not network.queries:
        real = ~padding[..., None]
        return network.to_summary((memory * real).sum(dim=1) / real.sum(dim=1))
    query = network.query.expand(len(tokens), -1, -1)
    return network.to_summary(network.decoder(query, memory, memory_key_padding_mask=padding).flatten(1))


def relative_gradients(network, summary):
    """Return the gradient of each parameter, as a fraction of the largest number in all of them."""
    gradients = torch.autograd.grad(summary.square().sum(), list(network.parameters()))
    largest = max(gradient.abs().max() for gradient in gradients)
    return [gradient / largest for gradient in gradients]


@pytest.mark.parametrize("queries", [0, 1, 3])
@pytest.mark.parametrize("real", [[8, 8, 8], [8, 3, 1], [0, 5, 8]])
def test_summaries_and_gradients_equal_those_of_the_torch_layers(queries, real):
    options = {"width": 16, "feedforward": 12, "summary": 8, "heads": 4, "input_norm": True, "positions": True}
    network = build("token_transformer", None, **options, queries=queries)
    torch.manual_seed(1)
    with torch.no_grad():  # no weight at its simple first value, such as 0 or 1
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    mask = torch.arange(TOKENS) < torch.tensor(real)[:, None]
    tokens = (torch.randn(3, TOKENS, WIDTH) * 5).masked_fill(~mask[..., None], 0.0)
    ours, theirs = network.summarise(tokens, mask), of_torch_layers(network, tokens, mask)
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    pairs = zip(relative_gradients(network, ours), relative_gradients(network, theirs), strict=True)
    for gradient, expected in pairs:
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)


def test_zero_queries_average_the_real_tokens():
    network, observation = build("token_transformer", None, width=16, queries=0), observations(proprio=None)
    memory = network.encoder(network.project(observation["tokens"][:1, :3]))  # the other tokens of row 0 are padding
    expected = network.to_summary(memory.mean(dim=1))
    assert torch.allclose(network(observation)[:1], expected, atol=1e-6)
    network(observation).sum().backward()
    assert all(value.grad is not None for value in network.parameters())


def test_outputs_of_several_queries_are_concatenated():
    """Exchanging two queries, and their columns of the next layer, does not change the summary."""
    network, observation = build("token_transformer", None, width=16, queries=2), observations(proprio=None)
    before, layer = network(observation), network.to_summary[0]
    with torch.no_grad():
        network.query.copy_(network.query.flip(1))
        assert not torch.allclose(network(observation), before, atol=1e-4)
        layer.weight.copy_(layer.weight.unflatten(1, (2, 16)).flip(1).flatten(1))
    assert torch.allclose(network(observation), before, atol=1e-6)


def test_position_embeddings_make_the_order_of_tokens_matter():
    """Without them the tokens are a set, with them a sequence."""
    observation = observations(proprio=None)
    observation["mask"][:] = 1
    flipped = {**observation, "tokens": observation["tokens"].flip(1)}
    unordered, ordered = build("token_transformer", None), build("token_transformer", None, positions=True)
    torch.nn.init.normal_(ordered.positions)
    assert torch.allclose(unordered(flipped), unordered(observation), atol=1e-5)
    assert not torch.allclose(ordered(flipped), ordered(observation), atol=1e-2)


def test_mlp_averages_real_tokens_only():
    network = mlp.Network(token_space(3, 1, None), mlp.Defaults(hidden=(1,)))
    torch.nn.init.ones_(network.layers[0].weight)
    torch.nn.init.zeros_(network.layers[0].bias)
    observation = {"tokens": torch.tensor([[[2.0], [4.0], [9.0]]]), "mask": torch.tensor([[1, 1, 0]])}
    assert network(observation).item() == 3.0


def test_cnn_reads_the_rows_as_an_image():
    """A red frame is 1 in the first channel only."""
    network = cnn.Network(token_space(8, 24, None), cnn.Defaults(channels=(4,)))
    images = []
    network.convolutions.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
    red = torch.zeros(1, 8, 24)
    red[:, :, 0::3] = 1
    network({"tokens": red, "mask": torch.ones(1, 8)})
    assert images[0].shape == (1, 3, 8, 8)
    assert torch.equal(images[0].sum(dim=(0, 2, 3)), torch.tensor([64.0, 0.0, 0.0]))


def test_invalid_widths_are_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="heads 3; try width=63"):
        build("token_transformer", width=64, heads=3)
    with pytest.raises(ValueError, match="width 7.*use encoder pixels"):
        cnn.Network(token_space(4, 7, None), cnn.Defaults())
