"""Policy over token observations for Discrete and MultiDiscrete actions.

tokens -> network -> features -> ActionHead -> distribution
       ------ image tokens ---->
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from pydantic import NonNegativeInt

from ..base import Tensors
from ..networks.base import TokenNetwork
from .action_head import ActionHead, HeadOptions, image_tokens
from .actions import factor_sizes
from .factored import FactoredActions, check_parents, uses_table
from .options import Device, Number, PositiveNumber
from .policy import Choice, Policy


class FactoredPolicy(Policy):
    """Policy that maps the features of a network to a distribution over factored actions.

    Args:
        network: Features extractor over token observations.
        action_space: Discrete or MultiDiscrete, from 0; a Discrete space is one factor.
        options: Options of the policy.

    Raises:
        UserError: The action space is of another kind, or `factors_of_type` or `parents` do not fit it.
    """

    uses: torch.Tensor

    def __init__(self, network: TokenNetwork, action_space: spaces.Space[Any], options: HeadOptions) -> None:
        super().__init__()
        self.sizes = factor_sizes(action_space)
        self.action_shape = action_space.shape or ()
        self.register_buffer("uses", uses_table(self.sizes, options.factors_of_type), persistent=False)
        check_parents(self.uses, options.parent_of)
        self.network = network
        self.head = ActionHead(network.features_dim, network.token_size, self.sizes, options)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.uses.device

    def forward(self, observations: Tensors) -> FactoredActions:
        """Compute the distributions of the actions.

        Args:
            observations: Tensors [B, ...] by the keys of the observation space.
        """
        images = image_tokens(observations["tokens"], observations["mask"], self.head.cells)
        return FactoredActions(self.head(self.network(observations), images), self.uses, self.head.parents)

    def log_prob(self, observations: Tensors, actions: torch.Tensor) -> torch.Tensor:
        distribution: FactoredActions = self(observations)
        return distribution.log_prob(self.as_factors(actions))

    def choose(self, observations: Tensors, *, greedy: bool) -> Choice:
        distribution: FactoredActions = self(observations)
        actions = distribution.mode() if greedy else distribution.sample(1)[0]
        return Choice(actions.reshape(-1, *self.action_shape), distribution.log_prob(actions))

    def sample(self, observations: Tensors, count: int, temperature: float = 1.0) -> torch.Tensor:
        distribution: FactoredActions = self(observations)
        return distribution.sample(count, temperature)

    def as_factors(self, actions: Any) -> torch.Tensor:
        """Convert n actions of the action space to int64 [n, factors] on the policy's device.

        Args:
            actions: Tensor [n] or [n, factors] of any integer dtype.
        """
        return torch.as_tensor(actions, device=self.device).long().reshape(len(actions), len(self.sizes))


class FactoredOptions(HeadOptions):
    """Options of a factored policy and of its optimizer."""

    learning_rate: PositiveNumber = 1e-4  # learning rate of the first update; from DigiRL's code
    schedule: Literal["constant", "linear"] = "constant"  # linear: the learning rate falls to 0 at the last step
    weight_decay: Number = 0.0  # weight decay of AdamW
    device: Device = "auto"  # device of the policy; auto = a GPU if there is one
    threads: NonNegativeInt = 1  # torch threads during an update; more may change rounding; 0 = no change
