"""Policy over token observations for Discrete and MultiDiscrete actions, and the base class of its learners.

tokens -> network -> features -> ActionHead -> distribution
       ------ image tokens ---->
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeInt
from torch import nn

from ..base import Actions, Observation, Tensors
from ..networks.base import TokenNetwork
from .action_head import ActionHead, HeadOptions, image_tokens
from .actions import factor_sizes
from .factored import FactoredActions, uses_table
from .loop import LoopLearner
from .options import Device, Number, PositiveNumber


class FactoredPolicy(nn.Module):
    """Policy that maps the features of a network to a distribution over factored actions.

    Args:
        network: Features extractor over token observations.
        action_space: Discrete or MultiDiscrete, from 0; a Discrete space is one factor.
        options: Options of the policy.

    Raises:
        UserError: The action space is of another kind, or `options.factors_of_type` does not fit it.
    """

    uses: torch.Tensor

    def __init__(self, network: TokenNetwork, action_space: spaces.Space[Any], options: HeadOptions) -> None:
        super().__init__()
        self.sizes = factor_sizes(action_space)
        self.action_shape = action_space.shape or ()
        self.register_buffer("uses", uses_table(self.sizes, options.factors_of_type), persistent=False)
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
        return FactoredActions(self.head(self.network(observations), images), self.uses)

    def as_factors(self, actions: Any) -> torch.Tensor:
        """Convert n actions of the action space to int64 [n, factors] on the policy's device.

        Args:
            actions: Tensor [n] or [n, factors] of any integer dtype.
        """
        return torch.as_tensor(actions, device=self.device).long().reshape(len(actions), len(self.sizes))


class FactoredLearner(LoopLearner):
    """Base class of the learners of a `FactoredPolicy` on the loop of loop.py; a subclass declares `learns_from`."""

    policy: FactoredPolicy
    options: FactoredOptions

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters, of value functions too."""
        groups = self.loop.optimizer.param_groups
        return sum(parameter.numel() for group in groups for parameter in group["params"])

    def rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of an update.

        Args:
            step: Steps before the update.
            total_steps: Steps of the whole training.
        """
        factor = max(1 - step / total_steps, 0.0) if self.options.schedule == "linear" else 1.0
        return self.options.learning_rate * factor

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """Choose actions; see `Learner.act`. The policy has no memory.

        Args:
            observation: As in `Learner.act`.
            memory: Not used.
            episode_starts: Not used.
            greedy: Choose the most probable value of each factor; otherwise sample an action.
        """
        tensors = {key: torch.as_tensor(value, device=self.device) for key, value in observation.items()}
        distribution = self.policy(tensors)
        actions = distribution.mode() if greedy else distribution.sample(1)[0]
        log_probabilities = distribution.log_prob(actions).cpu().numpy()
        return Actions(actions.reshape(-1, *self.policy.action_shape).cpu().numpy(), None, log_probabilities)


class FactoredOptions(HeadOptions):
    """Options of a factored policy and of its optimizer."""

    learning_rate: PositiveNumber = 1e-4  # learning rate of the first update; from DigiRL's code
    schedule: Literal["constant", "linear"] = "constant"  # linear: the learning rate falls to 0 at the last step
    weight_decay: Number = 0.0  # weight decay of AdamW
    device: Device = "auto"  # device of the policy; auto = a GPU if there is one
    threads: NonNegativeInt = 1  # torch threads during an update; more may change rounding; 0 = no change
