"""Policy of Stable-Baselines3 with the heads of factored actions, for PPO.

    tokens -> network -> features -> MLP of the policy -> ActionHead -> distribution
                                  -> MLP of the value  -> Linear     -> value
           ------------- image tokens ------------------> ActionHead

Stable-Baselines3 passes one vector per observation from each part to the next one. So the features extractor appends
the image tokens to the features, the MLP of the policy passes them on, and the head takes them off again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import MultiCategoricalDistribution
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from ..networks.base import TokenNetwork
from .action_head import ActionHead, HeadOptions, image_tokens, logit_shapes, pointer_cells
from .actions import factor_sizes
from .factored import FactoredActions, check_parents, uses_table


class FactoredActorCritic(MultiInputActorCriticPolicy):
    """Actor and critic for Discrete and MultiDiscrete actions whose first factor is a type.

    Args:
        observation_space: Dict of tokens and mask, or a handle, and perhaps proprio.
        action_space: Discrete or MultiDiscrete, from 0.
        lr_schedule: Learning rate schedule.
        head: Options of the head.
        features_extractor_class: Class of the network.
        features_extractor_kwargs: Its arguments.
        options: Further arguments of the base class.

    Raises:
        UserError: The action space is of another kind, or `head.factors_of_type` does not fit it.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        head: HeadOptions,
        features_extractor_class: type[TokenNetwork],
        features_extractor_kwargs: dict[str, Any],
        **options: Any,
    ) -> None:
        self.sizes, self.head_options = factor_sizes(action_space), head
        self.cells = pointer_cells(self.sizes, head)
        arguments = {"network": features_extractor_class, "cells": self.cells, **features_extractor_kwargs}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=WithImage,
            features_extractor_kwargs=arguments,
            **options,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        uses = uses_table(self.sizes, self.head_options.factors_of_type).to(self.device)
        check_parents(uses, self.head_options.parent_of)
        network: Any = self.features_extractor.network
        self.action_dist = FactoredDistribution(self.sizes, uses, network.token_size, self.head_options)
        super()._build(lr_schedule)

    def _build_mlp_extractor(self) -> None:
        network: Any = self.features_extractor.network
        width: int = network.features_dim
        layers = MlpExtractor(width, net_arch=self.net_arch, activation_fn=self.activation_fn, device=self.device)
        past_image: Any = PastImage(layers, width, self.features_dim - width)  # with the methods of an MlpExtractor
        self.mlp_extractor = past_image


class WithImage(BaseFeaturesExtractor):
    """Features of a network, with the image tokens behind them: float32 [B, F + cells * D].

    Args:
        observation_space: Observation space of the network.
        network: Class of the network.
        cells: Number of image tokens; 0 = features only.
        arguments: Further arguments of the network.
    """

    def __init__(
        self, observation_space: spaces.Dict, network: type[TokenNetwork], cells: int, **arguments: Any
    ) -> None:
        inner = network(observation_space, **arguments)
        super().__init__(observation_space, inner.features_dim + cells * inner.token_size)
        self.network, self.cells, self.table = inner, cells, inner.table

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens, mask = self.network.read(observation)
        features = self.network.features(tokens, mask, observation)
        return torch.cat([features, image_tokens(tokens, mask, self.cells).flatten(1)], dim=-1)


class PastImage(nn.Module):
    """MLPs of policy and value on features, past which the policy's branch leads the image tokens.

    Args:
        layers: The MLPs.
        features: F, width of the features.
        image: Width of all image tokens together.
    """

    def __init__(self, layers: MlpExtractor, features: int, image: int) -> None:
        super().__init__()
        self.layers, self.features = layers, features
        self.latent_dim_pi, self.latent_dim_vf = layers.latent_dim_pi + image, layers.latent_dim_vf

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of the action head and of the value head.

        Args:
            inputs: Output of `WithImage`.
        """
        return self.forward_actor(inputs), self.forward_critic(inputs)

    def forward_actor(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the input of the action head, with the image tokens at its end.

        Args:
            inputs: Output of `WithImage`.
        """
        hidden = self.layers.forward_actor(inputs[:, : self.features])
        return torch.cat([hidden, inputs[:, self.features :]], dim=-1)

    def forward_critic(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the input of the value head.

        Args:
            inputs: Output of `WithImage`.
        """
        return self.layers.forward_critic(inputs[:, : self.features])


class FlatHead(nn.Module):
    """Action head that reads features and image tokens from one vector and joins its logits in one vector.

    Args:
        features: Width of the features.
        token_size: D, width of a token.
        sizes: Number of values of each factor.
        options: Options of the head.
    """

    def __init__(self, features: int, token_size: int, sizes: tuple[int, ...], options: HeadOptions) -> None:
        super().__init__()
        self.features, self.token_size = features, token_size
        self.head = ActionHead(features, token_size, sizes, options)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        images = inputs[:, self.features :].unflatten(1, (self.head.cells, self.token_size))
        return torch.cat([logits.flatten(1) for logits in self.head(inputs[:, : self.features], images)], dim=-1)


class FactoredDistribution(MultiCategoricalDistribution):
    """Distribution of Stable-Baselines3 in which an action's type decides which factors count.

    Args:
        sizes: Number of values of each factor.
        uses: bool [types, factors], which factors each type uses.
        token_size: D, width of a token.
        options: Options of the head.
    """

    factored: FactoredActions

    def __init__(self, sizes: tuple[int, ...], uses: torch.Tensor, token_size: int, options: HeadOptions) -> None:
        super().__init__([*sizes])
        self.uses, self.token_size, self.options = uses, token_size, options

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:
        """Create the head.

        Args:
            latent_dim: Width of its input, features and image tokens.
        """
        sizes = (*self.action_dims,)
        features = latent_dim - pointer_cells(sizes, self.options) * self.token_size
        return FlatHead(features, self.token_size, sizes, self.options)

    def proba_distribution(self, action_logits: torch.Tensor) -> FactoredDistribution:
        """Set the logits.

        Args:
            action_logits: Logits of all factors in one row, as from `FlatHead`.
        """
        shapes = logit_shapes((*self.action_dims,), self.options)
        parts = action_logits.split([math.prod(shape) for shape in shapes], dim=1)
        logits = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
        self.factored = FactoredActions(logits, self.uses, self.options.parent_of)
        return self

    def log_prob(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities [B] of actions.

        Args:
            actions: Integers of any dtype [B, factors].
        """
        return self.factored.log_prob(actions.long().reshape(-1, len(self.action_dims)))

    def entropy(self) -> torch.Tensor:
        return self.factored.entropy()

    def sample(self) -> torch.Tensor:
        return self.factored.sample(1)[0]

    def mode(self) -> torch.Tensor:
        return self.factored.mode()
