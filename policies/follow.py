"""Does what one token says: the action whose number is its largest entry. Nothing is learned.

With encoder `answer_action` this is RT-2-style control: the VLM's answer is the action. `learn` only plays, so that
such an agent has the curves and the results of any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from .common import sb3
from .common.state import Tensors, below, copies
from .common.tokens import token_shape

__all__ = ["Defaults", "Follower", "act", "create", "learn", "restore", "rollout_bytes", "state"]

Observation = dict[str, np.ndarray]


def learn(model: Follower, defaults: Defaults, steps: int, callback: BaseCallback) -> None:
    """Plays until the model has seen `steps` environment steps in all, also those before a restore."""
    # The callback was made for Stable-Baselines3's models; it reads nothing that a Follower lacks.
    sb3_model: Any = model
    callback.init_callback(sb3_model)
    if not model.observation:
        model.observation = _shown(model.venv.reset())
    callback.on_training_start({}, {})
    while model.num_timesteps < steps:
        callback.on_rollout_start()
        for _ in range(defaults.n_steps):
            shown, _, _, infos = model.venv.step(act(model, model.observation)[0])
            model.observation = _shown(shown)
            model.num_timesteps += model.venv.num_envs
            callback.update_locals({"infos": infos})
            callback.on_step()
    callback.on_training_end()


def _shown(observation: Any) -> Observation:
    return {key: observation[key] for key in ("tokens", "mask")}


def act(
    model: Follower,
    observation: Observation,
    memory: None = None,
    episode_starts: np.ndarray | None = None,
    deterministic: bool = False,
) -> tuple[np.ndarray, None]:
    """Actions [B], and no memory; `otherwise` where the token is padding."""
    chosen = observation["tokens"][:, 0].argmax(axis=1)
    return np.where(observation["mask"][:, 0] > 0, chosen, model.otherwise), memory


class Follower:
    """No weights; has what Stable-Baselines3's callbacks read of a model."""

    def __init__(self, venv: VecEnv, otherwise: int) -> None:
        self.venv, self.otherwise = venv, otherwise
        self.policy = _Nothing()
        self.observation: Observation = {}  # what the environments show; empty before the first reset
        self.num_timesteps = 0
        self.ep_info_buffer: list[dict[str, Any]] = []
        self.logger = Logger(folder=None, output_formats=[])


class _Nothing(nn.Module):
    device = torch.device("cpu")


def create(
    venv: VecEnv,
    network: type[BaseFeaturesExtractor],
    network_defaults: BaseModel,
    defaults: Defaults,
    *,
    seed: int,
) -> Follower:
    """network: not used. Raises ValueError unless there is one token with a number for each action."""
    if not isinstance(venv.action_space, spaces.Discrete):
        raise ValueError(f"follow takes discrete actions only, not {venv.action_space}")
    space: Any = venv.observation_space
    actions, shape = int(venv.action_space.n), token_shape(space)
    if shape != (1, actions):
        raise ValueError(
            f"follow reads one token with a number for each of {actions} actions, but is given {shape[0]} of"
            f" {shape[1]}; use encoder answer_action, with as many encoder_options.actions as there are actions"
        )
    if defaults.otherwise >= actions:
        raise ValueError(f"algorithm_options.otherwise={defaults.otherwise}: use 0 to {actions - 1}")
    return Follower(venv, defaults.otherwise)


def state(model: Follower) -> tuple[Tensors, dict[str, Any]]:
    """Copies: what is played later does not change them."""
    shown = {f"observation/{key}": torch.from_numpy(part) for key, part in model.observation.items()}
    return copies(shown), {"num_timesteps": model.num_timesteps}


def restore(model: Follower, tensors: Tensors, values: dict[str, Any]) -> None:
    """Puts back what `state` took."""
    model.observation = {key: part.numpy() for key, part in below(tensors, "observation").items()}
    model.num_timesteps = values["num_timesteps"]


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, defaults: Defaults) -> dict[str, int]:
    """Nothing is kept but what the environments show now."""
    return {"cpu": num_envs * sum(sb3.part_bytes(observation_space).values())}


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    otherwise: NonNegativeInt = 0  # the action where the answer names none
    n_steps: PositiveInt = 64  # steps of each environment between two rows of metrics
