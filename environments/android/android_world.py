"""Tasks of AndroidWorld as a source of episodes; Python >= 3.11 with android_world, which needs its own pins.

A task is a template with random parameters. AndroidWorld sets up the apps (`initialize_task`), reads success from the
phone (`is_successful`) and cleans up (`tear_down`). Its score is 1 for success and 0 for failure, or for tasks of
several parts the share of parts that are done. It is read only if the agent has declared the end, as in
suite_utils._run_task of google-research/android_world at d9c569f.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ..common.screen_actions import ScreenAction

SPLITS = ("train", "evaluation")  # the seeds of the parameters of the two splits differ


def step_limit(complexity: float) -> int:
    """Return the step limit of a task, as suite_utils._allocate_step_budget does.

    Args:
        complexity: The task's complexity.
    """
    return int(10 * complexity)


def parameter_seed(split: str, seed: int) -> int:
    """Return AndroidWorld's seed of an episode, in 0..2^32 - 1.

    Args:
        split: One of SPLITS.
        seed: The seed of the episode.
    """
    return int(np.random.SeedSequence([SPLITS.index(split), seed]).generate_state(1)[0])


class AndroidWorld:
    """Source of episodes of one AndroidWorld task.

    Args:
        task: The name of the task in AndroidWorld's registry.
        split: One of SPLITS.
        limit: Steps of an episode; None = AndroidWorld's limit for the task.
        world: AndroidWorld's environment of the phone, from `connect`.
    """

    def __init__(self, task: str, split: str, limit: int | None, world: Any) -> None:
        from android_world import registry

        self._type = registry.TaskRegistry().get_registry("android_world")[task]
        self._split, self._limit, self._world = split, limit, world
        self._task: Any = None

    def begin(self, seed: int) -> tuple[str, int]:
        """Set up the task with the parameters of a seed and go to the home screen.

        Args:
            seed: The seed of the episode.

        Returns:
            The instruction and the step limit.
        """
        self.end()
        self._type.set_device_time(self._world)
        number = parameter_seed(self._split, seed)
        random.seed(number)
        task = self._type({**self._type.generate_random_params(), "seed": number})
        task.initialize_task(self._world)
        self._task = task
        self._world.reset(go_home=task.start_on_home_screen)
        self._world.hide_automation_ui()
        return task.goal, self._limit or step_limit(task.complexity)

    def score(self, end: ScreenAction | None) -> float:
        """Return AndroidWorld's score in 0..1.

        Args:
            end: The action with which the agent has declared the end, which can be the answer to the task's question.
                None = it has not; the score is then 0.
        """
        if end is None:
            return 0.0
        if end.type == "answer":
            self._world.interaction_cache = end.text
        return float(self._task.is_successful(self._world))

    def end(self) -> None:
        """Clean up after the episode, if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.tear_down(self._world)

    def labels(self) -> list[dict[str, Any]]:
        """Return the visible elements of the screen: name, box as fractions of the screen, and distance 0.

        An element without a text or a description has the name of its class, such as "Button".
        """
        width, height = self._world.logical_screen_size
        return [
            {"name": _name(element), "box": _box(element.bbox_pixels, width, height), "distance": 0.0}
            for element in self._world.controller.get_ui_elements()
            if element.bbox_pixels is not None
        ]


def connect(env: Any, elements: str) -> Any:
    """Return AndroidWorld's AsyncAndroidEnv for a phone, with its fixed date.

    Args:
        env: The AndroidEnv of the phone.
        elements: How to read the elements of the screen, a name of AndroidWorld's A11yMethod in lower case. Its own
            "a11y_forwarder_app" is a service that it downloads and installs on the phone.
    """
    from android_world.env import (
        android_world_controller,
        env_launcher,
        interface,
    )

    method = android_world_controller.A11yMethod[elements.upper()]
    world = interface.AsyncAndroidEnv(android_world_controller.AndroidWorldController(env, method))
    env_launcher.setup_env(world)
    return world


def _name(element: Any) -> str:
    return element.text or element.content_description or (element.class_name or "").rpartition(".")[2]


def _box(box: Any, width: int, height: int) -> tuple[float, float, float, float]:
    return box.x_min / width, box.y_min / height, box.x_max / width, box.y_max / height
