"""Conversion of a generated house to textured triangles, y up, in metres."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .furniture import KINDS, Colour, Part
from .houses import CEILING, DOOR_HEIGHT, FRONT, RIGHT, WALL, Door, House, Piece, Rect, Room

Floats = NDArray[np.float64]
Point = tuple  # (x, z) in metres

SIDE = 64  # texels per side of a texture
LEVELS = 4  # levels of detail; each halves the resolution
SUN = np.array([0.36, 0.85, 0.39])  # direction of the light, chosen so that the sides of a box differ in brightness
AMBIENT = 0.74
SKIRTING = 0.08  # height of the skirting board in metres


@dataclass(frozen=True)
class Mesh:
    """Textured triangles.

    Args:
        corners: The corners, [T, 3, 3].
        normals: The normals, [T, 3].
        uvs: The texture coordinates of the corners in repeats of the texture, [T, 3, 2].
        colours: The colours with lighting, 0..255, [T, 3].
        textures: The index of the texture in TEXTURES, [T]; -1 = plain.
        owners: 0 = the building, 1 + i = the i-th piece of the house's furniture, [T].
    """

    corners: Floats
    normals: Floats
    uvs: Floats
    colours: Floats
    textures: NDArray[np.int64]
    owners: NDArray[np.int64]


def mesh(house: House) -> Mesh:
    """Return the triangles of a house and its furniture.

    Args:
        house: The house; its name seeds the look of its rooms.
    """
    surface = _Surface()
    rng = np.random.default_rng(zlib.crc32(house.name.encode()))
    for index, room in enumerate(house.rooms):
        _room(surface, house, index, room, rng)
    for owner, piece in enumerate(house.pieces, start=1):
        for part in KINDS[piece.kind].build(np.random.default_rng(piece.colour)):
            _SHAPES[part.shape](surface, piece, part, owner)
    return surface.mesh()


class _Surface:
    """Collection of flat faces; corners are counter-clockwise, seen from the visible side."""

    def __init__(self) -> None:
        self._faces: list[tuple[Floats, Floats, Colour, int, int]] = []

    def face(self, corners: Floats, colour: Colour, owner: int, texture: int = -1, uvs: Floats | None = None) -> None:
        """Add a convex face of corners [N, 3] and uvs [N, 2]."""
        self._faces.append((corners, np.zeros((len(corners), 2)) if uvs is None else uvs, colour, owner, texture))

    def mesh(self) -> Mesh:
        corners, uvs, attributes = [], [], []
        for points, face_uvs, colour, owner, texture in self._faces:
            for i in range(1, len(points) - 1):
                corners.append(points[[0, i, i + 1]])
                uvs.append(face_uvs[[0, i, i + 1]])
                attributes.append((*colour, owner, texture))
        all_corners, numbers = np.array(corners, float), np.array(attributes, float)
        normals = np.cross(all_corners[:, 1] - all_corners[:, 0], all_corners[:, 2] - all_corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        light = AMBIENT + (1 - AMBIENT) * np.maximum(normals @ (SUN / np.linalg.norm(SUN)), 0)
        colours = numbers[:, :3] * light[:, None]
        owners, textures = numbers[:, 3].astype(np.int64), numbers[:, 4].astype(np.int64)
        return Mesh(all_corners, normals, np.array(uvs, float), colours, textures, owners)


# Type of room -> possible textures and colours of floor and walls.
_FLOORS: dict[str, tuple[str, tuple[Colour, ...]]] = {
    "living room": ("planks", ((186, 138, 92), (160, 112, 70))),
    "bedroom": ("carpet", ((168, 150, 138), (128, 140, 160), (172, 158, 120))),
    "bathroom": ("small tiles", ((178, 204, 214), (200, 206, 204))),
    "kitchen": ("checker", ((214, 202, 182), (206, 210, 206))),
    "hall": ("slabs", ((168, 160, 150), (150, 152, 156))),
    "office": ("planks", ((122, 88, 62), (104, 80, 64))),
}
_WALLS: dict[str, tuple[str, tuple[Colour, ...]]] = {
    "living room": ("plaster", ((232, 216, 186), (226, 206, 190))),
    "bedroom": ("stripes", ((188, 202, 224), (224, 200, 206), (204, 216, 196))),
    "bathroom": ("small tiles", ((222, 236, 240), (204, 228, 224))),
    "kitchen": ("plaster", ((240, 222, 150), (222, 228, 190))),
    "hall": ("plaster", ((220, 220, 216), (206, 200, 196))),
    "office": ("plaster", ((176, 194, 186), (190, 190, 204))),
}
_CEILING: Colour = (244, 243, 240)
_TRIM: Colour = (240, 236, 228)  # doorways and skirting boards


def _room(surface: _Surface, house: House, index: int, room: Room, rng: np.random.Generator) -> None:
    """Add floor, ceiling, and the walls as seen from inside, with their doorways."""
    x0, z0, x1, z1 = room.inside
    (floor, floors), (wall, walls) = _FLOORS[room.type], _WALLS[room.type]
    floor_colour, wall_colour = floors[rng.integers(len(floors))], walls[rng.integers(len(walls))]
    _level(surface, room.inside, floor_colour, TEXTURES.index(floor))
    _ceiling(surface, room.inside, CEILING, _CEILING)
    around = ((x0, z0), (x1, z0), (x1, z1), (x0, z1))
    for side, edge in enumerate((1, 2, 3, 0)):
        start, end, along = around[side], around[(side + 1) % 4], side % 2
        doors = house.doors_of(index, along, room.rect[edge])
        _wall(surface, start, end, along, doors, wall_colour, TEXTURES.index(wall))
    for door in house.doors:
        if door.rooms[0] == index:
            _doorway(surface, door.rect(WALL / 2), door.along, floor_colour, TEXTURES.index(floor))


def _wall(
    surface: _Surface, start: Point, end: Point, along: int, doors: list[Door], colour: Colour, texture: int
) -> None:
    """Add a wall of a room along the axis x or z (0 or 1), with `start` on its left as seen from inside."""
    ends = [start[along], end[along], *(edge for door in doors for edge in (door.low, door.high))]
    corners = [
        (edge, start[1]) if along == 0 else (start[0], edge) for edge in sorted(ends, reverse=start[along] > end[along])
    ]
    for number, (left, right) in enumerate(zip(corners, corners[1:])):
        if number % 2:  # a door
            _upright(surface, left, right, DOOR_HEIGHT, CEILING, colour, texture)
        else:
            _upright(surface, left, right, SKIRTING, CEILING, colour, texture)
            _upright(surface, left, right, 0.0, SKIRTING, _TRIM)


def _doorway(surface: _Surface, rect: Rect, along: int, colour: Colour, texture: int) -> None:
    """Add the threshold, the underside of the lintel and the jambs of an opening in a wall."""
    x0, z0, x1, z1 = rect
    _level(surface, rect, colour, texture)
    _ceiling(surface, rect, DOOR_HEIGHT, _TRIM)
    north, south = ((x0, z0), (x1, z0)), ((x1, z1), (x0, z1))
    west, east = ((x0, z1), (x0, z0)), ((x1, z0), (x1, z1))
    for start, end in (west, east) if along == 0 else (north, south):
        _upright(surface, start, end, 0.0, DOOR_HEIGHT, _TRIM)


def _level(surface: _Surface, rect: Rect, colour: Colour, texture: int) -> None:
    """Add a rectangle of floor."""
    x0, z0, x1, z1 = rect
    plan = np.array([[x0, z0], [x0, z1], [x1, z1], [x1, z0]])
    surface.face(np.insert(plan, 1, 0.0, axis=1), colour, 0, texture, plan)


def _ceiling(surface: _Surface, rect: Rect, y: float, colour: Colour) -> None:
    x0, z0, x1, z1 = rect
    surface.face(np.array([[x0, y, z0], [x1, y, z0], [x1, y, z1], [x0, y, z1]]), colour, 0)


def _upright(
    surface: _Surface, start: Point, end: Point, low: float, high: float, colour: Colour, texture: int = -1
) -> None:
    """Add an upright rectangle on the line from `start` to `end`, between two heights."""
    points = [(*start, low), (*end, low), (*end, high), (*start, high)]
    corners, uvs = [(x, y, z) for x, z, y in points], [(x + z, -y) for x, z, y in points]
    surface.face(np.array(corners), colour, 0, texture, np.array(uvs))


def _stood(piece: Piece, points: Floats) -> Floats:
    """Transform points [N, 3] from the coordinates of a piece (back at z = 0) to those of the house."""
    right, front = np.array(RIGHT[piece.turn]), np.array(FRONT[piece.turn])
    out = points[:, 2] - KINDS[piece.kind].depth / 2
    plan = (piece.x, piece.z) + points[:, :1] * right + out[:, None] * front
    return np.stack([plan[:, 0], points[:, 1] + piece.y, plan[:, 1]], axis=1)


_UNIT = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))  # unit cube, no bottom


def _box(surface: _Surface, piece: Piece, part: Part, owner: int) -> None:
    low, high = np.array(part.low), np.array(part.high)
    corners = _stood(piece, low + _UNIT * (high - low))
    for side in _SIDES:
        surface.face(corners[list(side)], part.colour, owner)


def _cylinder(surface: _Surface, piece: Piece, part: Part, owner: int, segments: int = 12) -> None:
    rings = [_ring(part, y, 1.0, segments) for y in (0.0, 1.0)]
    bottom, top = (_stood(piece, ring) for ring in rings)
    surface.face(top, part.colour, owner)
    _band(surface, bottom, top, part.colour, owner)


def _ball(surface: _Surface, piece: Piece, part: Part, owner: int, segments: int = 8) -> None:
    angles = np.linspace(0.12, np.pi - 0.12, 6)
    rings = [_stood(piece, _ring(part, (1 - np.cos(a)) / 2, np.sin(a), segments)) for a in angles]
    for bottom, top in zip(rings, rings[1:]):
        _band(surface, bottom, top, part.colour, owner)
    surface.face(rings[-1], part.colour, owner)
    surface.face(rings[0][::-1], part.colour, owner)


_SHAPES = {"box": _box, "cylinder": _cylinder, "ball": _ball}


def _ring(part: Part, share: float, radius: float, segments: int) -> Floats:
    """Return the ring around a part at a fraction of its height, counter-clockwise from above."""
    low, high = np.array(part.low), np.array(part.high)
    angles = -2 * np.pi * np.arange(segments) / segments
    around = np.stack([np.cos(angles), np.full(segments, 2 * share - 1), np.sin(angles)], axis=1)
    around[:, [0, 2]] *= radius
    return (low + high) / 2 + around * (high - low) / 2


def _band(surface: _Surface, bottom: Floats, top: Floats, colour: Colour, owner: int) -> None:
    for i in range(len(bottom)):
        j = (i + 1) % len(bottom)
        surface.face(np.array([bottom[i], bottom[j], top[j], top[i]]), colour, owner)


TEXTURES = ("planks", "carpet", "small tiles", "checker", "slabs", "plaster", "stripes")


def texels() -> Floats:
    """Return the brightness factors of all textures, which repeat every metre.

    Returns:
        float64 [texture, level of detail, SIDE, SIDE].
    """
    rng = np.random.default_rng(0)
    v, u = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    grain = rng.normal(0, 1, (SIDE, SIDE))
    long_grain = np.repeat(rng.normal(0, 1, (SIDE, SIDE // 16)), 16, axis=1)
    row = (v * 4).astype(int)  # of planks, each offset by half a plank
    shifted = (u + row % 2 / 2) % 1
    tone = rng.uniform(0.84, 1.06, (4, 2))[row, (shifted * 2).astype(int)]
    textures = {
        "planks": tone * (1 + 0.03 * long_grain) * _joints(shifted * 2, v * 4, 0.03, 0.06, 0.7),
        "carpet": 1 + 0.06 * grain,
        "small tiles": (1 + 0.01 * grain) * _joints(u * 5, v * 5, 0.09, 0.09, 0.78),
        "checker": np.where(((u * 2).astype(int) + (v * 2).astype(int)) % 2, 0.62, 1.0) * (1 + 0.015 * grain),
        "slabs": (1 + 0.04 * grain) * _joints(u * 2, v * 2, 0.04, 0.04, 0.72),
        "plaster": 1 + 0.012 * grain,
        "stripes": np.where((u * 8).astype(int) % 2, 0.9, 1.03) * (1 + 0.01 * grain),
    }
    return np.stack([[_blurred(textures[name], 2**level) for level in range(LEVELS)] for name in TEXTURES])


def _joints(u: Floats, v: Floats, across: float, down: float, shade: float) -> Floats:
    """Return `shade` on the lines of a grid at whole u and v, else 1."""
    return np.where((u % 1 < across) | (v % 1 < down), shade, 1.0)


def _blurred(texture: Floats, block: int) -> Floats:
    """Replace each block of texels by its mean."""
    small = texture.reshape(SIDE // block, block, SIDE // block, block).mean(axis=(1, 3))
    return small.repeat(block, axis=0).repeat(block, axis=1)
