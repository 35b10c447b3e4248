"""ObjectNav episodes in the generated houses, in habitat's file format (ObjectNav-v1 of HM3D).

Every piece of furniture with a category is a goal. Its view points, the positions at which an agent should stop, form a
grid in the same room at most 1 m from the piece. The grid is so fine that every position between view points is within
the success distance, 0.1 m, of a view point.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .furniture import CATEGORIES
from .houses import House, Piece, house, house_name
from .paths import Floor, ShortestPaths

Floats = NDArray[np.float64]

RADIUS = 0.18  # metres; habitat's ObjectNav agent
REACH = 1.0  # largest distance of a view point from its piece, in metres
SPACING = 0.14  # metres between view points: the centre of four is 0.099 m from each
NEAREST_START = 1.0  # smallest geodesic distance at the start, in metres
EPISODES = 30  # per house
HELD_OUT = 10  # houses of the split "val"


@lru_cache(maxsize=64)
def floor(name: str) -> Floor:
    """Return the walkable floor of a house for the agent's radius.

    Args:
        name: The name of a generated house, see `house_name`.
    """
    return Floor(house(name).obstacles, RADIUS)


def dataset(split: str, rooms: int, houses: int) -> dict[str, Any]:
    """Return the episodes and goals of a split as JSON values for ObjectNavDatasetV1.

    Args:
        split: "train" or "val".
        rooms: The number of rooms per house.
        houses: The number of houses; the first ones of the split are used.
    """
    episodes: list[dict[str, Any]] = []
    goals: dict[str, list[dict[str, Any]]] = {}
    for index in range(houses):
        name = house_name(split, rooms, index)
        house_goals = _goals(name)
        goals.update({f"{name}_{category}": pieces for category, pieces in house_goals.items()})
        episodes += _episodes(name, house_goals, len(episodes))
    numbers = {category: number for number, category in enumerate(CATEGORIES)}
    return {
        "episodes": episodes,
        "goals_by_category": goals,
        "category_to_task_category_id": numbers,
        "category_to_scene_annotation_category_id": numbers,
    }


def write(folder: Path, split: str, rooms: int, houses: int) -> Path:
    """Write a data set, unless it exists.

    Several processes may call this at the same time. The file name contains all parameters of the data set and a hash
    of this code.

    Args:
        folder: The folder for data sets.
        split: "train" or "val".
        rooms: The number of rooms per house.
        houses: The number of houses.

    Returns:
        The path of the file, .json.gz.
    """
    file = folder / f"{split}-{rooms}-{houses}-{_code()}.json.gz"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            text = json.dumps(dataset(split, rooms, houses), separators=(",", ":"))
            unfinished = file.with_suffix(".part")
            unfinished.write_bytes(gzip.compress(text.encode(), mtime=0))
            os.replace(unfinished, file)
    return file


def _code() -> str:
    sources = [Path(__file__).with_name(f"{name}.py") for name in ("dataset", "furniture", "houses", "paths")]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def view_points(building: House, ground: Floor, piece: Piece) -> Floats:
    """Return the view points of a piece of furniture.

    Args:
        building: The house.
        ground: The walkable floor of the house.
        piece: The piece of furniture.

    Returns:
        Positions (x, z) in metres, [V, 2]. The agent can stand there and reach them from the house's first door.
    """
    x0, z0, x1, z1 = piece.rect
    xs = np.arange(x0 - REACH, x1 + REACH, SPACING)
    zs = np.arange(z0 - REACH, z1 + REACH, SPACING)
    points = np.stack(np.meshgrid(xs, zs), axis=-1).reshape(-1, 2).round(3)
    gaps = np.maximum(np.maximum((x0, z0) - points, points - (x1, z1)), 0)
    room = np.array(building.rooms[piece.room].rect)
    inside = ((points > room[:2]) & (points < room[2:])).all(axis=1)
    points = points[inside & (np.linalg.norm(gaps, axis=1) <= REACH)]
    points = points[ground.free(points)]
    return points[np.isfinite(_from_a_door(building.name).distances(points))]


@lru_cache(maxsize=4)
def _from_a_door(name: str) -> ShortestPaths:
    x0, z0, x1, z1 = house(name).doors[0].rect(0.0)
    return floor(name).paths_to(np.array([[(x0 + x1) / 2, (z0 + z1) / 2]]))


def _goals(name: str) -> dict[str, list[dict[str, Any]]]:
    building = house(name)
    goals: dict[str, list[dict[str, Any]]] = {}
    for number, piece in enumerate(building.pieces):
        points = view_points(building, floor(name), piece) if piece.category else np.empty((0, 2))
        if piece.category and len(points):
            goals.setdefault(piece.category, []).append(
                {
                    "position": [piece.x, piece.y, piece.z],
                    "object_id": number,
                    "object_name": f"{piece.kind}_{number}",
                    "object_category": piece.category,
                    "room_name": building.rooms[piece.room].type,
                    "view_points": [_view_point(piece, x, z) for x, z in points.tolist()],
                }
            )
    return goals


def _view_point(piece: Piece, x: float, z: float) -> dict[str, Any]:
    heading = round(math.atan2(x - piece.x, z - piece.z), 3)
    return {"agent_state": {"position": [x, 0.0, z], "rotation": rotation(heading)}, "iou": None}


def rotation(heading: float) -> list[float]:
    """Convert a heading to habitat's quaternion (x, y, z, w).

    Args:
        heading: The heading in radians, 0 = -z, counter-clockwise.
    """
    return [0.0, round(math.sin(heading / 2), 6), 0.0, round(math.cos(heading / 2), 6)]


def _episodes(name: str, goals: dict[str, list[dict[str, Any]]], first: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    paths = {category: floor(name).paths_to(positions(goals[category])) for category in goals}
    episodes = []
    for number in range(EPISODES):
        category = list(goals)[number % len(goals)]
        start, length = _start(rng, name, paths[category])
        episodes.append(
            {
                "episode_id": str(first + number),
                "scene_id": name,
                "start_position": [start[0], 0.0, start[1]],
                "start_rotation": rotation(float(rng.uniform(-math.pi, math.pi))),
                "object_category": category,
                "goals": [],
                "info": {"geodesic_distance": round(length, 4)},
            }
        )
    return episodes


def positions(goals: list[dict[str, Any]]) -> Floats:
    """Return the positions (x, z) of all view points of some goals, [V, 2].

    Args:
        goals: JSON values of goals, as in `dataset`, with at least one view point.

    Returns:
        Metres, float64.
    """
    points = [view["agent_state"]["position"] for goal in goals for view in goal["view_points"]]
    return np.array(points)[:, [0, 2]]


def _start(rng: np.random.Generator, name: str, paths: ShortestPaths) -> tuple[list[float], float]:
    """Draw a start position; return it and its geodesic distance to the goal in metres."""
    rect = np.array(house(name).rect)
    while True:
        point = rng.uniform(rect[:2], rect[2:]).round(3)
        if floor(name).free(point[None])[0]:
            length = float(paths.distances(point[None])[0])
            if NEAREST_START <= length < math.inf:
                return point.tolist(), length
