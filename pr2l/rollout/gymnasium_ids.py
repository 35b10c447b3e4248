"""Gymnasium ids for every task of every environment: gymnasium.make("pr2l/doom-fetch-v0").

`import pr2l` is enough to use them; Gymnasium 1 has no entry points for that. An environment's module, and with it its
simulator, is imported when one of its ids is asked for, so importing pr2l stays cheap and there is no list of tasks to
keep.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs import registration

from pr2l.core import registry

NAMESPACE = "pr2l"


class LazyRegistry(dict[str, registration.EnvSpec]):
    """Gymnasium's registry, which registers the tasks of an environment when the first of them is looked up."""

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self and key.startswith(f"{NAMESPACE}/"):
            register(key.removeprefix(f"{NAMESPACE}/"))
        return super().get(key, default)


def install() -> None:
    """Let Gymnasium find the ids of pr2l; doing it again changes nothing."""
    if not isinstance(registration.registry, LazyRegistry):
        registration.registry = gym.registry = gym.envs.registry = LazyRegistry(registration.registry)


def register(name: str) -> None:
    """Register all tasks of the environment that an id belongs to.

    Args:
        name: An id without its namespace, "ENVIRONMENT-TASK-v0".
    """
    environments = [known for known in registry.names("environments") if name.startswith(f"{known}-")]
    if not environments:
        return
    environment = max(environments, key=len)
    ids = {f"{NAMESPACE}/{environment}-{task}-v0": task for task in registry.load("environments", environment).TASKS}
    for env_id in ids.keys() - registration.registry.keys():
        kwargs = {"environment": environment, "task": ids[env_id]}
        gym.register(env_id, entry_point=f"{__name__}:make", kwargs=kwargs)


def make(
    environment: str,
    task: str,
    *,
    split: str = "train",
    labels: bool = False,
    render_mode: str | None = None,
    **options: Any,
) -> gym.Env[Any, Any]:
    """Make the environment of an id.

    Args:
        environment, task: Filled in by the id.
        split: "train" or "evaluation".
        labels: Whether infos hold the simulator's ground truth.
        render_mode: None or "rgb_array"; `render` gives the current frame with both.
        options: Fields of the environment's Defaults, such as frame_skip=8.

    Raises:
        ValueError: Another render mode, or an option that the environment refuses.
    """
    module = registry.load("environments", environment)
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"{render_mode!r} is no render mode of {environment}: it has rgb_array")
    env: gym.Env[Any, Any] = module.make(task, module.Defaults(**options), split=split, labels=labels)
    return env
