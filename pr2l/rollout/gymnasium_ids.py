"""Gymnasium ids for every task of every environment: gymnasium.make("pr2l/doom-fetch-v0").

`import pr2l` makes them available, because Gymnasium 1 has no entry points for plug-ins. The module of an environment,
which may import a simulator, is imported on the first use of one of its ids. So `import pr2l` stays fast, and no list
of tasks is needed.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs import registration

from pr2l.core import registry

NAMESPACE = "pr2l"


class LazyRegistry(dict[str, registration.EnvSpec]):
    """Registry of Gymnasium ids that registers the tasks of an environment at the first lookup of one of them."""

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self and key.startswith(f"{NAMESPACE}/"):
            register(key.removeprefix(f"{NAMESPACE}/"))
        return super().get(key, default)


def install() -> None:
    """Add the ids of pr2l to Gymnasium; a second call has no effect."""
    if not isinstance(registration.registry, LazyRegistry):
        registration.registry = gym.registry = gym.envs.registry = LazyRegistry(registration.registry)


def register(name: str) -> None:
    """Register all tasks of one environment.

    Args:
        name: An id of the environment without the namespace, "ENVIRONMENT-TASK-v0". An unknown one is ignored.
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
        raise ValueError(f"{render_mode!r} is no render mode of {environment}: it has rgb_array")
    env: gym.Env[Any, Any] = module.make(task, module.Defaults(**options), split=split, labels=labels)
    return env
