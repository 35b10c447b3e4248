"""Recorded episodes as an algorithm learns from them: embeddings from their store, the rest from the data set.

Only what is asked for is read: tokens come from the store's memory map, a trajectory at a time.
"""

from __future__ import annotations

from itertools import pairwise

import h5py
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import registry
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.data.embed import Recording, embed_with
from pr2l.data.store import Store
from pr2l.encoders.base import Encoder
from pr2l.policies.common.trajectories import Trajectory


def learns_from_data(config: RunConfig) -> bool:
    """Whether the config's algorithm learns from recorded episodes; UserError where `data` does not suit it."""
    from_data = getattr(registry.load("algorithms", config.algorithm), "LEARNS_FROM", "rollouts") == "data"
    if from_data and config.data is None:
        raise UserError(
            f"{config.algorithm} learns from recorded episodes, and the config names none: record some with "
            "`pr2l collect`, and give data=FOLDER"
        )
    if config.data is not None and not from_data:
        raise UserError(f"{config.algorithm} plays its own episodes; data={config.data} is for others: data=null")
    return from_data


def recording(config: RunConfig, frames: VecEnv) -> Recording:
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


def recorded_episodes(config: RunConfig, encoder: Encoder, frames: VecEnv) -> Episodes | None:
    """What the config's algorithm learns from; None if it plays. Embeds what is not embedded yet.

    An encoder that has something to fit is fitted on the data set. Raises UserError where things do not fit together.
    """
    if not learns_from_data(config):
        return None
    found = recording(config, frames)
    return Episodes(found, embed_with(encoder, found, config))


class Episodes:
    """The episodes of a data set, in the order of their recording; only their tokens are not held in memory."""

    def __init__(self, recording: Recording, store: Store) -> None:
        self._store = store
        self._rows = [slice(start, end - 1) for start, end in pairwise(map(int, recording.starts))]
        with h5py.File(recording.folder / "data" / "main_data.hdf5") as file:
            self._parts = [_without_frames(file[f"episode_{number}"]) for number in range(len(self._rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Trajectory:
        tokens, (others, actions, labels) = self._store[self._rows[number]], self._parts[number]
        shown = {"tokens": tokens.values, "mask": tokens.mask, **others}
        return Trajectory(shown, torch.from_numpy(actions), torch.from_numpy(labels))


def _without_frames(episode: h5py.Group) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Proprio (if there is any) at each action, actions, and labels: the choices, or else the actions themselves."""
    actions = episode["actions"][:]
    labels = episode["infos/choice"][:] if "infos/choice" in episode else actions
    proprio = episode["observations"].get("proprio")
    return {} if proprio is None else {"proprio": torch.from_numpy(proprio[:-1])}, actions, labels
