"""Minecraft through MineDojo, in MineDojo's own Python environment: Python 3.9, numpy and minedojo only.

This module adds shaped rewards, a time limit and seeded episodes to the environment of dojo.py, and removes invalid
parts of actions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..base import UserError
from . import dojo, spaces
from .checks import checks
from .labels import labels, nearest
from .rewards import Approach, Attack
from .tasks import PAPER_TASKS

__all__ = ["Minecraft", "checks", "make"]

SPLITS = ("train", "evaluation")
CLEAN = ("/kill @e[type=!player]", "/clear", "/kill @e[type=item]")  # before a reset, as MineCLIP's environments do


def make(task: str, options: dict[str, Any], *, split: str, labels: bool) -> Minecraft:
    """Make the environment of a task.

    Args:
        task: A key of PAPER_TASKS, or a task id of MineDojo, which has its own sparse reward.
        options: The options of environment.py's Defaults.
        split: "train" or "evaluation".
        labels: Whether to add the lidar's ground truth to `info`.

    Raises:
        UserError: If the task or the split is unknown.
    """
    if split not in SPLITS:
        raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
    return Minecraft(task, options, split=SPLITS.index(split), labels=labels)


class Minecraft:
    """Environment with one player in one world, which all episodes share.

    The seed and the split determine the positions of a task's mobs, but not their behaviour. An episode terminates
    after success, after death, or if the task's tool is lost or worn out. It is truncated after `horizon` steps. `info`
    has `context`, `success`, `seed`, and with labels=True `labels` (see labels.py). If Minecraft does not answer, ends
    its mission, or gives a NaN on which the reward or the end of the episode depends, a method raises RuntimeError, and
    the object cannot be used again. A NaN in the player's position or direction is in proprio, which the caller checks.

    Args:
        task: A key of PAPER_TASKS, or a task id of MineDojo.
        options: The options of environment.py's Defaults.
        split: The index of the split in SPLITS.
        labels: Whether to add the lidar's ground truth to `info`.

    Raises:
        UserError: If the task is unknown, an option does not apply to it, or no port of `existing_ports` is free.
    """

    def __init__(self, task: str, options: dict[str, Any], *, split: int, labels: bool) -> None:
        self._row, self._options, self._split, self._labels = PAPER_TASKS.get(task), options, split, labels
        self._actions: str = options["actions"]
        self._height, self._width = options["image_size"]
        self._success, self._attack, self._approach = (self._weight(of) for of in ("success", "attack", "approach"))
        if self._approach and not self._row:
            names = ", ".join(PAPER_TASKS)
            raise UserError(f"approach_reward: {task!r} has no mob to approach; only {names} have one")
        self.action_space = spaces.action_space(self._actions)
        self.observation_space = spaces.observation_space(self._height, self._width, self._actions)
        self._env = dojo.make(task, options, lidar=labels or self._approach > 0)
        self._port = dojo.claim(options["existing_ports"])
        self._started = False

    def reset(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode of a seed; the first call starts Minecraft.

        Args:
            seed: Seed of the mobs of this episode, together with the split.

        Returns:
            The observation, {"frame": uint8 [H, W, 3], "proprio": float32 [P]}, and the info.
        """
        if not self._started:
            dojo.attach(self._port)
        elif self._row:
            for command in CLEAN:
                self._env.unwrapped.execute_cmd(command)
        self._started, self._seed, self._steps = True, seed, 0
        dojo.seed_mobs(self._env, int(np.random.SeedSequence([self._split, seed]).generate_state(1)[0]))
        self._observations = self._env.reset()
        self._hits = Attack(self._durability())
        self._gains = Approach(self._distance())
        return self._observation(None), self._info()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Take one action.

        Args:
            action: With actions="discrete" an index of spaces.DISCRETE, with "full" 8 integers.

        Returns:
            Observation, reward, terminated, truncated and info.
        """
        full_action = spaces.DISCRETE[int(action)] if self._actions == "discrete" else action
        self._observations, reward, _, _ = self._env.step(self._allowed(np.array(full_action)))
        self._steps += 1
        hit = self._hits(self._durability())
        reward = self._success * reward - self._options["step_penalty"] + self._attack * hit
        reward += self._approach * self._gains(self._distance(), bool(hit))
        terminated = self._successful() or self._lost()
        truncated = self._steps >= self._options["horizon"] and not terminated
        return self._observation(action), float(reward), terminated, truncated, self._info()

    def call(self, name: str, *arguments: Any) -> Any:
        """Refuse every call, because this environment has no other methods.

        Args:
            name: Name of the method, for the error message.
            arguments: Not used.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{name!r} is not a method of Minecraft, which has no oracle")

    def close(self) -> None:
        """Close MineDojo's environment."""
        self._env.close()

    def _weight(self, name: str) -> float:
        """Return the weight of a reward term: the option or, if that is None, the value of the row.

        A task without a row has the weight 1 for success and 0 for the shaped terms.
        """
        weight = self._options[f"{name}_reward"]
        default = getattr(self._row, f"{name}_reward", float(name == "success"))
        return float(default if weight is None else weight)

    def _allowed(self, action: np.ndarray) -> np.ndarray:
        """Remove the functional part of an action that MineDojo's masks forbid, such as crafting without material."""
        kind, masks = int(action[5]), self._observations["masks"]
        argument = int(action[6] if kind == 4 else action[7])
        mask_name = spaces.ARGUMENTS.get(kind)
        if not masks["action_type"][kind] or (mask_name and not masks[mask_name][argument]):
            action[5:] = spaces.NO_OP[5:]
        return action

    def _durability(self) -> float:
        return self._number("inventory", "cur_durability")

    def _distance(self) -> float | None:
        return nearest(self._observations["rays"], self._row.lidar_name) if self._approach > 0 and self._row else None

    def _successful(self) -> bool:
        return bool(getattr(self._env, "is_successful", False))  # MineDojo's "open-ended" has no goal

    def _lost(self) -> bool:
        """Return whether the player is dead or has lost the tool of the task; a respawned player has no tool."""
        tool = self._row is not None and "mainhand" in self._row.inventory
        dead = self._number("life_stats", "life") <= 0
        return dead or bool(tool and self._observations["inventory"]["name"][0] == "air")

    def _number(self, group: str, name: str) -> float:
        """Return a number of MineDojo's observation; a NaN would never be a hit or a death, without any message."""
        value = float(self._observations[group][name][0])
        if not math.isfinite(value):
            raise RuntimeError(f"Minecraft gave {group}.{name} = {value}")
        return value

    def _observation(self, action: Any) -> dict[str, np.ndarray]:
        stats, blocks = self._observations["location_stats"], self._observations["voxels"]["block_name"]
        frame = np.ascontiguousarray(self._observations["rgb"].transpose(1, 2, 0))  # [3, H, W] -> [H, W, 3]
        return {"frame": frame, "proprio": spaces.proprio(stats, blocks, self._actions, action)}

    def _info(self) -> dict[str, Any]:
        context = self._row.contexts[0] if self._row else {}
        info = {"context": dict(context), "success": self._successful(), "seed": self._seed}
        if self._labels:
            stats = self._observations["location_stats"]
            yaw, pitch = (float(stats[angle][0]) for angle in ("yaw", "pitch"))
            info["labels"] = labels(self._observations["rays"], yaw, pitch, self._height, self._width)
        return info
