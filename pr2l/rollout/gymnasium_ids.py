"""Gymnasium ids for every task of every environment: gymnasium.make("pr2l/doom-fetch-v0").

`import pr2l` registers them, because Gymnasium 1 has no entry points for plug-ins. The names of the tasks are the keys
of TASKS, a dict literal, which is read from the source of an environment. So the environment, which may need a
simulator, is imported when it is made, and no list of tasks is needed.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from pr2l.core import registry
from pr2l.core.source import dict_keys

NAMESPACE = "pr2l"


def register() -> None:
    """Register an id for each task of each environment; ids that exist already stay as they are.

    An environment whose source cannot be read, or whose TASKS is not a dict literal, gets no ids. Configs and
    `pr2l list` find it nevertheless.
    """
    for environment in registry.names("environments"):
        for task in _tasks(environment):
            env_id = f"{NAMESPACE}/{environment}-{task}-v0"
            if env_id not in gym.registry:
                gym.register(env_id, f"{__name__}:make", kwargs={"environment": environment, "task": task})


def _tasks(environment: str) -> list[str]:
    try:
        return dict_keys(registry.source("environments", environment), "TASKS")
    except (ImportError, OSError, SyntaxError, ValueError):  # a broken plug-in must not break `import pr2l`
        return []


def make(
    environment: str,
    task: str,
    *,
    split: str = "train",
    labels: bool = False,
    render_mode: str | None = None,
    **options: Any,
) -> gym.Env[Any, Any]:
    """Make the environment of a Gymnasium id.

    Args:
        environment: The environment's name; the id sets it.
        task: A key of the environment's TASKS; the id sets it.
        split: "train" or "evaluation".
        labels: Whether infos contain the simulator's ground truth.
        render_mode: None or "rgb_array"; with both, `render` returns the current frame.
        options: Fields of the environment's Defaults, such as frame_skip=8.

    Raises:
        ValueError: If the render mode or an option is invalid.
    """
    module = registry.load("environments", environment)
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"{render_mode!r} is not a render mode of {environment}; use rgb_array")
    env: gym.Env[Any, Any] = module.make(task, module.Defaults(**options), split=split, labels=labels)
    return env
