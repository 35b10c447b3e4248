"""Minecraft through MineDojo, in MineDojo's own interpreter: Python 3.9, numpy and minedojo only.

Shaped rewards, a time limit, episodes that have seeds, and actions that cannot fail, around what _minecraft_dojo.py
makes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dojo, spaces
from .checks import checks
from .labels import labels, nearest
from .rewards import Approach, Attack
from .tasks import TASKS

__all__ = ["Minecraft", "checks", "make"]

SPLITS = ("train", "evaluation")
CLEAN = ("/kill @e[type=!player]", "/clear", "/kill @e[type=item]")  # before a reset, as MineCLIP's environments do


def make(task: str, options: dict[str, Any], *, split: str, labels: bool) -> Minecraft:
    """An environment for a row of TASKS or, under its own sparse reward, any task id of MineDojo.

    options: those of environment.py's Defaults. Starts nothing: Minecraft starts at the first reset.
    Raises ValueError for an unknown task or split.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
    return Minecraft(task, options, split=SPLITS.index(split), labels=labels)


class Minecraft:
    """One player in one world, which lasts from episode to episode.

    A seed (with the split) determines where the mobs of a task are summoned; what they do then, Minecraft decides.
    Terminated: success, or death, or the task's tool is lost or worn out. Truncated: after `horizon` steps.
    info: `context`, `success`, `seed`, and on request `labels` (see _minecraft_labels.py).
    A Minecraft that does not answer, or ends its mission, raises RuntimeError, after which this is of no more use.
    """

    def __init__(self, task: str, options: dict[str, Any], *, split: int, labels: bool) -> None:
        self._row, self._options, self._split, self._labels = TASKS.get(task), options, split, labels
        self._actions: str = options["actions"]
        self._height, self._width = options["image_size"]
        self._success, self._attack, self._approach = (self._weight(of) for of in ("success", "attack", "approach"))
        if self._approach and not self._row:
            raise ValueError(f"approach_reward: {task!r} names no mob to approach; only {', '.join(TASKS)} do")
        self.action_space = spaces.action_space(self._actions)
        self.observation_space = spaces.observation_space(self._height, self._width, self._actions)
        self._env = dojo.make(task, options, lidar=labels or self._approach > 0)
        self._port = dojo.claim(options["existing_ports"])
        self._started = False

    def reset(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        if not self._started:
            dojo.attach(self._port)
        elif self._row:
            for command in CLEAN:
                self._env.unwrapped.execute_cmd(command)
        self._started, self._seed, self._steps = True, seed, 0
        dojo.seed_mobs(self._env, int(np.random.SeedSequence([self._split, seed]).generate_state(1)[0]))
        self._seen = self._env.reset()
        self._hits = Attack(self._durability())
        self._gains = Approach(self._distance())
        return self._observation(None), self._info()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        chosen = spaces.DISCRETE[int(action)] if self._actions == "discrete" else action
        self._seen, reward, _, _ = self._env.step(self._allowed(np.array(chosen)))
        self._steps += 1
        hit = self._hits(self._durability())
        reward = self._success * reward - self._options["step_penalty"] + self._attack * hit
        reward += self._approach * self._gains(self._distance(), bool(hit))
        terminated = self._successful() or self._lost()
        truncated = self._steps >= self._options["horizon"] and not terminated
        return self._observation(action), float(reward), terminated, truncated, self._info()

    def call(self, name: str, *arguments: Any) -> Any:
        raise ValueError(f"Minecraft answers no call {name!r}: there is no scripted solution")

    def close(self) -> None:
        self._env.close()

    def _weight(self, name: str) -> float:
        """Of a part of the reward: the option's, or where that is None the task's; other tasks are not shaped."""
        given = self._options[f"{name}_reward"]
        of_task = getattr(self._row, f"{name}_reward", float(name == "success"))
        return float(of_task if given is None else given)

    def _allowed(self, action: np.ndarray) -> np.ndarray:
        """The action, without its functional part where MineDojo's masks forbid it: crafting from nothing, say."""
        kind, masks = int(action[5]), self._seen["masks"]
        argument = int(action[6] if kind == 4 else action[7])
        named = spaces.ARGUMENTS.get(kind)
        if not masks["action_type"][kind] or (named and not masks[named][argument]):
            action[5:] = spaces.NO_OP[5:]
        return action

    def _durability(self) -> float:
        return float(self._seen["inventory"]["cur_durability"][0])

    def _distance(self) -> float | None:
        return nearest(self._seen["rays"], self._row.seen) if self._approach > 0 and self._row else None

    def _successful(self) -> bool:
        return bool(getattr(self._env, "is_successful", False))  # MineDojo's "open-ended" has no goal

    def _lost(self) -> bool:
        """Dead, or empty-handed in a task that gives a tool: one who died was brought back to life without it."""
        tool = self._row is not None and "mainhand" in self._row.inventory
        return self._seen["life_stats"]["life"][0] <= 0 or bool(tool and self._seen["inventory"]["name"][0] == "air")

    def _observation(self, action: Any) -> dict[str, np.ndarray]:
        seen = self._seen
        numbers = spaces.proprio(seen["location_stats"], seen["voxels"]["block_name"], self._actions, action)
        return {"frame": np.ascontiguousarray(seen["rgb"].transpose(1, 2, 0)), "proprio": numbers}

    def _info(self) -> dict[str, Any]:
        context = self._row.contexts[0] if self._row else {}
        info = {"context": dict(context), "success": self._successful(), "seed": self._seed}
        if self._labels:
            stats = self._seen["location_stats"]
            yaw, pitch = (float(stats[angle][0]) for angle in ("yaw", "pitch"))
            info["labels"] = labels(self._seen["rays"], yaw, pitch, self._height, self._width)
        return info
