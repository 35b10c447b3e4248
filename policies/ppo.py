"""Proximal policy optimisation (Schulman et al. 2017) over tokens; losses and loop are Stable-Baselines3's.

`recurrent` takes RecurrentPPO of sb3-contrib instead: the same update with an LSTM after the network.
"""

from __future__ import annotations

from typing import Any, Literal

from gymnasium import spaces
from pydantic import BaseModel, ConfigDict
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule

from .common.sb3 import OnPolicyLearner, rollout_bytes

__all__ = ["Defaults", "Learner", "create", "rollout_bytes"]

Learner = OnPolicyLearner

OURS = ("learning_rate", "schedule", "heads", "recurrent", "lstm_size")  # the others are `OnPolicyLearner.create`'s


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
) -> OnPolicyLearner:
    """As `Algorithm.create`."""
    rate = options.learning_rate
    policy_options: dict[str, Any] = {"net_arch": list(options.heads)}
    if options.recurrent:
        policy_options["lstm_hidden_size"] = options.lstm_size
    return OnPolicyLearner.create(
        RecurrentPPO if options.recurrent else PPO,
        observation_space,
        action_space,
        num_envs,
        network,
        network_options,
        seed=seed,
        policy="MultiInputLstmPolicy" if options.recurrent else "MultiInputPolicy",
        policy_options=policy_options,
        learning_rate=LinearSchedule(rate, 0.0, 1.0) if options.schedule == "linear" else rate,
        **options.model_dump(exclude=set(OURS)),
    )


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
