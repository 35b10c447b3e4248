"""Policy over token observations for Discrete and MultiDiscrete actions, and the base class of its learners.

    tokens -> network -> features -> Linear  -> logits of each factor
                                  -> Pointer -> logits of the touched cell, from the image tokens

With as many image tokens as cells, the factor of the touched cell is a pointer: the logit of a cell is the product of a
query, which the features give, and the token of that cell. So the policy points at what the VLM represents there, and a
position that was never touched needs no weights of its own. Otherwise the cell is a factor like the others.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import nn
from torch.nn.functional import layer_norm

from ..base import Actions, Observation, Tensors
from ..networks.base import TokenNetwork
from .actions import factor_sizes
from .factored import FactoredActions, FactorTable, uses_table
from .loop import LoopLearner
from .options import Device, Number, PositiveNumber
from .tokens import without_padding


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

    def __init__(self, network: TokenNetwork, action_space: spaces.Space[Any], options: FactoredOptions) -> None:
        super().__init__()
        self.sizes = factor_sizes(action_space)
        self.action_shape = action_space.shape or ()
        self.register_buffer("uses", uses_table(self.sizes, options.factors_of_type), persistent=False)
        self.network, width = network, network.features_dim
        cells = pointer_cells(self.sizes, options)
        self.pointed = options.touch_factor if cells else None
        self.pointer = Pointer(width, network.token_size, cells) if cells else None
        self.linear_sizes = [size for factor, size in enumerate(self.sizes) if factor != self.pointed]
        self.linear = nn.Linear(width, sum(self.linear_sizes))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.linear.weight.device

    def forward(self, observations: Tensors) -> FactoredActions:
        """Compute the distributions of the actions.

        Args:
            observations: Tensors [B, ...] by the keys of the observation space.
        """
        features = self.network(observations)
        logits = [*self.linear(features).split(self.linear_sizes, dim=-1)]
        if self.pointer is not None and self.pointed is not None:
            logits.insert(self.pointed, self.pointer(features, observations["tokens"], observations["mask"]))
        return FactoredActions(logits, self.uses)

    def as_factors(self, actions: Any) -> torch.Tensor:
        """Convert n actions of the action space to int64 [n, factors] on the policy's device.

        Args:
            actions: Tensor [n] or [n, factors] of any integer dtype.
        """
        return torch.as_tensor(actions, device=self.device).long().reshape(len(actions), len(self.sizes))


class Pointer(nn.Module):
    """Logits of the cells of an image, from one token per cell: query . token / sqrt(D) + a learned bias of the cell.

    Args:
        features: Width of the features that give the query.
        token_size: D, width of a token.
        cells: Number of cells; the first tokens of an observation are theirs, row by row.
    """

    def __init__(self, features: int, token_size: int, cells: int) -> None:
        super().__init__()
        self.query = nn.Linear(features, token_size)
        self.bias = nn.Parameter(torch.zeros(cells))

    def forward(self, features: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the logits float32 [B, cells].

        Args:
            features: float32 [B, F].
            tokens: Tokens [B, T, D]; T is at least `cells`.
            mask: [B, T], 1 = real; the token of a padded slot counts as zero.
        """
        cells = len(self.bias)
        images = without_padding(tokens[:, :cells], mask[:, :cells]).float()
        images = layer_norm(images, images.shape[-1:])  # states of some VLMs are in the thousands
        queries = self.query(features)
        return torch.einsum("btd,bd->bt", images, queries) / images.shape[-1] ** 0.5 + self.bias


def pointer_cells(sizes: tuple[int, ...], options: FactoredOptions) -> int:
    """Return the number of cells of the pointer, 0 if the touched cell is not a pointer.

    Args:
        sizes: Number of values of each factor.
        options: Options of the policy.
    """
    factor = options.touch_factor
    return options.image_tokens if factor < len(sizes) and sizes[factor] == options.image_tokens else 0


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


class FactoredOptions(BaseModel):
    """Options of a factored policy and of its optimizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors_of_type: FactorTable = ()  # factors that each action type, factor 0, uses; () = every type uses all factors
    touch_factor: PositiveInt = 1  # factor of the touched cell
    image_tokens: NonNegativeInt = 0  # leading tokens that are the image's cells; pointer if touch_factor has as many
    learning_rate: PositiveNumber = 1e-4  # learning rate of the first update; from DigiRL's code
    schedule: Literal["constant", "linear"] = "constant"  # linear: the learning rate falls to 0 at the last step
    weight_decay: Number = 0.0  # weight decay of AdamW
    device: Device = "auto"  # device of the policy; auto = a GPU if there is one
    threads: NonNegativeInt = 1  # torch threads during an update; more may change rounding; 0 = no change
