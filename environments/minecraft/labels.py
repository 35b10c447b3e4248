"""What the lidar of MineDojo sees, as ground truth; Python 3.9 and numpy only.

Malmo turns a ray away from the line of sight about the axes of the world, not of the head: pitch about x, then yaw
about y (JSONWorldDataHelper.getDirectedRays). So a ray's offset points down when one faces north, up when one faces
south, and the pitch does nothing to one who looks level to the east or west. Where a ray meets the frame is worked
out from that; MineCLIP's rays, pitched 0 to 30 degrees only, look into the sky from half of the compass, so these are
symmetrical.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FAR = 9999.0  # blocks that a ray reaches, MineCLIP's
RAYS = [
    (float(np.deg2rad(pitch)), float(np.deg2rad(yaw)), FAR)
    for pitch in np.linspace(-30, 30, 5)
    for yaw in np.linspace(-60, 60, 9)  # MineCLIP's
]
FIELD_OF_VIEW = 70.0  # degrees from the frame's top to its bottom, Minecraft's default, which Malmo leaves
WORDS = {"pigzombie": "zombie pigman"}  # Minecraft's class name without "Entity" -> a person's, where they differ
KINDS = ("cow", "enderman", "pig", "sheep", "spider", "zombie", "zombie pigman")


def nearest(rays: dict[str, np.ndarray], name: str) -> float | None:
    """Blocks to the nearest entity of a (lidar) name that a ray meets; None = no ray meets one."""
    distances = rays["entity_distance"][rays["entity_name"] == name]
    return float(distances.min()) if distances.size else None


def labels(rays: dict[str, np.ndarray], yaw: float, pitch: float, height: int, width: int) -> list[dict[str, Any]]:
    """A list of {"name", "distance" in blocks, "box": (x0, y0, x1, y1) in pixels, ends exclusive}, one per kind.

    rays: MineDojo's; yaw, pitch: of the head in degrees, Minecraft's. What stands between two rays, 15 degrees apart,
    is missed; several of a kind are one label, with the distance of the nearest; the box spans the rays that meet
    them inside the frame, so of a thing that one ray meets it is one pixel.
    """
    columns, rows = _pixels(rays, yaw, pitch, height, width)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = []
    for name in sorted(set(rays["entity_name"][inside].tolist()) - {"null"}):
        hit = inside & (rays["entity_name"] == name)
        box = (columns[hit].min(), rows[hit].min(), columns[hit].max() + 1, rows[hit].max() + 1)
        distance = float(rays["entity_distance"][hit].min())
        found.append({"name": WORDS.get(name, name), "distance": distance, "box": tuple(int(edge) for edge in box)})
    return found


def _pixels(
    rays: dict[str, np.ndarray], yaw: float, pitch: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Column and row where each ray [R] meets the frame's plane, -1 for those that point backwards."""
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
    return tuple(np.where(behind, -1, np.floor(place)) for place in (columns, rows))  # type: ignore[return-value]


def _directions(look: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """[R, 3], x east, y up, z south: Minecraft's Vec3d.rotatePitch, then rotateYaw, of the line of sight."""
    x, y, z = look
    y, z = y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) - y * np.sin(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.stack([x, y, z], axis=1)
