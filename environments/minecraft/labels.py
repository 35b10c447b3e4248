"""Ground truth labels from MineDojo's lidar; Python 3.9 and numpy only.

Malmo rotates a ray away from the line of sight about the axes of the world, not of the head: pitch about x, then yaw
about y (JSONWorldDataHelper.getDirectedRays). So the pitch of a ray points down if the player faces north, up if the
player faces south, and has no effect if the player looks level to the east or west. The position of a ray in the frame
is computed from these rotations. MineCLIP's rays have pitches of 0 to 30 degrees only and point into the sky for half
of all headings, so the rays here are symmetrical.
"""

from __future__ import annotations

from typing import Any

import numpy as np

RANGE = 9999.0  # length of a ray in blocks, as in MineCLIP
RAYS = [
    (float(np.deg2rad(pitch)), float(np.deg2rad(yaw)), RANGE)
    for pitch in np.linspace(-30, 30, 5)
    for yaw in np.linspace(-60, 60, 9)  # as in MineCLIP
]
FIELD_OF_VIEW = 70.0  # vertical, in degrees: Minecraft's default
WORDS = {"pigzombie": "zombie pigman"}  # Minecraft's class name without "Entity" -> common name, if different
KINDS = ("cow", "enderman", "pig", "sheep", "spider", "zombie", "zombie pigman")


def nearest(rays: dict[str, np.ndarray], name: str) -> float | None:
    """Return the distance to the nearest entity of a kind that a ray hits.

    Args:
        rays: MineDojo's `rays` observation.
        name: The lidar's name of the kind.

    Returns:
        The distance in blocks; None if no ray hits such an entity.

    Raises:
        RuntimeError: If a distance is NaN or infinite.
    """
    distances = rays["entity_distance"][rays["entity_name"] == name]
    return _smallest(distances, name) if distances.size else None


def labels(rays: dict[str, np.ndarray], yaw: float, pitch: float, height: int, width: int) -> list[dict[str, Any]]:
    """Return one label per kind of entity that a ray hits inside the frame.

    The lidar misses entities between two rays, which are 15 degrees apart. Several entities of a kind are one label
    with the distance of the nearest one.

    Args:
        rays: MineDojo's `rays` observation.
        yaw: The yaw of the head in degrees.
        pitch: The pitch of the head in degrees.
        height: The height of the frame in pixels.
        width: The width of the frame in pixels.

    Returns:
        Dicts {"name", "distance": in blocks, "box": (x0, y0, x1, y1), ends exclusive}. The box spans the rays that hit
        the entities; for a single ray it is one pixel.

    Raises:
        RuntimeError: If a distance is NaN or infinite.
    """
    columns, rows = _pixels(rays, yaw, pitch, height, width)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    result = []
    for name in sorted(set(rays["entity_name"][inside].tolist()) - {"null"}):
        hit = inside & (rays["entity_name"] == name)
        box = (columns[hit].min(), rows[hit].min(), columns[hit].max() + 1, rows[hit].max() + 1)
        distance = _smallest(rays["entity_distance"][hit], name)
        result.append({"name": WORDS.get(name, name), "distance": distance, "box": tuple(int(edge) for edge in box)})
    return result


def _smallest(distances: np.ndarray, name: str) -> float:
    if not np.isfinite(distances).all():
        raise RuntimeError(f"Minecraft's lidar gave the distances {distances.tolist()} to {name!r}")
    return float(distances.min())


def _pixels(
    rays: dict[str, np.ndarray], yaw: float, pitch: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return column and row at which each ray [R] meets the image plane; -1 for rays that point backwards."""
    yaw, pitch = np.deg2rad(yaw), np.deg2rad(pitch)
    look = np.array([-np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([-np.cos(yaw), 0.0, -np.sin(yaw)])
    directions = _directions(look, rays["ray_pitch"], rays["ray_yaw"])
    depth = directions @ look
    focal = height / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = width / 2 + focal * (directions @ right) / depth
        rows = height / 2 - focal * (directions @ np.cross(right, look)) / depth
    behind = depth <= 1e-6
    return tuple(np.where(behind, -1, np.floor(coordinates)) for coordinates in (columns, rows))  # type: ignore[return-value]


def _directions(look: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return directions [R, 3] (x east, y up, z south): Minecraft's rotatePitch and rotateYaw of the line of sight."""
    x, y, z = look
    y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.stack([x, y, z], axis=1)
