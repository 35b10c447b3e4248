"""A policy with factored heads on the screen actions of the environments."""

import numpy as np
import torch
from token_world import token_space

from pr2l.environments.common.screen_action_space import USED_HEADS, ScreenActionSpace
from pr2l.policies.common.factored import uses_table
from pr2l.policies.common.factored_policy import FactoredOptions, FactoredPolicy
from pr2l.policies.networks import mlp

# tap, long_press, swipe, type, back, home, enter, answer, complete, impossible
FACTORS_OF_TYPE = ((1, 2), (1, 2), (1, 2, 3), (4, 5), (), (), (), (4, 5), (), ())  # as in docs/outcomes.md
HEADS = ScreenActionSpace(rows=4, columns=4)
SIZES = tuple(HEADS.space.nvec.tolist())


def test_table_is_that_of_the_environments():
    assert np.array_equal(uses_table(SIZES, FACTORS_OF_TYPE).numpy(), USED_HEADS)


def test_sampled_actions_are_those_that_the_environment_encodes():
    """Encoding the action of a sampled row returns the row: unused heads are 0, and the pointer's cells fit."""
    torch.manual_seed(0)
    options = FactoredOptions(factors_of_type=FACTORS_OF_TYPE, image_tokens=16, parents=(0, 0, 1, 0, 0, 4))
    network = mlp.Network(token_space(20, 8, proprio=None), mlp.Defaults(hidden=(6,)))
    policy = FactoredPolicy(network, HEADS.space, options)
    observation = {"tokens": torch.randn(1, 20, 8), "mask": torch.ones(1, 20)}
    with torch.no_grad():
        rows = policy(observation).sample(500)[:, 0].numpy()
    assert policy.head.pointer is not None and set(rows[:, 0]) == set(range(10))
    instruction = " ".join(f"word{number}" for number in range(60))
    for row in rows:
        encoded = HEADS.encode(HEADS.decode(row, instruction), instruction)
        assert encoded.tolist() == row.tolist()
