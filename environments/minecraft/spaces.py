"""Minecraft's observation and action spaces, for both interpreters; Python 3.9 and numpy only.

Actions. "full" is MineDojo's MultiDiscrete: forward/back, left/right, jump/sneak/sprint, camera pitch and yaw in
steps of 15 degrees (12 = still), use/drop/attack/craft/equip/place/destroy, and the arguments of the last four.
"discrete" is a list of 89 simple actions of that space. MineDojo's paper trains on 89 actions and MineCLIP's code
embeds 89 previous actions, but the list was never published (MineDojo/MineCLIP#4); this list follows how later work
reads the paper: 6 moves, 9 x 9 camera turns within 60 degrees (the middle one does nothing), use, attack.

Proprio, MineCLIP's features as numbers: sine and cosine of yaw and of pitch [4]; x / 1000, y / 100, z / 1000 [3];
the 3 x 3 x 3 blocks around the feet, one-hot [27 * 18]; biome, one-hot [168]; previous action, one-hot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

NVEC = (3, 3, 4, 25, 25, 8, 244, 36)
STILL = 12  # the camera's middle bin
NO_OP = (0, 0, 0, STILL, STILL, 0, 0, 0)
DEGREES = 15  # degrees per camera bin
USE, ATTACK = 1, 3  # values of the sixth number
ARGUMENTS = {4: "craft_smelt", 5: "equip", 6: "place", 7: "destroy"}  # functional action -> the mask of its argument


def _action(changes: dict[int, int]) -> tuple[int, ...]:
    """Return NO_OP with some values changed, by position."""
    return tuple(changes.get(index, value) for index, value in enumerate(NO_OP))


FORWARD, JUMP_FORWARD, JUMP = _action({0: 1}), _action({0: 1, 2: 1}), _action({2: 1})
BACK, LEFT, RIGHT = _action({0: 2}), _action({1: 1}), _action({1: 2})
TURNS = tuple(_action({3: pitch, 4: yaw}) for pitch in range(8, 17) for yaw in range(8, 17))
DISCRETE = (FORWARD, JUMP_FORWARD, JUMP, BACK, LEFT, RIGHT, *TURNS, _action({5: USE}), _action({5: ATTACK}))

# MineCLIP's classes of blocks, by Malmo's names; every other block is class 0.
BLOCKS = {
    name: number
    for number, names in enumerate(
        (
            ("obsidian", "portal"),
            ("tnt",),
            ("melon",),
            ("sugar cane",),
            ("crops",),
            ("carrot",),
            ("fence",),
            ("water",),
            ("air",),
            ("oak fence",),
            ("lava",),
            ("wood",),
            ("pumpkin",),
            ("oak sapling",),
            ("carpet",),
        ),
        start=1,
    )
    for name in names
}
BLOCK_CLASSES = 16
BIOMES = 168  # number of biome ids in Minecraft 1.11
FARTHEST = 6400.0  # MineDojo's 640,000 blocks in every direction, over 100


def action_space(actions: str) -> dict[str, Any]:
    """Describe the action space.

    Args:
        actions: "discrete" or "full".

    Returns:
        A description as from `worker.plain`, such as {"type": "Discrete", "n": 89}.
    """
    if actions == "full":
        return {"type": "MultiDiscrete", "nvec": list(NVEC)}
    return {"type": "Discrete", "n": len(DISCRETE)}


def observation_space(height: int, width: int, actions: str) -> dict[str, Any]:
    """Describe the observation space.

    Args:
        height: The height of the frame in pixels.
        width: The width of the frame in pixels.
        actions: "discrete" or "full", which determines the size of proprio.

    Returns:
        Descriptions of "frame" and "proprio" as from `worker.plain`.
    """
    count = 4 + 3 + 27 * BLOCK_CLASSES + BIOMES + previous_action(actions, None).size
    return {
        "frame": {"type": "Box", "low": 0, "high": 255, "shape": [height, width, 3], "dtype": "uint8"},
        "proprio": {"type": "Box", "low": -FARTHEST, "high": FARTHEST, "shape": [count], "dtype": "float32"},
    }


def proprio(stats: dict[str, Any], blocks: np.ndarray, actions: str, previous: Any) -> np.ndarray:
    """Return the proprio vector, float32 [P].

    Args:
        stats: MineDojo's `location_stats`.
        blocks: The names of the blocks around the feet, [3, 3, 3].
        actions: "discrete" or "full".
        previous: The previous action; None at the reset.
    """
    yaw, pitch = (np.deg2rad(float(stats[angle][0])) for angle in ("yaw", "pitch"))
    classes = [BLOCKS.get(str(name), 0) for name in blocks.flatten()]
    features = (
        [np.sin(yaw), np.cos(yaw), np.sin(pitch), np.cos(pitch)],
        np.asarray(stats["pos"]) / (1000, 100, 1000),  # MineCLIP's scale: x and z reach hundreds
        np.eye(BLOCK_CLASSES)[classes].flatten(),
        np.eye(BIOMES)[int(stats["biome_id"])],
        previous_action(actions, previous),
    )
    return np.concatenate(features).astype(np.float32)


def previous_action(actions: str, action: Any) -> np.ndarray:
    """Encode an action as one-hot vectors.

    Args:
        actions: "discrete" or "full".
        action: The action; None = all zero.

    Returns:
        float64 [89] for "discrete"; for "full" the concatenated vectors of its first six numbers, [68].
    """
    sizes = NVEC[:6] if actions == "full" else (len(DISCRETE),)
    hot = np.zeros(sum(sizes))
    if action is not None:
        starts = np.cumsum((0, *sizes[:-1]))
        hot[starts + np.atleast_1d(action)[: len(sizes)]] = 1
    return hot
