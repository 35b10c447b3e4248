"""Interface of a policy that algorithms train by the log-probabilities of actions, and the base class of learners.

    heads on tokens (factored_policy.py)      an action is the values of its factors, int64 [factors]
    a VLM that writes the action              an action is the ids of its tokens, int64 [R]

An algorithm creates the first itself. The second needs a VLM, which this package does not import, so the caller of
`create` passes it as `policy`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from ..base import Actions, Observation, Tensors
from .loop import LoopLearner


class Choice(NamedTuple):
    """Actions for B observations.

    Args:
        actions: int64 [B, ...].
        log_probabilities: float32 [B]; None = not computed.
    """

    actions: torch.Tensor
    log_probabilities: torch.Tensor | None = None


class Policy(nn.Module, ABC):
    """Policy whose parameters are those that an algorithm trains."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the parameters."""

    @abstractmethod
    def log_prob(self, observations: Tensors, actions: torch.Tensor) -> torch.Tensor:
        """Compute the log-probabilities of actions, float32 [B], with gradients.

        Args:
            observations: Tensors [B, ...] by the keys of the observation space.
            actions: B actions, integers [B, ...].
        """

    @abstractmethod
    def choose(self, observations: Tensors, *, greedy: bool) -> Choice:
        """Choose an action for each observation.

        Args:
            observations: Tensors [B, ...].
            greedy: Choose the most probable action; otherwise sample one with torch's random generator.
        """

    @abstractmethod
    def sample(self, observations: Tensors, count: int, temperature: float = 1.0) -> torch.Tensor:
        """Draw actions with torch's random generator, int64 [count, B, ...].

        Args:
            observations: Tensors [B, ...].
            count: Number of actions of each observation.
            temperature: More than 1 makes the actions more different.
        """


class PolicyLearner(LoopLearner):
    """Base class of the learners of a `Policy` on the loop of loop.py; a subclass declares `learns_from`."""

    takes_policy: ClassVar[bool] = True
    policy: Policy
    options: Any  # with learning_rate and schedule

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return self.policy.device

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
        return float(self.options.learning_rate * factor)

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
            greedy: Choose the most probable actions; otherwise sample them.
        """
        tensors = {key: torch.as_tensor(value, device=self.device) for key, value in observation.items()}
        actions, log_probabilities = self.policy.choose(tensors, greedy=greedy)
        log_probs = None if log_probabilities is None else log_probabilities.cpu().numpy()
        return Actions(actions.cpu().numpy(), None, log_probs)
