"""A habitat simulator for the generated houses, in place of habitat-sim.

It is registered as Houses-v0; the name of a scene is the name of a house (`houses.house_name`). The agent is a disc
with the config's radius that stops at obstacles without sliding. Call `shim.prepare()` before importing this module.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import quaternion
from gym import spaces
from habitat.core.registry import registry
from habitat.core.simulator import AgentState, Observations, RGBSensor, SensorSuite, Simulator
from habitat.sims.habitat_simulator.actions import HabitatSimActions
from numpy.typing import NDArray

from .dataset import RADIUS, floor
from .houses import House, house
from .paths import Floor, ShortestPaths
from .renderer import Renderer
from .scene import Mesh, mesh

Floats = NDArray[np.float64]
Picture = tuple  # frame uint8 [H, W, 3], owner of each pixel int64 [H, W]


class Camera(RGBSensor):
    """RGB sensor whose observation is the simulator's frame."""

    def _get_observation_space(self, *arguments: Any, **options: Any) -> spaces.Box:
        return spaces.Box(0, 255, (self.config.height, self.config.width, 3), np.uint8)

    def get_observation(self, simulator: HousesSimulator) -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = simulator.draw()[0].copy()
        return frame


@lru_cache(maxsize=64)
def _mesh(name: str) -> Mesh:
    return mesh(house(name))


@registry.register_simulator(name="Houses-v0")
class HousesSimulator(Simulator):
    """Simulator of an agent in a generated house.

    Args:
        config: Habitat's simulator config.

    Raises:
        ValueError: If the agent's radius is not dataset.RADIUS.
    """

    def __init__(self, config: Any) -> None:
        self.habitat_config = config
        self._agent = config.agents[config.agents_order[0]]
        if self._agent.radius != RADIUS:
            raise ValueError(f"the floors of the houses are made for a radius of {RADIUS} m, not {self._agent.radius}")
        camera = self._agent.sim_sensors.rgb_sensor
        self._renderer = Renderer(camera.width, camera.height, camera.hfov)
        self._eye = camera.position[1]
        self._sensors = SensorSuite([Camera(config=camera)])
        self._rng = np.random.default_rng(config.seed)
        self._position, self._heading, self._collided = np.zeros(2), 0.0, False
        self._paths: tuple[bytes, ShortestPaths] | None = None
        self._cached: tuple[tuple[str, float, float, float], Picture] | None = None  # last pose and its picture
        self.reconfigure(config)

    @property
    def sensor_suite(self) -> SensorSuite:
        return self._sensors

    @property
    def action_space(self) -> spaces.Discrete:
        return spaces.Discrete(4)

    @property
    def house(self) -> House:
        """The house of the current scene."""
        return house(self._name)

    @property
    def floor(self) -> Floor:
        """The walkable floor of the current scene."""
        return floor(self._name)

    @property
    def position(self) -> Floats:
        """The agent's position (x, z) in metres, [2]."""
        return self._position

    @property
    def heading(self) -> float:
        """The agent's heading in radians, counter-clockwise from -z."""
        return self._heading

    @property
    def previous_step_collided(self) -> bool:
        return self._collided

    def seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def reconfigure(self, config: Any, episode: Any = None) -> None:
        """Set the scene and the start pose from a config.

        Args:
            config: Habitat's simulator config; the base name of its `scene` is the name of the house.
            episode: Not used.
        """
        name = os.path.basename(config.scene)
        start = config.agents[config.agents_order[0]]
        self._name, self._paths = name, None
        self._start = list(start.start_position), list(start.start_rotation)

    def reset(self) -> Observations:
        self.set_agent_state(*self._start)
        self._collided = False
        return self._sensors.get_observations(self)

    def step(self, action: int | None, *arguments: Any, **options: Any) -> Observations:
        """Take an action and return the observations.

        Args:
            action: One of HabitatSimActions; any other value = stand still.
            arguments: Not used.
            options: Not used.
        """
        self._collided = False
        turn = math.radians(self.habitat_config.turn_angle)
        if action == HabitatSimActions.move_forward:
            self._position, self._collided = self.floor.move(self._position, self.ahead(self._heading))
        elif action in (HabitatSimActions.turn_left, HabitatSimActions.turn_right):
            self._heading += turn if action == HabitatSimActions.turn_left else -turn
        return self._sensors.get_observations(self)

    def step_physics(self, seconds: float) -> None:
        """Do nothing, because no object moves by itself.

        Args:
            seconds: Not used.
        """

    def ahead(self, heading: float) -> Floats:
        """Return the position [2] after an unblocked step forward with a heading in radians.

        Args:
            heading: 0 = along -z, counter-clockwise.

        Returns:
            (x, z) in metres.
        """
        return self._position - self.habitat_config.forward_step_size * np.array([math.sin(heading), math.cos(heading)])

    def draw(self) -> Picture:
        """Render the current pose.

        Returns:
            The frame, uint8 [H, W, 3], and for each pixel 1 + the index of its piece, or 0, int64 [H, W].
        """
        x, z = self._position.tolist()
        pose = (self._name, x, z, self._heading)
        if self._cached is None or self._cached[0] != pose:
            self._cached = pose, self._renderer.draw(_mesh(self._name), np.array([x, self._eye, z]), self._heading)
        return self._cached[1]

    def get_agent_state(self, agent_id: int = 0) -> AgentState:
        x, z = self._position
        rotation = quaternion.from_rotation_vector([0, self._heading, 0])
        return AgentState(np.array([x, 0.0, z]), rotation)

    def set_agent_state(self, position: Sequence[float], rotation: Any, *arguments: Any, **options: Any) -> bool:
        """Set the agent's pose.

        Args:
            position: (x, y, z) in metres; y is ignored.
            rotation: A quaternion, or its values (x, y, z, w).
            arguments: Not used.
            options: Not used.

        Returns:
            Whether the position is navigable.
        """
        if isinstance(rotation, quaternion.quaternion):
            rotation = [rotation.x, rotation.y, rotation.z, rotation.w]
        self._position = np.array([position[0], position[2]], float)
        self._heading = 2 * math.atan2(rotation[1], rotation[3])
        return self.is_navigable(position)

    def get_observations_at(
        self, position: Sequence[float] | None = None, rotation: Any = None, keep_agent_at_new_pose: bool = False
    ) -> Observations | None:
        before = self._position, self._heading
        if position is not None and not self.set_agent_state(position, rotation):
            self._position, self._heading = before
            return None
        observations = self._sensors.get_observations(self)
        if not keep_agent_at_new_pose:
            self._position, self._heading = before
        return observations

    def geodesic_distance(self, position_a: Any, position_b: Any, episode: Any = None) -> float:
        """Return the length of the shortest path in metres; inf if there is no path.

        Args:
            position_a: The start (x, y, z).
            position_b: One or several goals (x, y, z), of which the nearest counts.
            episode: Not used.
        """
        return float(self.paths_to(position_b).distances(_plan([position_a]))[0])

    def paths_to(self, goals: Any) -> ShortestPaths:
        """Return the shortest paths to the nearest of some goals; the last result is cached.

        Args:
            goals: One or several points (x, y, z).
        """
        points = _plan(goals)
        key = points.tobytes()
        if self._paths is None or self._paths[0] != key:
            self._paths = key, _paths(self._name, key)
        return self._paths[1]

    def get_straight_shortest_path_points(self, position_a: Any, position_b: Any) -> list[list[float]]:
        path = self.paths_to([position_b]).path(_plan([position_a])[0])
        return [[float(x), 0.0, float(z)] for x, z in path]

    def is_navigable(self, point: Sequence[float]) -> bool:
        return bool(self.floor.free(_plan([point]))[0])

    def sample_navigable_point(self) -> list[float]:
        rect = np.array(self.house.rect)
        while True:
            x, z = self._rng.uniform(rect[:2], rect[2:])
            if self.is_navigable([x, 0.0, z]):
                return [float(x), 0.0, float(z)]

    @property
    def up_vector(self) -> Floats:
        return np.array([0.0, 1.0, 0.0])

    @property
    def forward_vector(self) -> Floats:
        return np.array([0.0, 0.0, -1.0])

    def render(self, mode: str = "rgb") -> NDArray[np.uint8]:
        frame: NDArray[np.uint8] = self.draw()[0].copy()
        return frame

    def close(self, destroy: bool = True) -> None:
        """Do nothing, because there are no resources to free.

        Args:
            destroy: Not used.
        """


@lru_cache(maxsize=256)
def _paths(name: str, goals: bytes) -> ShortestPaths:
    return floor(name).paths_to(np.frombuffer(goals).reshape(-1, 2))


def _plan(points: Any) -> Floats:
    """Return one or several points (x, y, z) as (x, z), [P, 2]."""
    return np.ascontiguousarray(np.array(points, float).reshape(-1, 3)[:, [0, 2]])
