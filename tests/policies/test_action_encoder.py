"""The encoding of an action has only the factors that its type uses, and the token of the touched cell."""

import torch

from pr2l.policies.common.action_encoder import ActionEncoder
from pr2l.policies.common.factored import uses_table
from pr2l.policies.common.factored_policy import FactoredOptions

SIZES, TABLE, WIDTH = (3, 4, 2), ((1,), (), (2,)), 5  # types tap, back and type; cells; words


def encoder(image_tokens=4):
    torch.manual_seed(0)
    options = FactoredOptions(factors_of_type=TABLE, image_tokens=image_tokens)
    return ActionEncoder(SIZES, uses_table(SIZES, TABLE), 8, WIDTH, options)


def tokens(rows=2):
    return torch.randn(rows, 6, 8, generator=torch.Generator().manual_seed(1)), torch.ones(rows, 6)


def parts(encoded):
    """Return the parts of an encoding: type, cell, word, touched token."""
    return encoded.split(WIDTH, dim=-1)


def test_unused_factors_are_zero():
    encoded = encoder()(torch.tensor([[0, 3, 1], [2, 3, 1]]), *tokens())
    assert encoded.shape == (2, 4 * WIDTH)
    used = [[bool(part.any()) for part in parts(row)] for row in encoded]
    assert used == [[True, True, False, True], [True, False, True, False]]


def test_touched_token_is_normalised_and_projected():
    values, mask = tokens()
    values[1] = values[0] * 1000 + 7  # the same after normalisation
    module = encoder()
    encoded = module(torch.tensor([[0, 3, 0], [0, 3, 0]]), values, mask)
    touched = parts(encoded)[3]
    torch.testing.assert_close(touched[0], touched[1], rtol=1e-3, atol=1e-3)
    normalised = (values[0, 3] - values[0, 3].mean()) / values[0, 3].std(unbiased=False)
    torch.testing.assert_close(touched[0], module.touched(normalised), rtol=1e-3, atol=1e-3)


def test_several_actions_of_each_observation():
    actions = torch.tensor([[[0, 1, 0], [0, 2, 0]], [[1, 0, 0], [2, 0, 1]], [[0, 0, 0], [0, 3, 0]]])
    module, observation = encoder(), tokens()
    together = module(actions, *observation)
    assert together.shape == (3, 2, 4 * WIDTH)
    torch.testing.assert_close(together, torch.stack([module(rows, *observation) for rows in actions]))


def test_padded_tokens_are_zero():
    values, mask = tokens()
    values[:, 2], mask[:, 2] = torch.nan, 0
    assert encoder()(torch.tensor([[0, 2, 0], [0, 1, 0]]), values, mask).isfinite().all()


def test_without_image_tokens_there_is_no_touched_token():
    assert encoder(image_tokens=0)(torch.tensor([[0, 3, 1]] * 2), *tokens()).shape == (2, 3 * WIDTH)
