"""Experts for ObjectNav that know the house: the shortest way, and one that people could have walked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .houses import ROOMS_OF, Piece

ACTIONS = ("stop", "move_forward", "turn_left", "turn_right")
SEEN = 0.005  # share of the frame that a goal covers once a person has seen it
FACED = math.radians(15.1)  # half a turn: so near to the middle of the frame can a goal always be brought


class Shortest:
    """Follows the shortest way to a view point of the goal, and stops there."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins an episode."""
        self._visited: list[Any] = []  # places [2] where it was asked

    def action(self, env: Any) -> str:
        """One of ACTIONS. env: habitat's, over a generated house."""
        simulator = env.sim
        ways = simulator.ways_to(_view_points(env))
        success_distance = env.task._config.measurements.success.success_distance
        if ways.distances(simulator.place[None])[0] < success_distance:
            return "stop"
        step = math.radians(simulator.habitat_config.turn_angle)
        turns = [turn for turn in range(-5, 7)]  # of 30 degrees; positive is left
        headings = [simulator.heading + turn * step for turn in turns]
        ends = np.array([simulator.floor.move(simulator.place, simulator.ahead(heading))[0] for heading in headings])
        # Of equal ways the one with the fewest turns is taken. A step may be blocked, or lead back and forth: the more
        # often it was somewhere, the farther it seems to be from there.
        self._visited.append(simulator.place)
        visits = (np.linalg.norm(ends[:, None] - np.array(self._visited), axis=-1) < 0.1).sum(axis=1)
        best = turns[int((ways.distances(ends) + 0.01 * np.abs(turns) + 0.05 * visits).argmin())]
        return "move_forward" if best == 0 else "turn_left" if best > 0 else "turn_right"


class Searching(Shortest):
    """Does what can be seen to be right: clones of the shortest way have nothing to go by where no goal is in view.

    Until it has seen a goal it turns once around, always to the left, in each room where people keep such things, and
    takes the door that leads on where they do not; then it walks up to it, and faces it before it stops.
    """

    def reset(self) -> None:
        super().reset()
        self._has_seen = False
        self._room: Any = None
        self._turns = 0  # to the left, that are left of looking around

    def action(self, env: Any) -> str:
        goals = _goals(env)
        self._has_seen = self._has_seen or _in_view(env.sim, goals)
        if not self._has_seen and self._looks_around(env):
            return "turn_left"
        action = super().action(env)
        return action if action != "stop" else _face(env.sim, goals)

    def _looks_around(self, env: Any) -> bool:
        room = env.sim.house.room_at(*env.sim.place)
        if room is not self._room:
            once_around = round(360 / env.sim.habitat_config.turn_angle) - 1
            self._room, self._turns = room, once_around if room.type in ROOMS_OF[_category(env)] else 0
        self._turns -= 1
        return self._turns >= 0


class Unseen:
    """habitat-sim's own path follower, to the nearest view point. Never run here."""

    def reset(self) -> None:
        """Keeps nothing."""

    def action(self, env: Any) -> str:
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
    """The pieces of the goal's category by the number that the picture has for them."""
    return {n: piece for n, piece in enumerate(env.sim.house.pieces, 1) if piece.category == _category(env)}


def _in_view(simulator: Any, goals: dict[int, Piece]) -> bool:
    return bool(np.isin(simulator.draw()[1], list(goals)).mean() >= SEEN)


def _face(simulator: Any, goals: dict[int, Piece]) -> str:
    """Turns to the nearest goal, and stops where that is in the middle."""
    x, z = simulator.place
    nearest = min(goals.values(), key=lambda piece: math.dist((x, z), _nearest_point(piece, x, z)))
    wanted = math.atan2(x - nearest.x, z - nearest.z)  # counter-clockwise from north, -z
    turn = (wanted - simulator.heading + math.pi) % (2 * math.pi) - math.pi
    return "stop" if abs(turn) <= FACED else "turn_left" if turn > 0 else "turn_right"


def _nearest_point(piece: Piece, x: float, z: float) -> tuple[float, float]:
    """Of its footprint."""
    x0, z0, x1, z1 = piece.rect
    return min(max(x, x0), x1), min(max(z, z0), z1)
