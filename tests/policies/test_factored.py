"""Distributions over factored actions with numbers worked by hand, and the pointer over image tokens."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from token_world import token_space

from pr2l.policies.base import UserError
from pr2l.policies.common.action_head import image_tokens
from pr2l.policies.common.actor_critic import FactoredDistribution
from pr2l.policies.common.factored import FactoredActions, check_parents, uses_table
from pr2l.policies.common.factored_policy import FactoredOptions, FactoredPolicy
from pr2l.policies.networks import mlp

SIZES = (3, 4, 2)  # types tap, back and type; cells; words
TABLE = ((1,), (), (2,))
TYPE, CELL, WORD = [0.5, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4], [0.75, 0.25]


def distribution(rows=1):
    logits = [torch.tensor([probabilities] * rows).log() for probabilities in (TYPE, CELL, WORD)]
    return FactoredActions(logits, uses_table(SIZES, TABLE))


@pytest.mark.parametrize(
    ("action", "probability"),
    [([0, 3, 1], 0.5 * 0.4), ([0, 3, 0], 0.5 * 0.4), ([1, 2, 1], 0.25), ([2, 0, 1], 0.25 * 0.25)],
)
def test_only_the_used_factors_count(action, probability):
    assert distribution().log_prob(torch.tensor([action])).exp().item() == pytest.approx(probability)


def test_without_a_table_all_factors_count():
    logits = [torch.tensor([probabilities]).log() for probabilities in (TYPE, CELL, WORD)]
    everything = FactoredActions(logits, uses_table(SIZES, ()))
    assert everything.log_prob(torch.tensor([[1, 2, 1]])).exp().item() == pytest.approx(0.25 * 0.3 * 0.25)


def test_log_prob_of_several_actions_per_observation():
    actions = torch.tensor([[[0, 3, 0], [1, 0, 0]], [[2, 0, 0], [0, 0, 0]]])  # 2 actions of 2 observations
    probabilities = distribution(rows=2).log_prob(actions).exp()
    torch.testing.assert_close(probabilities, torch.tensor([[0.2, 0.25], [0.25 * 0.75, 0.05]]))


def test_probabilities_of_all_different_actions_sum_to_one():
    """4 taps, 1 back and 2 texts."""
    actions = [[0, cell, 0] for cell in range(4)] + [[1, 0, 0]] + [[2, 0, word] for word in range(2)]
    assert distribution().log_prob(torch.tensor(actions)[:, None]).exp().sum().item() == pytest.approx(1)


def test_entropy_is_that_of_the_different_actions():
    actions = [[0, cell, 0] for cell in range(4)] + [[1, 0, 0]] + [[2, 0, word] for word in range(2)]
    log_probabilities = distribution().log_prob(torch.tensor(actions)[:, None])
    expected = -(log_probabilities.exp() * log_probabilities).sum().item()
    assert distribution().entropy().item() == pytest.approx(expected)


def test_unused_factors_get_no_gradient():
    logits = [torch.zeros(1, size, requires_grad=True) for size in SIZES]
    FactoredActions(logits, uses_table(SIZES, TABLE)).log_prob(torch.tensor([[0, 1, 1]])).sum().backward()
    assert logits[0].grad[0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert logits[1].grad[0].tolist() == pytest.approx([-1 / 4, 3 / 4, -1 / 4, -1 / 4])
    assert logits[2].grad[0].tolist() == [0, 0]


def test_samples_have_the_right_frequencies_and_zeros_in_unused_factors():
    torch.manual_seed(0)
    samples = distribution().sample(20_000)[:, 0]
    types, counts = samples[:, 0].unique(return_counts=True)
    assert types.tolist() == [0, 1, 2]
    assert (counts / 20_000).tolist() == pytest.approx(TYPE, abs=0.01)
    taps, texts = samples[samples[:, 0] == 0], samples[samples[:, 0] == 2]
    assert (taps[:, 1].bincount() / len(taps)).tolist() == pytest.approx(CELL, abs=0.015)
    assert (texts[:, 2].bincount() / len(texts)).tolist() == pytest.approx(WORD, abs=0.015)
    assert not taps[:, 2].any() and not texts[:, 1].any() and not samples[samples[:, 0] == 1, 1:].any()


def test_temperature_flattens_the_samples():
    """At temperature 2 the probabilities of the words are as their square roots: sqrt 3 to 1."""
    torch.manual_seed(0)
    samples = distribution().sample(40_000, temperature=2.0)[:, 0]
    words = samples[samples[:, 0] == 2, 2]
    assert (words == 0).float().mean().item() == pytest.approx(math.sqrt(3) / (1 + math.sqrt(3)), abs=0.015)


def test_mode():
    assert distribution().mode().tolist() == [[0, 3, 0]]


# Types tap, back and type; 2 cells; 3 offsets, whose probabilities depend on the cell; 2 words.
CHILD_SIZES, CHILD_TABLE, PARENTS = (3, 2, 3, 2), ((1, 2), (), (3,)), {2: 1}
CHILD_CELL, OFFSET = [0.6, 0.4], [[0.5, 0.4, 0.1], [0.0, 0.1, 0.9]]
CHILD_ACTIONS = [[0, cell, offset, 0] for cell in range(2) for offset in range(3)] + [
    [1, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 1],
]  # fmt: skip


def with_parents(rows=1):
    logits = [torch.tensor([probabilities] * rows).log() for probabilities in (TYPE, CHILD_CELL, OFFSET, WORD)]
    return FactoredActions(logits, uses_table(CHILD_SIZES, CHILD_TABLE), PARENTS)


@pytest.mark.parametrize(
    ("action", "probability"),
    [([0, 0, 1, 0], 0.5 * 0.6 * 0.4), ([0, 1, 2, 0], 0.5 * 0.4 * 0.9), ([0, 1, 0, 0], 0), ([1, 1, 0, 0], 0.25)],
)
def test_a_child_has_the_probability_given_its_parent(action, probability):
    assert with_parents().log_prob(torch.tensor([action])).exp().item() == pytest.approx(probability)


def test_log_prob_with_parents_of_several_actions_per_observation():
    actions = torch.tensor([[[0, 0, 0, 0], [0, 1, 2, 0]], [[0, 1, 1, 0], [2, 0, 0, 0]]])
    expected = torch.tensor([[0.15, 0.18], [0.02, 0.25 * 0.75]])
    torch.testing.assert_close(with_parents(rows=2).log_prob(actions).exp(), expected)


def test_probabilities_with_parents_sum_to_one():
    assert with_parents().log_prob(torch.tensor(CHILD_ACTIONS)[:, None]).exp().sum().item() == pytest.approx(1)


def test_entropy_with_parents_is_that_of_the_different_actions():
    logits = [torch.tensor([p]).clamp(min=1e-6).log() for p in (TYPE, CHILD_CELL, OFFSET, WORD)]
    actions = FactoredActions(logits, uses_table(CHILD_SIZES, CHILD_TABLE), PARENTS)
    log_probabilities = actions.log_prob(torch.tensor(CHILD_ACTIONS)[:, None])
    expected = -(log_probabilities.exp() * log_probabilities).sum().item()
    assert actions.entropy().item() == pytest.approx(expected)


def test_mode_takes_the_best_offset_of_the_best_cell():
    """The most probable offset over all cells is 2, with 0.6 * 0.1 + 0.4 * 0.9, but cell 0 is touched at offset 0."""
    assert with_parents().mode().tolist() == [[0, 0, 0, 0]]


def test_samples_with_parents_have_the_right_frequencies():
    torch.manual_seed(0)
    samples = with_parents(rows=2).sample(20_000)
    for row in range(2):
        counts = torch.tensor([(samples[:, row] == torch.tensor(action)).all(-1).sum() for action in CHILD_ACTIONS])
        probabilities = with_parents().log_prob(torch.tensor(CHILD_ACTIONS)[:, None]).exp().flatten().tolist()
        assert (counts / 20_000).tolist() == pytest.approx(probabilities, abs=0.01)


@pytest.mark.parametrize(
    ("parents", "message"),
    [((0, 0, 2), r"parents\[2\] is 2, but a parent comes before its child: 1 to 1"),
     ((0, 0, 0, 0, 1), r"there are 4 factors, 0 to 3"),
     ((0, 0, 1, 2), r"parents\[3\] is 2, which has the parent 1 itself"),
     ((0, 0, 0, 1), r"type 2 uses factor 3 without 1; add 1 to algorithm_options.factors_of_type\[2\]")],
)  # fmt: skip
def test_parents_that_do_not_fit_are_refused(parents, message):
    with pytest.raises(UserError, match=message):
        check_parents(uses_table(CHILD_SIZES, CHILD_TABLE), FactoredOptions(parents=parents).parent_of)


@pytest.mark.parametrize(
    ("table", "message"), [(((1,), ()), "2 rows for 3 types"), (((1,), (), (3,)), r"\[2\] names factor 3.*1 to 2")]
)
def test_table_that_does_not_fit_is_refused(table, message):
    with pytest.raises(UserError, match=message):
        uses_table(SIZES, table)


def policy(image_tokens=4, tokens=5):
    torch.manual_seed(0)
    options = FactoredOptions(factors_of_type=TABLE, image_tokens=image_tokens)
    network = mlp.Network(token_space(tokens, 8, proprio=None), mlp.Defaults(hidden=(6,)))
    return FactoredPolicy(network, spaces.MultiDiscrete(SIZES), options)


def observations(rows=2, tokens=5):
    values = torch.randn(rows, tokens, 8, generator=torch.Generator().manual_seed(1))
    return {"tokens": values.half(), "mask": torch.ones(rows, tokens, dtype=torch.uint8)}


@pytest.mark.parametrize(("image_tokens", "pointer"), [(4, True), (0, False), (5, False)])
def test_the_cell_is_a_pointer_if_there_are_as_many_image_tokens(image_tokens, pointer):
    head = policy(image_tokens)
    assert (head.head.pointer is not None) == pointer
    assert [factor.shape for factor in head(observations()).log_probabilities] == [(2, 3), (2, 4), (2, 2)]


def test_pointer_follows_the_tokens():
    """With two image tokens swapped, and the mean of the tokens unchanged, the probabilities of the cells swap."""
    head, before = policy(), observations()
    swapped = {**before, "tokens": before["tokens"][:, [2, 1, 0, 3, 4]]}
    cells, swapped_cells = (head(observation).log_probabilities[1] for observation in (before, swapped))
    torch.testing.assert_close(cells[:, [2, 1, 0, 3]], swapped_cells, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(cells, swapped_cells, atol=1e-3)


def test_pointer_is_the_scaled_product_of_query_and_token():
    """(505, -495, ...) is (1, -1, ...) after normalisation; a query of ones at the even places gives 4 / sqrt(8)."""
    head, observation = policy(), observations(rows=1)
    observation["tokens"][:] = 0
    observation["tokens"][0, 1] = torch.tensor([505.0, -495.0] * 4)
    torch.nn.init.zeros_(head.head.pointer.query.weight)
    head.head.pointer.query.bias.data = torch.tensor([1.0, 0.0] * 4)
    features = head.network(observation)
    logits = head.head.pointer(features, image_tokens(observation["tokens"], observation["mask"], 4))
    assert logits[0].tolist() == pytest.approx([0, 4 / math.sqrt(8), 0, 0], abs=1e-4)


def test_padded_tokens_of_the_image_are_zero():
    head, observation = policy(), observations()
    observation["mask"][:, 3] = 0
    observation["tokens"][:, 3] = math.nan
    assert torch.isfinite(head(observation).log_probabilities[1]).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [(spaces.Box(-1, 1, (2,)), "Discrete or MultiDiscrete"), (spaces.Discrete(3, start=1), "add 1"),
     (spaces.MultiDiscrete([2, 3], start=[0, 1]), "from 0"), (spaces.MultiDiscrete([[2, 3]]), "one row")],
)  # fmt: skip
def test_other_action_spaces_are_refused(space, message):
    network = mlp.Network(token_space(2, 8, proprio=None), mlp.Defaults(hidden=(6,)))
    with pytest.raises(UserError, match=message):
        FactoredPolicy(network, space, FactoredOptions())


def test_actions_of_a_discrete_space_have_one_factor():
    network = mlp.Network(token_space(2, 8, proprio=None), mlp.Defaults(hidden=(6,)))
    head = FactoredPolicy(network, spaces.Discrete(3), FactoredOptions())
    assert head.as_factors(np.array([2, 0], np.int16)).tolist() == [[2], [0]]
    assert head(observations(tokens=2)).log_prob(torch.tensor([[2], [0]])).shape == (2,)


def with_offsets(image_tokens=4):
    """Policy over types tap and back, 4 cells and 3 offsets that depend on the cell."""
    torch.manual_seed(0)
    options = FactoredOptions(factors_of_type=((1, 2), ()), image_tokens=image_tokens, parents=(0, 0, 1))
    network = mlp.Network(token_space(5, 8, proprio=None), mlp.Defaults(hidden=(6,)))
    return FactoredPolicy(network, spaces.MultiDiscrete((2, 4, 3)), options)


@pytest.mark.parametrize("image_tokens", [4, 0])
def test_a_child_has_logits_for_each_value_of_its_parent(image_tokens):
    tables = with_offsets(image_tokens)(observations()).log_probabilities
    assert [table.shape for table in tables] == [(2, 2), (2, 4), (2, 4, 3)]


def test_the_offset_follows_the_token_of_its_cell():
    """With two image tokens swapped, and the mean of the tokens unchanged, the offsets of the two cells swap."""
    head, before = with_offsets(), observations()
    swapped = {**before, "tokens": before["tokens"][:, [2, 1, 0, 3, 4]]}
    offsets, swapped_offsets = (head(observation).log_probabilities[2] for observation in (before, swapped))
    torch.testing.assert_close(offsets[:, [2, 1, 0, 3]], swapped_offsets, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(offsets, swapped_offsets, atol=1e-3)


@pytest.mark.parametrize("image_tokens", [4, 0])
def test_a_policy_with_parents_learns_an_offset_for_each_cell(image_tokens):
    """A row covers offset 2 of cell 1 and offset 0 of cell 2. Independent factors would touch it half of the time."""
    head, observation = with_offsets(image_tokens), observations(rows=1)
    both = {key: values.expand(2, *values.shape[1:]) for key, values in observation.items()}
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(100):
        loss = -head.log_prob(both, torch.tensor([[0, 1, 2], [0, 2, 0]])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.exp().item() == pytest.approx(2, abs=0.05)  # the best: 1/2 for each of the two touches


def test_the_distribution_of_ppo_is_the_same():
    """Stable-Baselines3 passes the logits of all factors in one row."""
    torch.manual_seed(0)
    options = FactoredOptions(factors_of_type=((1, 2), ()), image_tokens=4, parents=(0, 0, 1))
    uses = uses_table((2, 4, 3), options.factors_of_type)
    ppo = FactoredDistribution((2, 4, 3), uses, token_size=8, options=options)
    net, inputs = ppo.proba_distribution_net(6 + 4 * 8), torch.randn(5, 6 + 4 * 8)
    ours = FactoredActions(net.head(inputs[:, :6], inputs[:, 6:].unflatten(1, (4, 8))), uses, {2: 1})
    theirs, actions = ppo.proba_distribution(net(inputs)), ours.sample(1)[0]
    assert theirs.log_prob(actions.float()).tolist() == ours.log_prob(actions).tolist()
    assert theirs.entropy().tolist() == ours.entropy().tolist() and theirs.mode().tolist() == ours.mode().tolist()
