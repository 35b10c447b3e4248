"""DigiRL from its own rollouts, or offline-to-online: first from recorded trajectories, then from both.

    offline_updates x  gradient step on recorded trajectories
    then again and again:
        n_steps x      step of all environments with the policy; finished episodes go to the replay
        updates x      gradient step on trajectories from the replay and the recorded ones

The gradient step is that of digirl.py. As in the released code, a replay of all trajectories trains the values, and
the automatic curriculum chooses those that the policy imitates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from gymnasium import spaces
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv

from .base import BatchSource, LearnsFrom, Tensors, Trajectory, UserError, Values
from .common.async_rollouts import AsyncRollouts
from .common.loop import Update
from .common.policy import Policy
from .common.random_state import random_tensors, random_values, restore_random
from .common.replay import Episode, Replay, Rollouts, numbered, row_of
from .common.sb3 import observation_bytes
from .common.state import below, copies
from .common.steps import flat_steps
from .common.threads import torch_threads
from .digirl import Critic, DigiRLLearner, modules
from .digirl import Defaults as OfflineDefaults

__all__ = ["Defaults", "Learner", "OnlineDigiRLLearner", "create", "rollout_bytes"]


class OnlineDigiRLLearner(DigiRLLearner):
    """Learner of DigiRL from rollouts and, if there are any, from recorded trajectories.

    Args:
        policy: Policy to train.
        critic: Values to train.
        options: Options of the algorithm.
        seed: Seed of the environments.
    """

    learns_from: ClassVar[LearnsFrom] = "rollouts"
    takes_data: ClassVar[bool] = True
    options: Defaults

    def __init__(self, policy: Policy, critic: Critic, options: Defaults, seed: int) -> None:
        super().__init__(policy, critic, options)
        self.loop.threads = 0  # the encoder in the environments uses all threads; see `update`
        self.seed = seed
        self.replay = Replay(options.replay, options.gamma)
        self.episodes: list[Episode] = []  # running episode of each environment; empty before the first reset
        self.data: BatchSource[Sequence[Trajectory]] | None = None

    def add_data(self, source: BatchSource[Sequence[Trajectory]]) -> None:
        """Add recorded trajectories, before `learn`; a resumed training needs the same ones.

        Args:
            source: Trajectories with the spaces of the environments and the discount `options.gamma`.
        """
        self.data = source

    def update(self, source: Any) -> Update:
        """Make one gradient step on recorded data; after `options.offline_updates` of them, a rollout and some steps.

        Args:
            source: `Rollouts` of environments, replay and data.

        Returns:
            The number of environment steps, and the metrics of the last gradient step.
        """
        if self.updates < self.options.offline_updates:
            return Update(0, self.gradient_steps(source, 1))
        steps = source.collect(self.act, self.options.n_steps)
        replay = {"replay/trajectories": len(self.replay), "replay/observations": self.replay.observations}
        return Update(steps, {**self.gradient_steps(source, self.options.updates), **replay})

    def gradient_steps(self, source: Rollouts, count: int) -> dict[str, float]:
        """Make gradient steps, none if no episode has ended yet.

        Args:
            source: Replay and data.
            count: Number of gradient steps.

        Returns:
            The metrics of the last one.
        """
        metrics: dict[str, float] = {}
        with torch_threads(self.options.threads):
            for _ in range(count):
                if trajectories := source.next_batch(self.options.trajectories):
                    metrics = self.gradient_step(flat_steps(trajectories, self.device))
        return metrics

    def learn(self, source: VecEnv, total_steps: int, hooks: Any) -> None:
        """Learn from recorded data, then from rollouts; see `Learner.learn`.

        Gradient steps on recorded data before the first rollout count as updates of no steps.

        Args:
            source: Environments of token observations. They are reset at the first call only.
            total_steps: Environment steps of the whole training; the last rollout may exceed them.
            hooks: Callbacks, `Hooks`.

        Raises:
            UserError: `options.offline_updates` is positive, and there are no recorded data.
        """
        if self.options.offline_updates and self.data is None:
            raise UserError(
                f"algorithm_options.offline_updates={self.options.offline_updates} needs recorded trajectories; add "
                "data=FOLDER, or use offline_updates=0"
            )
        if not self.episodes:
            source.seed(self.seed)
            observations = source.reset()
            self.episodes = [Episode([row_of(observations, row)]) for row in range(source.num_envs)]
        rollouts = AsyncRollouts if self.options.asynchronous else Rollouts
        super().learn(rollouts(source, self.episodes, self.replay, self.data, hooks), total_steps, hooks)

    def state_dict(self) -> tuple[Tensors, Values]:
        """Return the whole training state, with the replay and the running episodes; see `Learner.state_dict`.

        The tensors of the replay are not copies, because they never change.
        """
        tensors, values = super().state_dict()
        replay = {f"replay/{name}": tensor for name, tensor in self.replay.tensors().items()}
        running = {
            f"running/{row}/{name}": tensor
            for row, episode in enumerate(self.episodes)
            for name, tensor in episode.tensors().items()
        }
        return {**tensors, **replay, **running, **copies(random_tensors())}, {**values, "random": random_values()}

    def load_state_dict(self, tensors: Tensors, values: Values) -> None:
        """Restore the training state; see `Learner.load_state_dict`.

        This restores the process-wide random generators, so the caller must not draw random numbers between this call
        and `learn`.

        Args:
            tensors: Tensors from `state_dict` of a learner with the same number of environments.
            values: JSON values from the same call.
        """
        super().load_state_dict(tensors, values)
        self.replay.restore(below(tensors, "replay"))
        self.episodes = [Episode.of_tensors(parts) for parts in numbered(below(tensors, "running"))]
        restore_random(tensors, values["random"])


Learner = OnlineDigiRLLearner


def create(
    observation_space: spaces.Dict,
    action_space: spaces.Space[Any],
    num_envs: int,
    network: type[BaseFeaturesExtractor],
    network_options: BaseModel,
    options: Defaults,
    *,
    seed: int,
    policy: Policy | None = None,
) -> OnlineDigiRLLearner:
    """Create a learner; see `Algorithm.create` for the arguments.

    Args:
        observation_space: Dict of tokens [T, D], mask [T] and perhaps proprio [P].
        action_space: Discrete or MultiDiscrete, from 0.
        num_envs: Not used.
        network: Class that turns an observation into features; the policy and both values have one each.
        network_options: Its options.
        options: Options of DigiRL and of the rollouts.
        seed: Seed of all random generators, and so of the first weights.
        policy: Policy to train; None = new heads on the network.

    Raises:
        UserError: The action space is of another kind, or `factors_of_type` or `parents` do not fit it.
    """
    trained = modules(observation_space, action_space, network, network_options, options, seed, policy)
    return OnlineDigiRLLearner(*trained, options, seed)


def rollout_bytes(observation_space: spaces.Dict, num_envs: int, options: Defaults) -> dict[str, int]:
    """Return the memory of a full replay in bytes by device type; the running episodes are not counted.

    Args:
        observation_space: Observation space of one environment.
        num_envs: Number of environments, not used.
        options: Options of the algorithm.
    """
    return {"cpu": options.replay * sum(observation_bytes(observation_space).values())}


class Defaults(OfflineDefaults):
    """Options of DigiRL from rollouts."""

    filter: Literal["reward", "curriculum", "none"] = "curriculum"  # score of trajectories; code: online curriculum
    n_steps: PositiveInt = 32  # steps per environment and rollout; the code collects 16 episodes instead
    # step environments that are ready without waiting for slower ones, such as web pages that load; a rollout then has
    # n_steps x environments steps of all environments together, and its order depends on the speed of the machine
    asynchronous: bool = False
    updates: PositiveInt = 20  # gradient steps after each rollout; actor_epochs of the code
    offline_updates: NonNegativeInt = 0  # gradient steps on recorded data before the first rollout
    replay: PositiveInt = 2000  # observations in the replay, which checkpoints contain; from the code
