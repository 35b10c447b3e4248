"""Data sets with the layout of `pr2l collect`, written by Minari only."""

import json
from pathlib import Path

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from pr2l.data.space_arrays import stack

FRAME = spaces.Box(0, 255, (1, 2, 3), np.uint8)
DISCRETE = spaces.Discrete(9)
OBSERVATION = spaces.Dict(frame=FRAME, proprio=spaces.Box(-np.inf, np.inf, (2,), np.float32))


def write(folder: Path, episodes: list[dict], action_space=DISCRETE, observation_space=OBSERVATION, **more):
    """Write a data set.

    Args:
        folder: The folder of the data set.
        episodes: Dicts with "rewards", "terminated" and, optionally, "actions", "choices" and "contexts". Row r of the
            data set has the number r in its frame and [r, -r] as proprio.
        action_space: The action space.
        observation_space: The observation space.
        more: Further metadata.
    """
    (folder / "data").mkdir(parents=True)
    storage = MinariStorage.new(folder / "data", observation_space, action_space, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": folder.name, "minari_version": minari.__version__, **more})
    row = 0
    for episode in episodes:
        steps = len(episode["rewards"])
        rows = np.arange(row, row + steps + 1)
        row += steps + 1
        frames = np.broadcast_to(rows[:, None, None, None] % 256, (steps + 1, 1, 2, 3)).astype(np.uint8)
        proprio = np.stack([rows, -rows], axis=1).astype(np.float32)
        parts = {"frame": frames, "proprio": proprio}
        observations = {key: parts[key] for key in observation_space.spaces}
        infos = {}
        if "choices" in episode:
            infos["choice"] = stack(action_space, episode["choices"])
        if "contexts" in episode:
            infos["context"] = [json.dumps(context) for context in episode["contexts"]]
        buffer = EpisodeBuffer(
            observations=observations,
            actions=stack(action_space, episode.get("actions", list(range(steps)))),
            rewards=episode["rewards"],
            terminations=[False] * (steps - 1) + [episode["terminated"]],
            truncations=[False] * (steps - 1) + [not episode["terminated"]],
            infos=infos or None,
        )
        storage.update_episodes([buffer])
        metadata = {"context/target": "armor", "success": True, "return": 0.0}
        storage.update_episode_metadata([metadata], [storage.total_episodes - 1])
    return folder
