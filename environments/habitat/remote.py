"""Habitat-lab's ObjectNav task in its own Python environment, which environment.py starts.

Config, dataset, episodes, task, sensors and measures are habitat-lab's. The simulator is habitat-sim with HM3D's scans
(`scenes: hm3d`; written from the documentation and never run by this project) or the generated houses
(`scenes: embedded`).
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import UserError
from . import dataset, experts, shim
from .furniture import CATEGORIES, NAMES, WORDS
from .houses import ROOMS_OF

CONFIG = "benchmark/nav/objectnav/objectnav_hm3d.yaml"
ACTIONS = experts.ACTIONS
HOUSES = Path(sys.prefix) / "houses"  # data sets of generated houses, in the interpreter's folder
LOOK = 1.0  # metres ahead of the camera; the room at that point is the room in view, also in a doorway
SPLITS = {"train": "train", "evaluation": "val"}  # our split -> habitat's

Observation = dict
Info = dict


def make(task: str, options: dict[str, Any], *, split: str, labels: bool) -> ObjectNav:
    """Make the environment.

    Args:
        task: Not used; there is one task.
        options: The options of environment.py's Defaults, without `python`.
        split: "train" or "evaluation".
        labels: Whether to add the simulator's ground truth to `info`.

    Raises:
        UserError: If scenes=hm3d and habitat-sim is not installed or labels are requested, or no episode has a path of
            at most `farthest`.
    """
    if options["scenes"] == "hm3d" and not shim.installed():
        raise UserError(
            "scenes=hm3d needs habitat-sim, which has no pip package; make a conda environment "
            "with `conda install habitat-sim withbullet headless -c conda-forge -c aihabitat` and `pip install "
            "habitat-lab`, and set environment_options.python to its interpreter; or use scenes=embedded"
        )
    if options["scenes"] == "hm3d" and labels:
        raise UserError("labels exist only for the generated houses; use scenes=embedded, or labels=False")
    return ObjectNav(options, SPLITS[split], labels)


class ObjectNav:
    """Adapter from habitat's RLTaskEnv to the environment contract.

    `proprio` [14]: position relative to the start (metres ahead, metres to the right), sine and cosine of the turn
    since the start, the previous action and the goal's category as one-hot vectors.

    Args:
        options: The options of environment.py's Defaults.
        split: Habitat's split, "train" or "val".
        labels: Whether to add the simulator's ground truth to `info`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, options: dict[str, Any], split: str, labels: bool) -> None:
        shim.prepare()
        import habitat
        from habitat.core.environments import RLTaskEnv

        self._labels = labels
        expert = experts.EXPERTS[options.get("oracle", "shortest")]
        self._expert = experts.ScanExpert() if options["scenes"] == "hm3d" else expert()
        width, height = [int(side) for side in options["frame_size"].split("x")]
        if options["scenes"] == "embedded":
            from . import sim  # noqa: F401  # registers the simulator
        config = habitat.get_config(CONFIG, [*_overrides(options, width, height), *_scenes(options, split)])
        self._env = RLTaskEnv(config)
        self._habitat = self._env.habitat_env
        self._episodes = _within(self._habitat.episodes, options.get("farthest"))
        self._previous = -1
        box = {"type": "Box", "low": 0, "high": 255, "shape": [height, width, 3], "dtype": "uint8"}
        shape = [4 + len(ACTIONS) + len(CATEGORIES)]
        proprio = {"type": "Box", "low": -math.inf, "high": math.inf, "shape": shape, "dtype": "float32"}
        self.observation_space = {"frame": box, "proprio": proprio}
        self.action_space = {"type": "Discrete", "n": len(ACTIONS)}

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Begin the episode of the data set that a seed chooses.

        Args:
            seed: Seed of the choice; equal seeds give equal episodes.

        Returns:
            Observation and info.
        """
        number = int(np.random.default_rng(seed).integers(len(self._episodes)))
        self._habitat.current_episode = self._episodes[number]
        self._previous = -1
        self._expert.reset()
        observations, metrics = self._env.reset(return_info=True)
        return self._observation(observations), self._info(metrics)

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Take one action.

        Args:
            action: Index of ACTIONS; "stop" terminates the episode, any other end truncates it.

        Returns:
            Observation, reward, terminated, truncated and info.
        """
        self._previous = int(action)
        observations, reward, done, metrics = self._env.step(ACTIONS[self._previous])
        stopped = ACTIONS[self._previous] == "stop"
        return self._observation(observations), float(reward), stopped, done and not stopped, self._info(metrics)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method by name.

        Args:
            name: "oracle_action" = return the expert's next action; "house" = return the name of the scene; "begin" =
                move the episode to another start and return observation and info.
            arguments: For "begin": the scene, the goal's category, the position and the rotation.

        Raises:
            UserError: If the name is unknown, or no episode of the data set has the scene and the goal.
        """
        if name == "oracle_action":
            return ACTIONS.index(self._expert.action(self._habitat))
        if name == "house":
            return Path(self._habitat.current_episode.scene_id).name
        if name == "begin":
            return self._begin(*arguments)
        raise UserError(f"{name!r} is not a method of this environment; use 'oracle_action', 'house' or 'begin'")

    def _begin(self, scene_id: str, goal: str, position: Any, rotation: Any) -> tuple[Observation, Info]:
        """Reset to a start that is not in the data set, in a scene and with a goal that are."""
        scene = Path(scene_id).name
        episodes = [episode for episode in self._habitat.episodes if Path(episode.scene_id).name == scene]
        episodes = [episode for episode in episodes if episode.object_category == goal]
        if not episodes:
            raise UserError(f"no episode of the data set is in the scene {scene} with the goal {goal}")
        # A shallow copy shares the goals; the cached shortest path belongs to the other start.
        episode = copy.copy(episodes[0])
        episode.start_position, episode.start_rotation = list(position), list(rotation)
        episode._shortest_path_cache = None
        self._habitat.current_episode = episode
        self._previous = -1
        self._expert.reset()
        observations, metrics = self._env.reset(return_info=True)
        return self._observation(observations), self._info(metrics)

    def close(self) -> None:
        """Close habitat's environment."""
        self._env.close()

    def _observation(self, observations: Any) -> Observation:
        ahead, right = observations["gps"]
        turn = float(observations["compass"][0])
        previous = [float(action == self._previous) for action in range(len(ACTIONS))]
        goal = [float(number == observations["objectgoal"][0]) for number in range(len(CATEGORIES))]
        proprio = [ahead, right, math.sin(turn), math.cos(turn), *previous, *goal]
        return {"frame": observations["rgb"][..., :3], "proprio": np.array(proprio, np.float32)}

    def _info(self, metrics: dict[str, Any]) -> Info:
        info: Info = {"success": bool(metrics["success"])}
        info["measures"] = {name: float(metrics[name]) for name in ("spl", "soft_spl", "distance_to_goal")}
        info["context"] = {"target": WORDS[self._habitat.current_episode.object_category]}
        return {**info, **self._ground_truth()} if self._labels else info

    def _ground_truth(self) -> Info:
        """Return visible furniture as `labels` and `segmentation`, as in Doom's info, and the `scene`."""
        simulator = self._habitat.sim
        owners = simulator.draw()[1]
        segmentation = np.zeros(owners.shape, np.uint8)
        labels = []
        for owner in np.unique(owners[owners > 0]).tolist():
            piece, mask = simulator.house.pieces[owner - 1], owners == owner
            distance = math.dist(simulator.position, (piece.x, piece.z))
            labels.append({"name": NAMES[piece.kind], "box": _box(mask), "distance": distance})
            segmentation[mask] = len(labels)
        return {"labels": labels, "segmentation": segmentation, "scene": self._scene()}

    def _scene(self) -> Info:
        """Return the type of the room in view and, for each goal, whether such rooms usually have it."""
        simulator = self._habitat.sim
        x, z = simulator.position - LOOK * np.array([math.sin(simulator.heading), math.cos(simulator.heading)])
        room = simulator.house.room_at(x, z) or simulator.house.room_at(*simulator.position)
        return {"room": room.type, "kept": {WORDS[goal]: room.type in ROOMS_OF[goal] for goal in CATEGORIES}}


def _overrides(options: dict[str, Any], width: int, height: int) -> list[str]:
    camera = "habitat.simulator.agents.main_agent.sim_sensors"
    return [
        f"{camera}.rgb_sensor.width={width}",
        f"{camera}.rgb_sensor.height={height}",
        f"~{camera}.depth_sensor",
        "~habitat.task.actions.look_up",  # PR2L's four actions
        "~habitat.task.actions.look_down",
        "habitat.task.success_measure=success",  # the config of HM3D rewards SPL instead
        "habitat.task.success_reward=2.5",
        "habitat.task.slack_reward=-0.001",  # as in habitat-baselines' DD-PPO config for HM3D
        f"habitat.environment.max_episode_steps={options['horizon']}",
    ]


def _scenes(options: dict[str, Any], split: str) -> list[str]:
    """Return config overrides for the simulator and its episodes."""
    if options["scenes"] == "hm3d":
        data = options["data"]
        episodes = f"{data}/datasets/objectnav/hm3d/v1/{{split}}/{{split}}.json.gz"
        # Hydra interprets braces that are not quoted.
        return [
            f"habitat.dataset.split={split}",
            f"habitat.dataset.data_path='{episodes}'",
            f"habitat.dataset.scenes_dir='{data}/scene_datasets'",
        ]
    houses = options["houses"] if split == "train" else dataset.HELD_OUT
    file = dataset.write(HOUSES, split, options["rooms"], houses)
    return [
        "habitat.simulator.type=Houses-v0",
        f"habitat.dataset.split={split}",
        f"habitat.dataset.data_path='{file}'",
        f"habitat.dataset.scenes_dir='{file.parent}'",
    ]


def _within(episodes: list[Any], farthest: float | None) -> list[Any]:
    """Return the episodes whose shortest path is at most `farthest` metres; None = all."""
    if farthest is None:
        return list(episodes)
    episodes_within = [episode for episode in episodes if episode.info["geodesic_distance"] <= farthest]
    if not episodes_within:
        shortest = min(episode.info["geodesic_distance"] for episode in episodes)
        raise UserError(f"no episode has a path of at most {farthest:g} m; the shortest is {shortest:.2f} m")
    return episodes_within


def _box(mask: NDArray[np.bool_]) -> list[int]:
    """Return the box (x0, y0, x1, y1) around the pixels that are set, ends exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def checks(options: dict[str, Any]) -> Iterator[tuple[str, bool, str, str]]:
    """Yield the checks of the installation, where each depends on the earlier ones.

    Args:
        options: The options of environment.py's Defaults.

    Yields:
        (name, whether it works, what was found, the next step if it does not work).
    """
    reinstall = "run `pr2l sim install habitat-lite` again"
    try:
        shim.prepare()
        import habitat

        yield "habitat-lab", True, f"{habitat.__version__}, NumPy {np.__version__}", ""
    except Exception as error:
        yield "habitat-lab", False, repr(error), reinstall
        return
    result = "installed" if shim.installed() else "absent: the generated houses stand in for it"
    yield (
        "habitat-sim",
        shim.installed() or options["scenes"] == "embedded",
        result,
        "conda install habitat-sim -c aihabitat",
    )
    try:
        env = make("objectnav", options, split="train", labels=options["scenes"] == "embedded")
        observation, info = env.reset(0)
        yield "first frame", True, f"{observation['frame'].shape}, brightness {observation['frame'].mean():.0f}", ""
    except Exception as error:
        yield "first frame", False, repr(error), f"{reinstall}, and check that {HOUSES} is writable"
        return
    steps, done = 0, False
    while not done:
        _, _, terminated, truncated, info = env.step(env.call("oracle_action"))
        steps, done = steps + 1, terminated or truncated
    result = f"{info['context']['target']}: {steps} steps, success {info['success']}, SPL {info['measures']['spl']:.2f}"
    yield "a whole episode", info["success"], result, "please report it: the shortest path should have led there"
    env.close()
