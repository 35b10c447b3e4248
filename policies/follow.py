"""Controller without learning, whose action is the argmax of an action token.

With encoder `answer_action` this is RT-2-style control: the VLM's answer is the action. `learn` only plays, so that the
run folder has the same learning curves and results as other runs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from .base import Actions, Hooks, LearnsFrom, Observation, Tensors, UserError, Values
from .common.actions import discrete_count
from .common.sb3 import observation_bytes
from .common.state import below, copies
from .common.tokens import token_shape

__all__ = ["Defaults", "FollowLearner", "Learner", "create", "rollout_bytes"]


class FollowLearner:
    """Controller without weights that follows the action token.

    Args:
        options: Options of the controller.
    """

    learns_from: ClassVar[LearnsFrom] = "rollouts"
    reads_terminated: ClassVar[bool] = False
    parameter_count = 0
    device = torch.device("cpu")

    def __init__(self, options: Defaults) -> None:
        self.options = options
        self.num_timesteps = 0
        self._observation: Observation = {}  # current observation of the environments; empty before the first reset

    def act(
        self,
        observation: Observation,
        memory: None = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """Choose actions, `options.default_action` if the token is padding; see `Learner.act`.

        Args:
            observation: Arrays with "tokens" [B, 1, actions], a number for each action, and "mask" [B, 1].
            memory: Not used.
            episode_starts: Not used.
            greedy: Not used: the choice is always greedy.
        """
        actions = observation["tokens"][:, 0].argmax(axis=1)
        return Actions(np.where(observation["mask"][:, 0] > 0, actions, self.options.default_action))

    def learn(self, source: VecEnv, total_steps: int, hooks: Hooks) -> None:
        """Play; an "update" is `options.n_steps` steps of each environment. See `Learner.learn`.

        Args:
            source: VecEnv of token observations. It is reset at the first call only.
            total_steps: Environment steps of the whole run; the last "update" may exceed them.
            hooks: Callbacks; the metrics of an "update" are empty.
        """
        if not self._observation:
            self._observation = _tokens(source.reset())
        while self.num_timesteps < total_steps:
            hooks.on_update_start(self)
            for _ in range(self.options.n_steps):
                observation, _, _, infos = source.step(self.act(self._observation).actions)
                self._observation = _tokens(observation)
                self.num_timesteps += source.num_envs
                hooks.on_step(infos)
            hooks.on_update({})
        hooks.on_end(self)

    def state_dict(self) -> tuple[Tensors, Values]:
        observation = {f"observation/{key}": torch.from_numpy(value) for key, value in self._observation.items()}
        return copies(observation), {"num_timesteps": self.num_timesteps}

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        self._observation = {key: tensor.numpy() for key, tensor in below(tensors, "observation").items()}
        self.num_timesteps = values["num_timesteps"]

    def load_policy(self, tensors: Tensors) -> None:
        """Do nothing, because the controller has no weights.

        Args:
            tensors: Not used.
        """


Learner = FollowLearner


def _tokens(observation: Any) -> Observation:
    return {key: observation[key] for key in ("tokens", "mask")}


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
) -> FollowLearner:
    """Create a controller; see `Algorithm.create` for the arguments. The network and the seed are not used.

    Args:
        observation_space: Dict of tokens [1, actions] and mask [1].
        action_space: Discrete from 0.
        num_envs: Not used.
        network: Not used.
        network_options: Not used.
        options: Options of the controller.
        seed: Not used.

    Raises:
        UserError: The action space is not Discrete from 0, the observation is not one token with one number per
            action, or `options.default_action` is not an action.
    """
    count, shape = discrete_count(action_space, "follow"), token_shape(observation_space)
    if shape != (1, count):
        raise UserError(
            f"follow needs tokens of shape {(1, count)}, a number for each action, but the encoder returns {shape};"
            f" use encoder=answer_action, with encoder_options.actions for all {count} actions"
        )
    if options.default_action >= count:
        raise UserError(f"algorithm_options.default_action={options.default_action}: use 0 to {count - 1}")
    return FollowLearner(options)


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, options: Defaults) -> dict[str, int]:
    """Return the memory of the current observations in bytes by device type; the controller stores no rollout.

    Args:
        observation_space: Observation space of one environment.
        num_envs: Number of environments.
        options: Options of the controller, not used.
    """
    return {"cpu": num_envs * sum(observation_bytes(observation_space).values())}


class Defaults(BaseModel):
    """Options of the controller."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    RENAMED: ClassVar[dict[str, str]] = {"otherwise": "default_action"}

    default_action: NonNegativeInt = 0  # action if the VLM's answer names none
    n_steps: PositiveInt = 64  # steps per environment between two rows of metrics
