"""Proximal policy optimisation (Schulman et al. 2017) over tokens; losses and loop are Stable-Baselines3's.

`recurrent` takes RecurrentPPO of sb3-contrib instead: the same update with an LSTM after the network.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule, get_device
from stable_baselines3.common.vec_env import VecEnv

from .common import sb3
from .common.sb3 import UpdateThreads, restore, state
from .common.tokens import TokenHandles

__all__ = ["Defaults", "Model", "act", "create", "learn", "restore", "rollout_bytes", "state"]

OURS = ("schedule", "heads", "recurrent", "lstm_size", "threads", "handles")  # options that SB3 does not have

Model: TypeAlias = PPO | RecurrentPPO
LstmState: TypeAlias = tuple[np.ndarray, ...] | None


def learn(model: Model, defaults: Defaults, steps: int, callback: BaseCallback) -> None:
    """Trains until the model has seen `steps` environment steps in all, also those before a restore.

    Rollouts are whole, so it ends at the next multiple of n_steps x environments. The callback's
    on_rollout_start falls between an update and the next rollout: the moment to take the state.
    """
    resumed = model._last_obs is not None
    # With reset_num_timesteps=False SB3 adds what was already seen to the total, and goes on mid-episode.
    remaining = steps - model.num_timesteps if resumed else steps
    callbacks: list[BaseCallback] = [UpdateThreads(defaults.threads), callback]
    # SB3 takes None for a log_interval, though its annotation does not say so.
    never: Any = None
    model.learn(remaining, callbacks, log_interval=never, reset_num_timesteps=not resumed)


def act(
    model: Model,
    observation: dict[str, np.ndarray],
    lstm_state: LstmState = None,
    episode_starts: np.ndarray | None = None,
    deterministic: bool = False,
) -> tuple[np.ndarray, LstmState]:
    """Actions [B] and the LSTM's next state (None without one).

    episode_starts: bool [B], True where a new episode begins, so that its memory is empty; None = nowhere.
    deterministic: the most probable action, rather than a draw from torch's generator.
    """
    return model.predict(observation, lstm_state, episode_starts, deterministic)


def create(
    venv: VecEnv,
    network: type[BaseFeaturesExtractor],
    network_defaults: BaseModel,
    defaults: Defaults,
    *,
    seed: int,
) -> Model:
    """A fresh model. network: the class of a file in policies/networks/; it gets its own Defaults."""
    rate = defaults.learning_rate
    algorithm: dict[str, Any] = {
        "learning_rate": LinearSchedule(rate, 0.0, 1.0) if defaults.schedule == "linear" else rate,
        **defaults.model_dump(exclude={"learning_rate", *OURS}),
    }
    policy: dict[str, Any] = {
        "features_extractor_class": network,
        "features_extractor_kwargs": {"defaults": network_defaults},
        "net_arch": list(defaults.heads),
    }
    known = TokenHandles(venv, defaults.n_steps, get_device(defaults.device)) if defaults.handles else venv
    model: Model
    if defaults.recurrent:
        policy["lstm_hidden_size"] = defaults.lstm_size
        model = RecurrentPPO("MultiInputLstmPolicy", known, policy_kwargs=policy, seed=seed, **algorithm)
    else:
        model = PPO("MultiInputPolicy", known, policy_kwargs=policy, seed=seed, **algorithm)
    # Its rollouts may show it handles; evaluation, and the last observations of episodes, show it tokens.
    both: Any = (venv.observation_space, known.observation_space)
    model.policy.observation_space = spaces.Dict({key: part for space in both for key, part in space.items()})
    return model


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, defaults: Defaults) -> dict[str, int]:
    """Memory of a rollout's observations at its peak, by the device that it is on ("cpu" or "cuda")."""
    if not defaults.handles:
        return sb3.rollout_bytes(observation_space, num_envs, defaults)
    parts, rows = sb3.part_bytes(observation_space), num_envs * defaults.n_steps
    table = (1 + rows + num_envs) * (parts.pop("tokens") + parts.pop("mask"))
    needed = {"cpu": 2 * rows * (np.dtype(np.int64).itemsize + sum(parts.values()))}
    device = get_device(defaults.device).type
    return needed | {device: needed.get(device, 0) + table}


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = 1e-4  # of the paper's notebook
    schedule: Literal["constant", "linear"] = "constant"  # linear falls to 0 at the last step
    n_steps: int = 64  # rollout length per environment, in steps; of the notebook
    batch_size: int = 64  # rows per gradient step; the paper gives none, SB3's
    n_epochs: int = 10  # passes over a rollout; the paper gives none, SB3's
    gamma: float = 0.99  # discount per step; the paper gives none, SB3's
    gae_lambda: float = 0.95  # the paper gives none, SB3's
    clip_range: float = 0.2  # the paper gives none, SB3's
    ent_coef: float = 5e-3  # of the notebook
    vf_coef: float = 0.5  # weight of the value loss; the paper gives none, SB3's
    max_grad_norm: float = 0.5  # the paper gives none, SB3's
    target_kl: float | None = None  # ends an update early when the policy moved further; None = never, as SB3
    heads: tuple[int, ...] = (128,)  # hidden tanh units of the action and of the value head, of the notebook
    recurrent: bool = False  # an LSTM after the network, for tasks that need memory; slower by several times
    lstm_size: int = 256  # its units, SB3's
    device: str = "auto"  # of the policy; auto = a GPU if there is one
    threads: int = 1  # torch threads of an update; two take longer than one at these sizes; 0 = torch's choice
    handles: bool = True  # the buffer holds numbers of tokens that are kept once, with the policy; learns the same
