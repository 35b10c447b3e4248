"""Scripted solutions of the Doom tasks, which use ground truth.

A solution is a function from a Scene to the name of the button to hold. Angles are in degrees,
counter-clockwise; lengths are in map units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .engine import Pose
from .navigation import Point, Wall, plan
from .rewards import REACH

STRIDE = 8.0  # approximate speed in map units per tic
SHORTEST_TURN = 7.1  # degrees in one decision
MONSTER = 20.0  # the narrowest monster's radius
ALERT = 120.0  # a fireball further away than this is ignored


@dataclass(frozen=True)
class Actor:
    """Actor on the map.

    Args:
        kind: The common name of the actor, such as "medikit".
        x: Map units to the east.
        y: Map units to the north.
        vx: The velocity to the east, in map units per tic.
        vy: The velocity to the north, in map units per tic.
    """

    kind: str
    x: float
    y: float
    vx: float
    vy: float

    @property
    def position(self) -> Point:
        """The position (x, y), in map units."""
        return self.x, self.y


@dataclass(frozen=True)
class Scene:
    """State of the whole map.

    Args:
        pose: The player's position and heading.
        target: The kind that the context names.
        actors: The actors of the task.
        walls: The walls that stop the player, (x1, y1, x2, y2) each.
    """

    pose: Pose
    target: str
    actors: list[Actor]
    walls: tuple[Wall, ...]


def fetch(scene: Scene) -> str:
    """Walk to the named object and around the others.

    Args:
        scene: State of the map; one actor at least is of the kind `target`.

    Returns:
        The name of the button to hold.
    """
    goal = nearest(scene, [actor for actor in scene.actors if actor.kind == scene.target])
    obstacles = tuple((actor.x, actor.y, REACH + 6) for actor in scene.actors if actor.kind != scene.target)
    return walk_to(scene.pose, plan(goal.position, scene.walls, obstacles).waypoint((scene.pose.x, scene.pose.y)))


def hunt(scene: Scene) -> str:
    """Shoot the named monster at once, even if the shot may miss, because the monster comes nearer.

    Args:
        scene: State of the map; one actor at least is of the kind `target`.

    Returns:
        The name of the button to hold.
    """
    return shoot(scene, nearest(scene, [t for t in scene.actors if t.kind == scene.target]), SHORTEST_TURN)


def defend_the_center(scene: Scene) -> str:
    """Shoot the nearest monster and save bullets.

    Args:
        scene: State of the map, with the monsters that are alive; without any, the player turns.

    Returns:
        The name of the button to hold.
    """
    return shoot(scene, nearest(scene, scene.actors), SHORTEST_TURN / 2) if scene.actors else "TURN_LEFT"


def basic(scene: Scene) -> str:
    """Step sideways until the cacodemon is straight ahead, then shoot.

    Args:
        scene: State of the map, with the cacodemon while it is alive.

    Returns:
        The name of the button to hold.
    """
    if not scene.actors:  # it has just died
        return "ATTACK"
    target = nearest(scene, scene.actors)
    off = bearing(scene.pose, target.position)
    if abs(off) <= half_width(scene, target):
        return "ATTACK"
    return "MOVE_LEFT" if off > 0 else "MOVE_RIGHT"


def health_gathering(scene: Scene) -> str:
    """Walk to the nearest medikit.

    Args:
        scene: State of the map, with the medikits; without any, the player walks on.

    Returns:
        The name of the button to hold.
    """
    return walk_to(scene.pose, nearest(scene, scene.actors).position) if scene.actors else "MOVE_FORWARD"


def my_way_home(scene: Scene) -> str:
    """Walk the shortest way through the rooms.

    Args:
        scene: State of the map, with the green armor until it is picked up.

    Returns:
        The name of the button to hold.
    """
    if not scene.actors:  # picked up a moment ago: the script takes a tic to end the episode
        return "MOVE_FORWARD"
    goal = nearest(scene, scene.actors)
    return walk_to(scene.pose, plan(goal.position, scene.walls).waypoint((scene.pose.x, scene.pose.y)))


def take_cover(scene: Scene) -> str:
    """Step sideways, facing east, to the position farthest from all fireballs; of equal ones, to the most central.

    Args:
        scene: State of the map, with the fireballs; the walls limit the positions.

    Returns:
        The name of the button to hold.
    """
    ends = [y for wall in scene.walls for y in wall[1::2]]
    candidates = range(int(min(ends)) + 16, int(max(ends)) - 15, 32)
    middle = (min(ends) + max(ends)) / 2
    goal = max(candidates, key=lambda y: (_clearance(scene, y), -abs(y - middle)))
    return "MOVE_LEFT" if goal > scene.pose.y else "MOVE_RIGHT"


ORACLES: dict[str, Callable[[Scene], str]] = {
    "fetch": fetch,
    "hunt": hunt,
    "basic": basic,
    "defend_the_center": defend_the_center,
    "health_gathering": health_gathering,
    "my_way_home": my_way_home,
    "take_cover": take_cover,
}


def bearing(pose: Pose, point: Point) -> float:
    """Return the angle to turn left to face a point, in degrees, -180..180.

    Args:
        pose: The player's position and heading.
        point: The point (x, y), in map units.
    """
    angle = math.degrees(math.atan2(point[1] - pose.y, point[0] - pose.x)) - pose.angle
    return (angle + 180) % 360 - 180


def gap(scene: Scene, actor: Actor) -> float:
    """Return the distance between the player and an actor in map units.

    Args:
        scene: State of the map; the player's position is used.
        actor: The actor; the distance is between the centres.
    """
    return math.dist((scene.pose.x, scene.pose.y), actor.position)


def nearest(scene: Scene, actors: list[Actor]) -> Actor:
    """Return the actor that is nearest to the player.

    Args:
        scene: State of the map; the player's position is used.
        actors: At least one actor; of equally near ones, the first is returned.
    """
    return min(actors, key=lambda actor: gap(scene, actor))


def walk_to(pose: Pose, point: Point) -> str:
    """Return the button that turns towards a point or, if it is straight ahead, walks.

    Args:
        pose: The player's position and heading.
        point: The goal (x, y), in map units.
    """
    off = bearing(pose, point)
    if abs(off) <= SHORTEST_TURN:
        return "MOVE_FORWARD"
    return "TURN_LEFT" if off > 0 else "TURN_RIGHT"


def half_width(scene: Scene, monster: Actor) -> float:
    """Return the largest error of the aim with which a bullet hits a monster, in degrees.

    Args:
        scene: State of the map; the player's position is used.
        monster: The monster; its radius counts as MONSTER map units.
    """
    return math.degrees(math.atan2(MONSTER, gap(scene, monster)))


def shoot(scene: Scene, target: Actor, tolerance: float) -> str:
    """Return the button that turns towards a target or, if the aim is good enough, shoots.

    Args:
        scene: The state of the map.
        target: The monster.
        tolerance: The largest error of the aim, in degrees; a larger error is allowed if the bullet still hits.
    """
    off = bearing(scene.pose, target.position)
    if abs(off) <= max(tolerance, half_width(scene, target)):
        return "ATTACK"
    return "TURN_LEFT" if off > 0 else "TURN_RIGHT"


def _clearance(scene: Scene, goal: float) -> float:
    """Return the smallest distance of a fireball in 40 tics from a player who sidesteps to y = goal; at most ALERT."""
    closest = ALERT
    for tic in range(0, 40, 2):
        way = goal - scene.pose.y
        y = scene.pose.y + math.copysign(min(abs(way), STRIDE * tic), way)
        for ball in (actor for actor in scene.actors if actor.kind == "fireball"):
            closest = min(closest, math.dist((scene.pose.x, y), (ball.x + ball.vx * tic, ball.y + ball.vy * tic)))
    return closest
