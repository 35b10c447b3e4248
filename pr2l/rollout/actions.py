"""Actions of any space: as the environment takes them, and as JSON that gives them back bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def as_action(space: spaces.Space[Any], action: Any) -> Any:
    """Convert an action to its space's types: a copy that the environment may keep or change.

    Args:
        space: The action space. Spaces other than those of `action_to_json` are left alone.
        action: Such as an algorithm's row of a batch, or what `action_to_json` made.

    Returns:
        np.int64 for Discrete, an array of the space's dtype for Box, MultiDiscrete and MultiBinary, a str for Text, and
        a dict or a tuple of these for Dict and Tuple.
    """
    if isinstance(space, spaces.Dict):
        return {key: as_action(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(as_action(part, each) for part, each in zip(space.spaces, action, strict=True))
    if isinstance(space, spaces.Discrete):
        return np.int64(np.asarray(action).item())
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.array(action, space.dtype)
    return str(action) if isinstance(space, spaces.Text) else action


def action_to_json(space: spaces.Space[Any], action: Any) -> Any:
    """Convert an action that `as_action` made to JSON values, from which `as_action` makes it again.

    Args:
        space: The action space: Discrete, Box, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of these.
        action: An action of that space.
    """
    if isinstance(space, spaces.Dict):
        return {key: action_to_json(part, action[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [action_to_json(part, each) for part, each in zip(space.spaces, action, strict=True)]
    return action if isinstance(action, str) else np.asarray(action).tolist()
