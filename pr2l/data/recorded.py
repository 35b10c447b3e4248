"""Recorded episodes as an algorithm learns from them: embeddings from their store, the rest from the data set.

Only what is asked for is read: tokens come from the store's memory map, a trajectory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import h5py
import numpy as np
import torch

from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.data.embed import Recording, embed_with
from pr2l.data.store import Store
from pr2l.encoders.base import Encoder
from pr2l.policies.base import BatchSource, Trajectory
from pr2l.policies.common.loop import ShuffledSource
from pr2l.rollout.build import Spaces


def learns_from_data(config: RunConfig) -> bool:
    """Whether the config's algorithm learns from recorded episodes; UserError where `data` does not suit it."""
    from_data = registry.load("algorithms", config.algorithm).Learner.learns_from != "rollouts"
    if from_data and config.data is None:
        raise UserError(
            f"{config.algorithm} learns from recorded episodes, and the config names none: record some with "
            "`pr2l collect`, and give data=FOLDER"
        )
    if config.data is not None and not from_data:
        raise UserError(f"{config.algorithm} plays its own episodes; data={config.data} is for others: data=null")
    return from_data


def recording(config: RunConfig, frames: Spaces) -> Recording:
    """The config's data set. UserError if it was not recorded in environments like `frames`."""
    assert config.data is not None
    found = Recording(config.data)
    for name in ("observation_space", "action_space"):
        there, here = getattr(found.storage, name), getattr(frames, name)
        if there != here:
            raise UserError(
                f"the {name} of the data set {config.data} is {there}, and that of the config's environment is {here}; "
                "use the environment_options that it was collected with, or collect another"
            )
    return found


def batch_source(config: RunConfig, encoder: Encoder, frames: Spaces) -> BatchSource[Sequence[Trajectory]]:
    """What the config's algorithm learns from, if that is recorded. Embeds what is not embedded yet.

    An encoder that has something to fit is fitted on the data set. Raises UserError where things do not fit together.
    """
    found = recording(config, frames)
    return ShuffledSource(Episodes(found, embed_with(encoder, found, config)), config.seed)


class Episodes:
    """The episodes of a data set, in the order of their recording; only their tokens are not held in memory.

    Args:
        recording: The data set.
        store: Embeddings of its frames.
        gamma: Discount per step of the returns.
    """

    def __init__(self, recording: Recording, store: Store, gamma: float = 0.99) -> None:
        self._store, self._gamma = store, gamma
        self._rows = [slice(start, end) for start, end in pairwise(map(int, recording.starts))]
        self._contexts = recording.contexts
        with h5py.File(recording.folder / "data" / "main_data.hdf5") as file:
            self._episodes = [_without_frames(file[f"episode_{number}"]) for number in range(len(self._rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Trajectory:
        tokens, episode = self._store[self._rows[number]], self._episodes[number]
        observations = {"tokens": tokens.values, "mask": tokens.mask}
        if "proprio" in episode:
            observations["proprio"] = torch.from_numpy(episode["proprio"])
        rewards = torch.from_numpy(episode["rewards"]).float()
        terminated = torch.from_numpy(episode["terminations"])
        return Trajectory(
            observations=observations,
            actions=torch.from_numpy(episode["actions"]),
            rewards=rewards,
            terminated=terminated,
            truncated=torch.from_numpy(episode["truncations"]),
            monte_carlo_returns=discounted_returns(rewards, self._gamma),
            discounts=self._gamma * ~terminated,
            expert_actions=torch.from_numpy(episode["expert_actions"]),
            contexts=[self._contexts[number]] * (len(rewards) + 1),
        )


def discounted_returns(rewards: torch.Tensor, gamma: float) -> torch.Tensor:
    """float32 [n]: from rewards [n], each step's discounted sum of the rewards from it to the end."""
    returns = rewards.clone()
    for step in reversed(range(len(rewards) - 1)):
        returns[step] += gamma * returns[step + 1]
    return returns


def _without_frames(episode: h5py.Group) -> dict[str, np.ndarray]:
    """Everything but the frames; the expert's actions are those chosen before noise, or else the actions themselves."""
    arrays = {key: episode[key][:] for key in ("actions", "rewards", "terminations", "truncations")}
    arrays["expert_actions"] = episode["infos/choice"][:] if "infos/choice" in episode else arrays["actions"]
    if "proprio" in episode["observations"]:
        arrays["proprio"] = episode["observations/proprio"][:]
    return arrays
