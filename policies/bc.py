"""Behaviour cloning with a recurrent policy, as PR2L's in Habitat after PIRLNav (Ramrakhya et al. 2023).

tokens -> network -> [summary, proprio] -> LSTM -> action logits
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_device, set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from .common.state import Tensors, below, copies, optimizer_tensors, restore_optimizer
from .common.threads import torch_threads
from .common.trajectories import Trajectories, Trajectory

__all__ = ["LEARNS_FROM", "Cloner", "Defaults", "act", "create", "learn", "restore", "state"]

LEARNS_FROM = "data"  # `learn` is given recorded episodes; it plays none

Memory: TypeAlias = tuple[torch.Tensor, torch.Tensor] | None


def transition_weights(trajectory: Trajectory, defaults: Defaults) -> torch.Tensor:
    """float32 [n]: `inflection` where the label is not the action taken before, else 1; times the label's own weight.

    The first transition counts 1. So weighted, repeating the last action is no longer a good guess (Wijmans et al.
    2019). PIRLNav's released sensor compares the two actions before that one, a step late; this is as its paper says.
    """
    weights = torch.ones(len(trajectory))
    weights[1:][trajectory.labels[1:] != trajectory.actions[:-1]] = defaults.inflection
    if defaults.action_weights:
        weights = weights * torch.tensor(defaults.action_weights)[trajectory.labels]
    return weights


def weighted_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum over n transitions of weight times cross-entropy; logits [n, A], labels int64 [n], weights [n]."""
    return (weights * cross_entropy(logits, labels, reduction="none")).sum()


def update(model: Cloner, defaults: Defaults, trajectories: Iterator[Trajectory]) -> None:
    """One gradient step, on the weighted mean loss of as many trajectories as hold `batch` transitions.

    They are read and go through the network `forward` at a time, so no more than these are in memory at once.
    """
    policy = model.policy
    read, transitions, weight, loss, right = 0, 0, 0.0, 0.0, 0
    model.optimizer.zero_grad()
    while transitions < defaults.batch:
        chunk = list(islice(trajectories, defaults.forward))
        labels = torch.cat([each.labels for each in chunk]).to(policy.device)
        weights = torch.cat([transition_weights(each, defaults) for each in chunk]).to(policy.device)
        logits = policy(_together(chunk, policy.device), [len(each) for each in chunk])
        summed = weighted_loss(logits, labels, weights)
        summed.backward()
        read, transitions = read + len(chunk), transitions + len(labels)
        weight, loss = weight + weights.sum().item(), loss + summed.item()
        right += int((logits.argmax(dim=1) == labels).sum())
    for parameter in policy.parameters():
        if parameter.grad is not None:
            parameter.grad /= weight
    nn.utils.clip_grad_norm_(policy.parameters(), defaults.max_grad_norm)
    model.optimizer.step()
    model.trajectories += read
    model.num_timesteps += transitions
    model.logger.record("train/loss", loss / weight)
    model.logger.record("train/accuracy", right / transitions)


def learn(
    model: Cloner, defaults: Defaults, steps: int, callback: BaseCallback, episodes: Trajectories
) -> None:
    """Trains until the model has seen `steps` transitions in all, also those before a restore, epoch after epoch.

    The callback's on_rollout_start falls between two updates: the moment to take the state.
    """
    # The callback was made for Stable-Baselines3's models; it reads nothing that a Cloner lacks.
    sb3_model: Any = model
    callback.init_callback(sb3_model)
    callback.on_training_start({}, {})
    numbers = shuffled(len(episodes), model.seed, model.trajectories)
    trajectories = (episodes[number] for number in numbers)
    while model.num_timesteps < steps:
        callback.on_rollout_start()
        left = 1 - model.num_timesteps / steps if defaults.schedule == "linear" else 1.0
        model.optimizer.param_groups[0]["lr"] = defaults.learning_rate * left
        with torch_threads(defaults.threads):
            update(model, defaults, trajectories)
        model.logger.record("train/epoch", model.trajectories / len(episodes))
        callback.on_step()
    callback.on_training_end()


def shuffled(count: int, seed: int, taken: int) -> Iterator[int]:
    """Numbers below `count` without end: all of them in each epoch, in its own order; after the first `taken`."""
    while True:
        epoch, start = divmod(taken, count)
        rest = np.random.default_rng([seed, epoch]).permutation(count)[start:]
        yield from map(int, rest)
        taken += len(rest)


@torch.no_grad()
def act(
    model: Cloner,
    observation: dict[str, np.ndarray],
    memory: Memory = None,
    episode_starts: np.ndarray | None = None,
    deterministic: bool = False,
) -> tuple[np.ndarray, Memory]:
    """Actions [B] and the LSTM's next memory, two tensors [layers, B, lstm_size] (None without one).

    episode_starts: bool [B], True where a new episode begins, so that its memory is empty; None = nowhere.
    deterministic: the most probable action, rather than a draw from torch's generator.
    """
    policy = model.policy
    shown = {key: torch.as_tensor(part, device=policy.device) for key, part in observation.items()}
    if memory is not None and episode_starts is not None:
        goes_on = torch.as_tensor(~episode_starts.astype(bool), device=policy.device)[None, :, None]
        memory = memory[0] * goes_on, memory[1] * goes_on
    logits, memory = policy.step(shown, memory)
    actions = logits.argmax(dim=1) if deterministic else torch.distributions.Categorical(logits=logits).sample()
    return actions.cpu().numpy(), memory


class RecurrentPolicy(nn.Module):
    """A network's features through an LSTM (none with lstm_layers = 0) to the logits of `actions` actions."""

    def __init__(self, network: BaseFeaturesExtractor, actions: int, defaults: Defaults) -> None:
        super().__init__()
        self.network, width = network, network.features_dim
        layers = defaults.lstm_layers
        self.lstm = nn.LSTM(width, defaults.lstm_size, layers) if layers else None
        self.head = nn.Linear(defaults.lstm_size if layers else width, actions)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, observations: dict[str, torch.Tensor], lengths: list[int]) -> torch.Tensor:
        """Logits [N, A] for whole trajectories of so many transitions, which lie one after the other in N rows."""
        features = self.network(observations)
        if self.lstm is not None:
            packed = pack_sequence(features.split(lengths), enforce_sorted=False)
            features = torch.cat(unpack_sequence(self.lstm(packed)[0]))
        return self.head(features)

    def step(self, observation: dict[str, torch.Tensor], memory: Memory) -> tuple[torch.Tensor, Memory]:
        """Logits [B, A] for one observation of each of B episodes, and their next memory; None = empty."""
        features = self.network(observation)
        if self.lstm is not None:
            recalled, memory = self.lstm(features[None], memory)
            features = recalled[0]
        return self.head(features), memory


class Cloner:
    """A policy and how far it has come; has what Stable-Baselines3's callbacks read of a model."""

    def __init__(self, policy: RecurrentPolicy, defaults: Defaults, seed: int) -> None:
        self.policy, self.seed = policy, seed
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=defaults.learning_rate, weight_decay=defaults.weight_decay
        )
        self.num_timesteps = 0  # transitions learned from
        self.trajectories = 0  # that they were in
        self.logger = Logger(folder=None, output_formats=[])


def create(
    venv: VecEnv,
    network: type[BaseFeaturesExtractor],
    network_defaults: BaseModel,
    defaults: Defaults,
    *,
    seed: int,
) -> Cloner:
    """A fresh model for the spaces of `venv`. network: the class of a file in policies/networks/.

    Raises ValueError for actions that are not discrete, or where `action_weights` does not fit them.
    """
    if not isinstance(venv.action_space, spaces.Discrete):
        raise ValueError(f"bc clones discrete actions only, not {venv.action_space}")
    actions = int(venv.action_space.n)
    if defaults.action_weights and len(defaults.action_weights) != actions:
        raise ValueError(
            f"algorithm_options.action_weights has {len(defaults.action_weights)} weights for {actions} actions; "
            "give one for each action, or [] for none"
        )
    set_random_seed(seed)
    make: Any = network  # every file's Network takes its own Defaults
    policy = RecurrentPolicy(make(venv.observation_space, network_defaults), actions, defaults)
    return Cloner(policy.to(get_device(defaults.device)), defaults, seed)


def state(model: Cloner) -> tuple[Tensors, dict[str, Any]]:
    """Copies: later training does not change them. The values survive a round trip through JSON unchanged."""
    tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
    counters = {"num_timesteps": model.num_timesteps, "trajectories": model.trajectories}
    values = {"counters": counters, "param_groups": model.optimizer.state_dict()["param_groups"]}
    return copies(tensors | optimizer_tensors(model.optimizer)), values


def restore(model: Cloner, tensors: Tensors, values: dict[str, Any]) -> None:
    """Puts back what `state` took from a model of the same seed and policy; RuntimeError for one of another shape.

    It goes on bit for bit: which trajectories come next follows from the seed and the counters.
    """
    model.policy.load_state_dict(below(tensors, "policy"))
    restore_optimizer(model.optimizer, tensors, values["param_groups"])
    model.num_timesteps, model.trajectories = (values["counters"][name] for name in ("num_timesteps", "trajectories"))


def _together(chunk: list[Trajectory], device: torch.device) -> dict[str, torch.Tensor]:
    """The observations of all trajectories, one after the other."""
    return {key: torch.cat([each.observations[key] for each in chunk]).to(device) for key in chunk[0].observations}


class Defaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = 1e-4  # the paper's
    schedule: Literal["constant", "linear"] = "linear"  # falls to 0 at the last step, as the paper's
    weight_decay: float = 1e-6  # the paper's, of AdamW
    batch: PositiveInt = 16384  # transitions of a gradient step at least; trajectories stay whole; the paper's
    forward: PositiveInt = 8  # trajectories that go through the network at once: memory against speed
    max_grad_norm: float = 0.2  # PIRLNav's
    inflection: float = 3.48  # PIRLNav's: Habitat-Web's transitions per inflection; 1 = no such weighting
    action_weights: tuple[float, ...] = ()  # one for each action, of its label; the paper: 1.5 for stop and turns
    lstm_layers: NonNegativeInt = 2  # PIRLNav's; 0 = a policy without memory
    lstm_size: PositiveInt = 2048  # units of each, PIRLNav's
    device: str = "auto"  # auto = a GPU if there is one
    threads: int = 1  # torch threads of an update: with more, sums may be rounded otherwise; 0 = torch's choice
