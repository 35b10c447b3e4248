"""Experts for ObjectNav with access to the map of the house: the shortest path, and a search like a person's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .houses import ROOMS_OF, Piece

ACTIONS = ("stop", "move_forward", "turn_left", "turn_right")
VISIBLE = 0.005  # fraction of the frame that a goal must cover to count as visible
FACED = math.radians(15.1)  # half a turning step: how closely a goal can always be centred in the frame


class Shortest:
    """Expert that follows the shortest path to a view point of the goal and stops there."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Clear the state before an episode."""
        self._visited: list[Any] = []  # positions [2] of the earlier calls in the episode

    def action(self, env: Any) -> str:
        """Return the next action, one of ACTIONS.

        Args:
            env: A habitat environment with a generated house.
        """
        simulator = env.sim
        paths = simulator.paths_to(_view_points(env))
        success_distance = env.task._config.measurements.success.success_distance
        if paths.distances(simulator.position[None])[0] < success_distance:
            return "stop"
        step = math.radians(simulator.habitat_config.turn_angle)
        turns = [turn for turn in range(-5, 7)]  # of 30 degrees; positive is left
        headings = [simulator.heading + turn * step for turn in turns]
        ends = np.array([simulator.floor.move(simulator.position, simulator.ahead(heading))[0] for heading in headings])
        # Among equal paths prefer the fewest turns. Since a step may be blocked or lead back and forth, every earlier
        # visit of a position adds to its distance.
        self._visited.append(simulator.position)
        visits = (np.linalg.norm(ends[:, None] - np.array(self._visited), axis=-1) < 0.1).sum(axis=1)
        best = turns[int((paths.distances(ends) + 0.01 * np.abs(turns) + 0.05 * visits).argmin())]
        return "move_forward" if best == 0 else "turn_left" if best > 0 else "turn_right"


class Searching(Shortest):
    """Expert that searches until a goal is in view, which makes it easier to clone than the shortest path.

    The shortest path depends on goals outside the frame, which a policy cannot see. This expert turns around once, to
    the left, in every room that usually has such objects, and follows the shortest path through the other rooms. When a
    goal has come into view, it walks to the goal and faces it before it stops.
    """

    def reset(self) -> None:
        super().reset()
        self._goal_found = False
        self._room: Any = None
        self._turns = 0  # remaining turns of looking around

    def action(self, env: Any) -> str:
        goals = _goals(env)
        self._goal_found = self._goal_found or _in_view(env.sim, goals)
        if not self._goal_found and self._looks_around(env):
            return "turn_left"
        action = super().action(env)
        return action if action != "stop" else _face(env.sim, goals)

    def _looks_around(self, env: Any) -> bool:
        room = env.sim.house.room_at(*env.sim.position)
        if room is not self._room:
            once_around = round(360 / env.sim.habitat_config.turn_angle) - 1
            self._room, self._turns = room, once_around if room.type in ROOMS_OF[_category(env)] else 0
        self._turns -= 1
        return self._turns >= 0


class ScanExpert:
    """Expert for HM3D: habitat-sim's path follower to the nearest view point; never run by this project."""

    def reset(self) -> None:
        """Do nothing, because this expert has no state."""

    def action(self, env: Any) -> str:
        """Return the next action, one of ACTIONS.

        Args:
            env: A habitat environment with habitat-sim.
        """
        from habitat.tasks.nav.shortest_path_follower import ShortestPathFollower

        here = env.sim.get_agent_state().position
        nearest = min(_view_points(env), key=lambda point: env.sim.geodesic_distance(here, point))
        follower = ShortestPathFollower(env.sim, goal_radius=0.1, return_one_hot=False)
        action = follower.get_next_action(nearest)
        return ACTIONS[int(action)] if action is not None else "stop"


EXPERTS = {"shortest": Shortest, "searching": Searching}


def _view_points(env: Any) -> list[Any]:
    return [view.agent_state.position for goal in env.current_episode.goals for view in goal.view_points]


def _category(env: Any) -> str:
    return str(env.current_episode.object_category)


def _goals(env: Any) -> dict[int, Piece]:
    """Return the pieces of the goal's category, by their number in the segmentation."""
    return {n: piece for n, piece in enumerate(env.sim.house.pieces, 1) if piece.category == _category(env)}


def _in_view(simulator: Any, goals: dict[int, Piece]) -> bool:
    return bool(np.isin(simulator.draw()[1], list(goals)).mean() >= VISIBLE)


def _face(simulator: Any, goals: dict[int, Piece]) -> str:
    """Return the action that turns to the nearest goal, or "stop" if that is in the middle of the frame."""
    x, z = simulator.position
    nearest = min(goals.values(), key=lambda piece: math.dist((x, z), _nearest_point(piece, x, z)))
    heading = math.atan2(x - nearest.x, z - nearest.z)  # counter-clockwise from north, -z
    turn = (heading - simulator.heading + math.pi) % (2 * math.pi) - math.pi
    return "stop" if abs(turn) <= FACED else "turn_left" if turn > 0 else "turn_right"


def _nearest_point(piece: Piece, x: float, z: float) -> tuple[float, float]:
    """Return the point of a piece's footprint that is nearest to (x, z)."""
    x0, z0, x1, z1 = piece.rect
    return min(max(x, x0), x1), min(max(z, z0), z1)
