"""ObjectNav episodes in the generated houses, in habitat's own format (ObjectNav-v1, as of HM3D).

A goal is every piece of a category; its view points are where an agent can stand, and is asked to stop, around it:
a lattice in the same room, at most a metre from the piece, so fine that every place among them is less than the
success distance of 0.1 m from one.
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
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .furniture import CATEGORIES
from .houses import House, Piece, house, house_name
from .ways import Floor, Ways

Floats = NDArray[np.float64]

RADIUS = 0.18  # metres, of habitat's ObjectNav agent
REACH = 1.0  # metres from a piece to its view points
SPACING = 0.14  # metres between view points: the middle of four is 0.099 m from each
NEAREST_START = 1.0  # metres of way that an episode has at least
EPISODES = 30  # a house
HELD_OUT = 10  # houses of the split val


@lru_cache(maxsize=64)
def floor(name: str) -> Floor:
    """The floor of the house of that name, for the agent's body."""
    return Floor(house(name).obstacles, RADIUS)


def dataset(split: str, rooms: int, houses: int) -> dict[str, Any]:
    """The episodes and goals of the first houses of a split, as ObjectNavDatasetV1 reads them; JSON values."""
    episodes: list[dict[str, Any]] = []
    goals: dict[str, list[dict[str, Any]]] = {}
    for index in range(houses):
        name = house_name(split, rooms, index)
        found = _goals(name)
        goals.update({f"{name}_{category}": found[category] for category in found})
        episodes += _episodes(name, found, len(episodes))
    numbers = {category: number for number, category in enumerate(CATEGORIES)}
    return {
        "episodes": episodes,
        "goals_by_category": goals,
        "category_to_task_category_id": numbers,
        "category_to_scene_annotation_category_id": numbers,
    }


def write(folder: Path, split: str, rooms: int, houses: int) -> Path:
    """The file of a dataset, made if it is not there; its name holds what it depends on, this code included.

    Several processes may ask for it at once: one makes it, the others wait.
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
    sources = [Path(__file__).with_name(f"{name}.py") for name in ("dataset", "furniture", "houses", "ways")]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def view_points(made: House, ground: Floor, piece: Piece) -> Floats:
    """[V, 2], around a piece, where the agent can stand; each can be reached from the house's doors."""
    x0, z0, x1, z1 = piece.rect
    xs = np.arange(x0 - REACH, x1 + REACH, SPACING)
    zs = np.arange(z0 - REACH, z1 + REACH, SPACING)
    points = np.stack(np.meshgrid(xs, zs), axis=-1).reshape(-1, 2).round(3)
    gaps = np.maximum(np.maximum((x0, z0) - points, points - (x1, z1)), 0)
    room = np.array(made.rooms[piece.room].rect)
    inside = ((points > room[:2]) & (points < room[2:])).all(axis=1)
    points = points[inside & (np.linalg.norm(gaps, axis=1) <= REACH)]
    points = points[ground.free(points)]
    return points[np.isfinite(_from_a_door(made.name).distances(points))]


@lru_cache(maxsize=4)
def _from_a_door(name: str) -> Ways:
    x0, z0, x1, z1 = house(name).doors[0].rect(0.0)
    return floor(name).ways_to(np.array([[(x0 + x1) / 2, (z0 + z1) / 2]]))


def _goals(name: str) -> dict[str, list[dict[str, Any]]]:
    made, found = house(name), cast("dict[str, list[dict[str, Any]]]", {})
    for number, piece in enumerate(made.pieces):
        points = view_points(made, floor(name), piece) if piece.category else np.empty((0, 2))
        if piece.category and len(points):
            found.setdefault(piece.category, []).append(
                {
                    "position": [piece.x, piece.y, piece.z],
                    "object_id": number,
                    "object_name": f"{piece.kind}_{number}",
                    "object_category": piece.category,
                    "room_name": made.rooms[piece.room].type,
                    "view_points": [_view_point(piece, x, z) for x, z in points.tolist()],
                }
            )
    return found


def _view_point(piece: Piece, x: float, z: float) -> dict[str, Any]:
    heading = round(math.atan2(x - piece.x, z - piece.z), 3)
    return {"agent_state": {"position": [x, 0.0, z], "rotation": rotation(heading)}, "iou": None}


def rotation(heading: float) -> list[float]:
    """A heading in radians (0 = north, -z; counter-clockwise) as habitat's quaternion (x, y, z, w)."""
    return [0.0, round(math.sin(heading / 2), 6), 0.0, round(math.cos(heading / 2), 6)]


def _episodes(name: str, goals: dict[str, list[dict[str, Any]]], first: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    ways = {category: floor(name).ways_to(positions(goals[category])) for category in goals}
    found = []
    for number in range(EPISODES):
        category = list(goals)[number % len(goals)]
        start, length = _start(rng, name, ways[category])
        found.append(
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
    return found


def positions(goals: list[dict[str, Any]]) -> Floats:
    """[V, 2], of all view points of some goals."""
    places = [view["agent_state"]["position"] for goal in goals for view in goal["view_points"]]
    return np.array(places)[:, [0, 2]]


def _start(rng: np.random.Generator, name: str, ways: Ways) -> tuple[list[float], float]:
    """A place to start from, and how long the way to the goal is."""
    rect = np.array(house(name).rect)
    while True:
        point = rng.uniform(rect[:2], rect[2:]).round(3)
        if floor(name).free(point[None])[0]:
            length = float(ways.distances(point[None])[0])
            if NEAREST_START <= length < math.inf:
                return point.tolist(), length
