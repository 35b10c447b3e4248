"""Learner around the on-policy algorithms of Stable-Baselines3 and sb3-contrib, with checkpoints without pickle.

A checkpoint is the state between an update and the next rollout, when the contents of the rollout buffer are no longer
needed. Only this file uses private attributes of Stable-Baselines3's models; pyproject.toml pins the tested versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from ..base import Actions, Hooks, LearnsFrom, Observation, Tensors, UserError, Values
from .actions import check_start
from .random_state import random_tensors, random_values, restore_random
from .state import below, copies, optimizer_tensors, restore_optimizer
from .tokens import TokenHandles, TokenTable, handle_space

# Attributes of a model from which learn(reset_num_timesteps=False) continues.
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")
ACTION_SPACES = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)


class OnPolicyLearner:
    """Learner around an on-policy algorithm such as PPO, RecurrentPPO or A2C.

    Args:
        model: Model of Stable-Baselines3, created with `SpacesOnly` as its environments; `learn` sets the real ones.
        table: Table of the tokens of a rollout, if the rollout buffer holds handles; None = the buffer holds tokens.
        schedule: Learning rate schedule of the model; None = constant learning rate.
        threads: Maximum number of torch threads during an update; 0 = no change.
    """

    learns_from: ClassVar[LearnsFrom] = "rollouts"
    reads_terminated: ClassVar[bool] = False  # the value after the last step is bootstrapped in truncated episodes only

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        table: TokenTable | None = None,
        schedule: RolloutSchedule | None = None,
        threads: int = 0,
    ) -> None:
        self.model, self.table, self.schedule, self.threads = model, table, schedule, threads
        self._restored: Observation = {}  # last observation of a loaded state, until `learn` uses it
        model.set_logger(Logger(folder=None, output_formats=[]))  # SB3's default creates a temporary folder

    @classmethod
    def create(
        cls,
        algorithm: type[OnPolicyAlgorithm],
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        num_envs: int,
        network: type[BaseFeaturesExtractor],
        network_options: BaseModel,
        *,
        seed: int,
        policy: str | type[ActorCriticPolicy] = "MultiInputPolicy",
        policy_options: Mapping[str, Any] | None = None,
        handles: bool = True,
        threads: int = 2,
        device: str = "auto",
        learning_rate: float,
        schedule: Literal["constant", "linear"] = "constant",
        **options: Any,
    ) -> OnPolicyLearner:
        """Create a learner with random weights; see `Algorithm.create` for the arguments not described here.

        Args:
            algorithm: Class of the algorithm in Stable-Baselines3 or sb3-contrib.
            observation_space: See `Algorithm.create`.
            action_space: Discrete from 0, Box, MultiDiscrete or MultiBinary.
            num_envs: Number of environments.
            network: Class of the policy network.
            network_options: Options of the network.
            seed: Seed of all random generators.
            policy: Policy class, or its name in the algorithm's `policy_aliases`.
            policy_options: Further `policy_kwargs`.
            handles: Store the tokens of a rollout once, in a table (see tokens.py).
            threads: Maximum number of torch threads during an update; 0 = no change.
            device: Device of the policy; "auto" = a GPU if there is one.
            learning_rate: Learning rate of the first update.
            schedule: "linear" = the learning rate falls to 0 at the last step and is constant during a rollout and its
                update.
            options: Further arguments of the algorithm's class, including n_steps.

        Raises:
            UserError: The algorithm does not support the action space.
        """
        if not isinstance(action_space, ACTION_SPACES):
            kinds = ", ".join(kind.__name__ for kind in ACTION_SPACES)
            raise UserError(f"{algorithm.__name__} needs an action space of {kinds}, not {action_space}")
        check_start(action_space, algorithm.__name__)
        table, policy_space = None, observation_space
        if handles:
            table = TokenTable.of(observation_space, options["n_steps"] + 1, num_envs, get_device(device))
            policy_space = handle_space(observation_space, table)
        extractor = {"features_extractor_class": network, "features_extractor_kwargs": {"defaults": network_options}}
        env = SpacesOnly(num_envs, policy_space, action_space)
        policy_kwargs = extractor | dict(policy_options or {})
        falling = RolloutSchedule(learning_rate) if schedule == "linear" else None
        options["learning_rate"] = falling or learning_rate
        model = algorithm(policy, env, policy_kwargs=policy_kwargs, seed=seed, device=device, **options)
        # The policy receives handles in a rollout, and tokens in evaluation and for the last observations of episodes.
        model.policy.observation_space = spaces.Dict({**observation_space.spaces, **policy_space.spaces})
        return cls(model, table, falling, threads)

    @property
    def num_timesteps(self) -> int:
        """Number of environment steps so far, including those before a resume."""
        return self.model.num_timesteps

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the policy."""
        return sum(parameter.numel() for parameter in self.model.policy.parameters())

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return self.model.device

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: tuple[np.ndarray, np.ndarray] | None = None,
        episode_starts: np.ndarray | None = None,
        *,
        greedy: bool = False,
    ) -> Actions:
        """Choose actions; see `Learner.act`.

        The memory is the state of the LSTM, two arrays float32 [layers, B, lstm_size], or None without an LSTM.

        Args:
            observation: As in `Learner.act`.
            memory: The memory that the previous call returned; None = zeros.
            episode_starts: bool [B], True = clear the row's memory; None = no episode begins.
            greedy: Choose the most probable action; otherwise sample one. Actions of a Box are clipped to its bounds.
        """
        policy: Any = self.model.policy
        policy.set_training_mode(False)
        tensors, _ = policy.obs_to_tensor(observation)
        recurrent: dict[str, Any] = {}
        if hasattr(policy, "lstm_actor"):
            rows = len(next(iter(observation.values())))
            if memory is None:
                layers, _, size = policy.lstm_hidden_state_shape
                memory = (np.zeros((layers, rows, size), np.float32),) * 2
            starts = np.zeros(rows, bool) if episode_starts is None else episode_starts
            recurrent = {
                "lstm_states": tuple(torch.as_tensor(state, device=self.device) for state in memory),
                "episode_starts": torch.as_tensor(starts, dtype=torch.float32, device=self.device),
            }
        distribution = policy.get_distribution(tensors, **recurrent)
        if recurrent:
            distribution, states = distribution
            memory = tuple(state.cpu().numpy() for state in states)
        samples = distribution.get_actions(deterministic=greedy)
        log_probabilities = distribution.log_prob(samples).cpu().numpy()
        space = self.model.action_space
        actions = samples.cpu().numpy().reshape(-1, *(space.shape or ()))
        if isinstance(space, spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        return Actions(actions, memory, log_probabilities)

    def learn(self, source: VecEnv, total_steps: int, hooks: Hooks) -> None:
        """Learn from rollouts; see `Learner.learn`.

        Rollouts are whole, so training ends at the next multiple of n_steps x environments.

        Args:
            source: Vector environment with the number of environments that `create` received.
            total_steps: Environment steps of the whole training, including those before a resume.
            hooks: Callbacks.
        """
        model = self.model
        env = source if self.table is None else TokenHandles(source, self.table)
        model.set_env(env, force_reset=False)
        env.seed(model.seed)
        if self._restored:
            model._last_obs = env.to_handles(self._restored) if isinstance(env, TokenHandles) else self._restored
            self._restored = {}
        goes_on = model._last_obs is not None
        # With reset_num_timesteps=False SB3 adds the steps so far to the total, and continues in mid-episode.
        remaining = total_steps - model.num_timesteps if goes_on else total_steps
        callbacks: list[BaseCallback] = [UpdateThreads(self.threads), HooksCallback(self, hooks)]
        if self.schedule is not None:
            callbacks.insert(0, Progress(self.schedule, total_steps))
        # SB3 accepts log_interval=None, but its annotation does not.
        never: Any = None
        model.learn(remaining, callbacks, log_interval=never, reset_num_timesteps=not goes_on)

    def state_dict(self) -> tuple[Tensors, Values]:
        """Return the training state without the state of the simulators; see `Learner.state_dict`."""
        model = self.model
        tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
        tensors |= optimizer_tensors(model.policy.optimizer)
        tensors |= {f"observation/{key}": torch.from_numpy(value) for key, value in self._observation().items()}
        if model._last_episode_starts is not None:
            tensors["episode_starts"] = torch.from_numpy(np.asarray(model._last_episode_starts))
        tensors |= _lstm_tensors(model) | random_tensors()
        values = {
            "counters": {name: getattr(model, name) for name in COUNTERS},
            "param_groups": model.policy.optimizer.state_dict()["param_groups"],
            "random": random_values(),
        }
        return copies(tensors), values

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state; see `Learner.load_state_dict`.

        This restores the process-wide random generators of torch, NumPy and Python, so the caller must not draw random
        numbers between this call and `learn`.

        Args:
            tensors: Tensors from `state_dict` of a learner with the same number of environments.
            values: JSON values from the same call.
        """
        model = self.model
        self.load_policy(tensors)
        restore_optimizer(model.policy.optimizer, tensors, values["param_groups"])
        self._restored = {key: value.numpy() for key, value in below(tensors, "observation").items()}
        if "episode_starts" in tensors:
            model._last_episode_starts = tensors["episode_starts"].numpy()
        _restore_lstm(model, tensors)
        for name in COUNTERS:
            setattr(model, name, values["counters"][name])
        restore_random(tensors, values["random"])

    def load_policy(self, tensors: Tensors) -> None:
        """Restore the weights of the policy only, for acting.

        Args:
            tensors: Tensors from `state_dict`; those whose names begin with "policy/" are used.

        Raises:
            RuntimeError: The weights have other names or shapes.
        """
        self.model.policy.load_state_dict(below(tensors, "policy"))

    def _observation(self) -> Observation:
        """Return the current observation of the environments with tokens, not handles; empty before the first reset."""
        last: Any = self.model._last_obs
        if last is None:
            return self._restored
        return last if self.table is None else self.table.to_tokens(last)


class RolloutSchedule:
    """Learning rate that falls linearly and is constant from the start of a rollout to the end of its update.

    Stable-Baselines3's own schedule reads the progress after the rollout, so its last update has the learning rate 0.

    Args:
        initial: Learning rate of the first update.
    """

    def __init__(self, initial: float) -> None:
        self.initial, self.remaining = initial, 1.0

    def __call__(self, progress_remaining: float) -> float:
        return self.initial * self.remaining


class Progress(BaseCallback):
    """Callback that updates a schedule at the start of each rollout with the fraction of steps that remain.

    Args:
        schedule: Schedule to update.
        total_steps: Environment steps of the whole training.
    """

    def __init__(self, schedule: RolloutSchedule, total_steps: int) -> None:
        super().__init__()
        self.schedule, self.total_steps = schedule, total_steps

    def _on_rollout_start(self) -> None:
        self.schedule.remaining = 1 - self.model.num_timesteps / self.total_steps

    def _on_step(self) -> bool:
        return True


class HooksCallback(BaseCallback):
    """Callback of Stable-Baselines3 that calls the hooks of pr2l.

    Args:
        learner: Argument of the hooks.
        hooks: Hooks to call.
    """

    def __init__(self, learner: OnPolicyLearner, hooks: Hooks) -> None:
        super().__init__()
        self.learner, self.hooks = learner, hooks
        self._updated = False

    def _on_rollout_start(self) -> None:
        self._report_update()
        self.hooks.on_update_start(self.learner)

    def _on_step(self) -> bool:
        self.hooks.on_step(self.locals["infos"])
        return True

    def _on_rollout_end(self) -> None:
        self._updated = True  # SB3 updates now; its next callback is the next rollout's start or the training's end

    def _on_training_end(self) -> None:
        self._report_update()
        self.hooks.on_end(self.learner)

    def _report_update(self) -> None:
        metrics = dict(self.model.logger.name_to_value)
        self.model.logger.name_to_value.clear()
        if self._updated:
            self._updated = False
            self.hooks.on_update(metrics)


class UpdateThreads(BaseCallback):
    """Callback that limits the torch threads during updates of the policy; the encoder uses all threads.

    Args:
        count: Maximum number of torch threads during an update; 0 = no change.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.rollout_threads = torch.get_num_threads()
        self.count = min(count or self.rollout_threads, self.rollout_threads)

    def _on_rollout_end(self) -> None:
        torch.set_num_threads(self.count)

    def _on_rollout_start(self) -> None:
        torch.set_num_threads(self.rollout_threads)

    def _on_training_end(self) -> None:
        torch.set_num_threads(self.rollout_threads)

    def _on_step(self) -> bool:
        return True


class SpacesOnly(VecEnv):
    """Placeholder for a vector environment, with its spaces only; it cannot be reset or stepped."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def close(self) -> None:
        pass

    def _absent(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the learner has no environments; pass them to `learn`")

    reset = step_async = step_wait = set_attr = env_method = _absent


def _lstm_tensors(model: OnPolicyAlgorithm) -> Tensors:
    states: RNNStates | None = getattr(model, "_last_lstm_states", None)
    if states is None:
        return {}
    pairs = {"pi": states.pi, "vf": states.vf}
    return {f"lstm/{head}/{i}": tensor for head, pair in pairs.items() for i, tensor in enumerate(pair)}


def _restore_lstm(model: OnPolicyAlgorithm, tensors: Tensors) -> None:
    lstm = {name: tensor.to(model.device) for name, tensor in below(tensors, "lstm").items()}
    if lstm:
        pi, vf = ((lstm[f"{head}/0"], lstm[f"{head}/1"]) for head in ("pi", "vf"))
        model._last_lstm_states = RNNStates(pi, vf)  # type: ignore[attr-defined]  # RecurrentPPO has it


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, options: Any) -> dict[str, int]:
    """Compute the peak memory of a rollout's observations in an `OnPolicyLearner`.

    The rollout buffer counts twice, because Stable-Baselines3 flattens a copy of it.

    Args:
        observation_space: Observation space of one environment, with tokens and mask.
        num_envs: Number of environments.
        options: Options of the algorithm with `n_steps`, and perhaps `handles` (default True) and `device` (default
            "auto").

    Returns:
        Bytes by device type ("cpu" or "cuda").
    """
    sizes, rows = observation_bytes(observation_space), num_envs * options.n_steps
    if not getattr(options, "handles", True):
        return {"cpu": 2 * rows * sum(sizes.values())}
    table = (1 + rows + num_envs) * (sizes.pop("tokens") + sizes.pop("mask"))
    bytes_of = {"cpu": 2 * rows * (np.dtype(np.int64).itemsize + sum(sizes.values()))}
    device = get_device(getattr(options, "device", "auto")).type
    return bytes_of | {device: bytes_of.get(device, 0) + table}


def observation_bytes(observation_space: spaces.Dict) -> dict[str, int]:
    """Return the memory of one observation in bytes by key of the observation space.

    Args:
        observation_space: Dict of spaces with a shape and a dtype.
    """
    return {
        key: int(np.prod(space.shape or ())) * np.dtype(space.dtype).itemsize
        for key, space in observation_space.spaces.items()
    }
