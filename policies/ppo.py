"""Proximal policy optimisation (Schulman et al. 2017) on tokens, with Stable-Baselines3's losses and loop.

With option `recurrent` it is RecurrentPPO of sb3-contrib: the same update, with an LSTM after the network. With option
`factors_of_type`, `image_tokens` or `parents`, for actions with a type, the policy has the heads of
common/action_head.py.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from gymnasium import spaces
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from .base import UserError
from .common.action_head import HeadOptions
from .common.actor_critic import FactoredActorCritic
from .common.options import Device, Fraction, Number, PositiveNumber, Sizes
from .common.sb3 import OnPolicyLearner, rollout_bytes

__all__ = ["Defaults", "Learner", "create", "rollout_bytes"]

Learner = OnPolicyLearner

# Options that `create` uses itself; the others are arguments of `OnPolicyLearner.create`.
OURS = ("head_sizes", "recurrent", "lstm_size", *HeadOptions.model_fields)


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
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
        action_space: Action space of one environment.
        num_envs: Number of environments; a rollout has num_envs x options.n_steps rows.
        network: Class that turns an observation into features.
        network_options: Its options.
        options: Options of PPO; with `recurrent`, of sb3-contrib's RecurrentPPO.
        seed: Seed of all random generators, and so of the first weights.

    Raises:
        UserError: A minibatch would have a single row, whose advantage cannot be normalised, or the action space is
            not supported, or a recurrent policy has factored heads.
    """
    rows = num_envs * options.n_steps
    if rows == 1 or (options.recurrent and rows % options.batch_size == 1):
        raise UserError(
            f"num_envs={num_envs} x n_steps={options.n_steps} gives rollouts of {rows} rows, so with"
            f" batch_size={options.batch_size} the last batch has a single row, whose advantage cannot be normalised;"
            " change num_envs, algorithm_options.n_steps or algorithm_options.batch_size"
        )
    # One operation for all weights instead of several for each; eps is Stable-Baselines3's.
    adam = {"eps": 1e-5, "fused": True}
    policy_options: dict[str, Any] = {"net_arch": list(options.head_sizes), "optimizer_kwargs": adam}
    policy: Any = "MultiInputPolicy"
    if options.recurrent:
        policy, policy_options["lstm_hidden_size"] = "MultiInputLstmPolicy", options.lstm_size
    if options.factors_of_type or options.image_tokens or options.parents:
        if options.recurrent:
            raise UserError(
                "algorithm_options.recurrent=true has no heads for factors_of_type, image_tokens and parents; "
                "use recurrent=false"
            )
        policy, policy_options["head"] = FactoredActorCritic, options
    return OnPolicyLearner.create(
        RecurrentPPO if options.recurrent else PPO,
        observation_space,
        action_space,
        num_envs,
        network,
        network_options,
        seed=seed,
        policy=policy,
        policy_options=policy_options,
        **options.model_dump(exclude=set(OURS)),
    )


class Defaults(HeadOptions):
    """Options of PPO."""

    RENAMED: ClassVar[dict[str, str]] = {"heads": "head_sizes"}
    LACKING: ClassVar[dict[str, str]] = {
        "asynchronous": "a rollout of PPO has as many steps of each environment, so each step waits for all of them; "
        "algorithm=digirl_online has this option"
    }

    learning_rate: PositiveNumber = 1e-4  # learning rate of the first update; from the paper's notebook
    schedule: Literal["constant", "linear"] = "constant"  # linear: the learning rate falls to 0 at the last step
    n_steps: PositiveInt = 64  # rollout length in steps per environment; from the paper's notebook
    batch_size: Annotated[int, Field(gt=1)] = 64  # rows per gradient step; SB3's default, the paper gives none
    n_epochs: PositiveInt = 10  # passes over a rollout per update; SB3's default, the paper gives none
    gamma: Fraction = 0.99  # discount factor per step; SB3's default, the paper gives none
    gae_lambda: Fraction = 0.95  # lambda of the GAE advantage estimator; SB3's default, the paper gives none
    clip_range: PositiveNumber = 0.2  # clip range of the probability ratio; SB3's default, the paper gives none
    ent_coef: Number = 5e-3  # weight of the entropy in the loss; from the paper's notebook
    vf_coef: Number = 0.5  # weight of the value loss; SB3's default, the paper gives none
    max_grad_norm: PositiveNumber = 0.5  # maximum norm of the gradient; SB3's default, the paper gives none
    target_kl: PositiveNumber | None = None  # KL divergence that ends an update early; None = no limit, as in SB3
    head_sizes: Sizes = (128,)  # hidden tanh units per layer of the action and value heads; from the paper's notebook
    recurrent: bool = False  # add an LSTM after the network, for tasks that need memory; several times slower
    lstm_size: PositiveInt = 256  # units of the LSTM; sb3-contrib's default
    device: Device = "auto"  # device of the policy; auto = a GPU if there is one
    # With one other busy process on two cores, two threads took 3 times as long as one (measured with 128 x 28 tokens).
    threads: NonNegativeInt = 2  # maximum of torch threads in an update; use 1 if other processes need the CPU; 0 = all
    handles: bool = True  # store each token once, on the policy's device; the results do not change
