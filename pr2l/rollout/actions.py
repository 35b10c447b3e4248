"""Conversion of actions of any space to the types of the space, and to JSON and back without loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def as_action(space: spaces.Space[Any], action: Any) -> Any:
    """Convert an action to the types of its space.

    Args:
        space: The action space. An action of a space that `action_to_json` does not support is returned unchanged.
        action: The action, such as one row of an algorithm's batch or a result of `action_to_json`.

    Returns:
        np.int64 for Discrete, an array of the space's dtype for Box, MultiDiscrete and MultiBinary, a str for Text, and
        a dict or a tuple of these for Dict and Tuple. Arrays are copies, which the environment may keep or change.
    """
    if isinstance(space, spaces.Dict):
        return {key: as_action(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(as_action(part, value) for part, value in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Discrete):
        return np.int64(np.asarray(action).item())
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.array(action, space.dtype)
    return str(action) if isinstance(space, spaces.Text) else action


def action_to_json(space: spaces.Space[Any], action: Any) -> Any:
    """Convert an action to JSON values, which `as_action` converts back.

    Args:
        space: The action space: Discrete, Box, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of these.
        action: An action of that space, as returned by `as_action`.

    Returns:
        Numbers, strings, and nested lists and dicts of them.
    """
    if isinstance(space, spaces.Dict):
        return {key: action_to_json(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [action_to_json(part, value) for part, value in zip(space.spaces, action, strict=True)]
    return action if isinstance(action, str) else np.asarray(action).tolist()
