"""Scripted solutions of the Doom tasks, from ground truth: they prove that a task can be solved.

Each is a function from the Scene to the one button to hold. Angles are in degrees, counter-clockwise;
lengths in map units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .engine import Pose
from .navigation import Point, Wall, plan
from .rewards import REACH

STRIDE = 8.0  # map units a tic at full speed, about
SHORTEST_TURN = 7.1  # degrees in one decision
MONSTER = 20.0  # the narrowest monster's radius
ALERT = 120.0  # a fireball that stays further away than this is no threat


@dataclass(frozen=True)
class Seen:
    """A live thing: its kind in words, its place, and its velocity in map units a tic."""

    kind: str
    x: float
    y: float
    vx: float
    vy: float

    @property
    def place(self) -> Point:
        return self.x, self.y


@dataclass(frozen=True)
class Scene:
    """Everything on the map: things of the task's label vocabulary, walls that stop a player."""

    pose: Pose
    target: str
    things: list[Seen]
    walls: tuple[Wall, ...]


def fetch(scene: Scene) -> str:
    """Walk to the named thing and around the others."""
    goal = nearest(scene, [thing for thing in scene.things if thing.kind == scene.target])
    others = tuple((thing.x, thing.y, REACH + 6) for thing in scene.things if thing.kind != scene.target)
    return walk_to(scene.pose, plan(goal.place, scene.walls, others).waypoint((scene.pose.x, scene.pose.y)))


def hunt(scene: Scene) -> str:
    """Shoot the named monster, soon rather than exactly: a shot that misses wakes it, and it comes nearer."""
    return shoot(scene, nearest(scene, [t for t in scene.things if t.kind == scene.target]), SHORTEST_TURN)


def defend_the_center(scene: Scene) -> str:
    """Shoot the nearest monster; bullets are few."""
    return shoot(scene, nearest(scene, scene.things), SHORTEST_TURN / 2) if scene.things else "TURN_LEFT"


def basic(scene: Scene) -> str:
    """Step sideways until the cacodemon is straight ahead, then shoot."""
    if not scene.things:  # it has just fallen
        return "ATTACK"
    target = nearest(scene, scene.things)
    off = bearing(scene.pose, target.place)
    if abs(off) <= half_width(scene, target):
        return "ATTACK"
    return "MOVE_LEFT" if off > 0 else "MOVE_RIGHT"


def health_gathering(scene: Scene) -> str:
    """Walk to the nearest medikit."""
    return walk_to(scene.pose, nearest(scene, scene.things).place) if scene.things else "MOVE_FORWARD"


def my_way_home(scene: Scene) -> str:
    """Walk the shortest way through the rooms."""
    if not scene.things:  # picked up a moment ago: the script takes a tic to end the episode
        return "MOVE_FORWARD"
    goal = nearest(scene, scene.things)
    return walk_to(scene.pose, plan(goal.place, scene.walls).waypoint((scene.pose.x, scene.pose.y)))


def take_cover(scene: Scene) -> str:
    """Facing east, step towards where the fireballs now in the air miss by most; if in doubt, the middle."""
    ends = [y for wall in scene.walls for y in wall[1::2]]
    places = range(int(min(ends)) + 16, int(max(ends)) - 15, 32)
    middle = (min(ends) + max(ends)) / 2
    goal = max(places, key=lambda y: (_clearance(scene, y), -abs(y - middle)))
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
    """Degrees to turn left to face the point, in -180..180."""
    angle = math.degrees(math.atan2(point[1] - pose.y, point[0] - pose.x)) - pose.angle
    return (angle + 180) % 360 - 180


def gap(scene: Scene, thing: Seen) -> float:
    return math.dist((scene.pose.x, scene.pose.y), thing.place)


def nearest(scene: Scene, things: list[Seen]) -> Seen:
    return min(things, key=lambda thing: gap(scene, thing))


def walk_to(pose: Pose, point: Point) -> str:
    off = bearing(pose, point)
    if abs(off) <= SHORTEST_TURN:
        return "MOVE_FORWARD"
    return "TURN_LEFT" if off > 0 else "TURN_RIGHT"


def half_width(scene: Scene, monster: Seen) -> float:
    """The aim may be off by this many degrees for a bullet to hit."""
    return math.degrees(math.atan2(MONSTER, gap(scene, monster)))


def shoot(scene: Scene, target: Seen, tolerance: float) -> str:
    """tolerance: degrees off the target from which on it is not worth turning any more."""
    off = bearing(scene.pose, target.place)
    if abs(off) <= max(tolerance, half_width(scene, target)):
        return "ATTACK"
    return "TURN_LEFT" if off > 0 else "TURN_RIGHT"


def _clearance(scene: Scene, goal: float) -> float:
    """How near, up to ALERT, a fireball comes in 40 tics to a player who sidesteps to y = goal."""
    closest = ALERT
    for tic in range(0, 40, 2):
        way = goal - scene.pose.y
        y = scene.pose.y + math.copysign(min(abs(way), STRIDE * tic), way)
        for ball in (thing for thing in scene.things if thing.kind == "fireball"):
            closest = min(closest, math.dist((scene.pose.x, y), (ball.x + ball.vx * tic, ball.y + ball.vy * tic)))
    return closest
