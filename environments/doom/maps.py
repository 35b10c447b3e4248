"""Generated ViZDoom rooms: UDMF text and a WAD file in pure Python.

A map is one rectangular sector with random walls, floor, ceiling, light, start pose and objects, so that the background
of a room is independent of the objects in it.

        y ^  (0, height) ------------- (width, height)        angles in degrees, 0 = east, 90 = north,
          |      |   object     object     |                  counter-clockwise, as in the engine
          |      |        start            |
          |    (0, 0) ---------------- (width, 0)
          +------------------------------------> x            one map unit is about 3 cm
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import UserError

# ViZDoom actor name -> (editor number, scale at which a person recognises its sprite across a room at 160x120).
# Editor numbers: zdoom.org/wiki/Standard_editor_numbers. Sprites are Freedoom's, whose "BlueArmor" is red.
ITEMS: dict[str, tuple[int, float]] = {
    "Medikit": (2012, 2.0),
    "GreenArmor": (2018, 2.0),
    "BlueArmor": (2019, 2.0),
    "Soulsphere": (2013, 2.0),
    "BlueTorch": (44, 1.2),
    "RedTorch": (46, 1.2),
    "TallGreenColumn": (30, 1.2),
    "Candelabra": (35, 1.4),
}
MONSTERS: dict[str, tuple[int, float]] = {
    "Zombieman": (3004, 1.3),
    "DoomImp": (3001, 1.3),
    "Demon": (3002, 1.3),
    "Cacodemon": (3005, 1.2),
    "HellKnight": (69, 1.2),
}
ACTORS = ITEMS | MONSTERS

WALLS = ("BRICK1", "STARTAN2", "STONE2", "METAL1", "WOOD1", "MARBLE1")
FLATS = ("FLOOR4_8", "FLAT5", "GRASS1", "FLAT1", "CEIL3_5", "RROCK01")

MARGIN = 56  # units between an object and a wall
SPACING = 104  # units between two objects
CLEARING = 136  # units between the start and any object

Spot = tuple[float, float]  # (x, y) in map units


@dataclass(frozen=True)
class MapObject:
    """Actor on a map.

    Args:
        name: The actor's ViZDoom name, a key of ACTORS.
        x: Map units to the east.
        y: Map units to the north.
        angle: The direction that the actor faces, in degrees; 0 = east, 90 = north.
    """

    name: str
    x: float
    y: float
    angle: int = 0


@dataclass(frozen=True)
class Room:
    """Rectangular room with objects.

    Args:
        width: Map units from west to east.
        height: Map units from south to north.
        wall: The texture of the walls, one of WALLS.
        floor: The texture of the floor, one of FLATS.
        ceiling: The texture of the ceiling, one of FLATS.
        light: The light level, 0..255.
        start: The player's start pose: x, y in map units, and the heading in degrees.
        objects: The objects.
    """

    width: int
    height: int
    wall: str
    floor: str
    ceiling: str
    light: int
    start: tuple[float, float, int]
    objects: tuple[MapObject, ...]


def random_room(rng: np.random.Generator, kinds: Sequence[str], count: int) -> Room:
    """Draw a random room whose objects do not overlap.

    Args:
        rng: The random generator.
        kinds: The ViZDoom names of possible objects; a kind may occur more than once.
        count: The number of objects.

    Raises:
        UserError: If so many objects do not fit into a room.
    """
    width, height, (start, *spots) = _layout(rng, count)
    angles = rng.integers(0, 360, size=count + 1)
    names = rng.choice(list(kinds), size=count)
    return Room(
        width,
        height,
        wall=str(rng.choice(WALLS)),
        floor=str(rng.choice(FLATS)),
        ceiling=str(rng.choice(FLATS)),
        light=int(rng.integers(160, 256)),
        start=(*start, int(angles[0])),
        objects=tuple(
            MapObject(str(name), *spot, int(angle)) for name, spot, angle in zip(names, spots, angles[1:], strict=True)
        ),
    )


def _layout(rng: np.random.Generator, count: int) -> tuple[int, int, list[Spot]]:
    """Draw width and height of a room, the start, and places of `count` objects; redraw a room that is too small."""
    for _ in range(100):
        width, height = (int(side) for side in rng.integers(416, 641, size=2))
        placed: list[Spot] = []
        while len(placed) <= count and (spot := _free_spot(rng, width, height, placed)):
            placed.append(spot)
        if len(placed) > count:
            return width, height, placed
    raise UserError(f"{count} things do not fit into a room with sides of 416 to 640 map units; use fewer")


def _free_spot(rng: np.random.Generator, width: int, height: int, placed: Sequence[Spot]) -> Spot | None:
    """Draw a point away from the walls, the start (`placed[0]`) and the other objects; None if 500 draws fail."""
    for _ in range(500):
        x, y = float(rng.integers(MARGIN, width - MARGIN)), float(rng.integers(MARGIN, height - MARGIN))
        gaps = [math.dist((x, y), spot) for spot in placed]
        if all(gap >= (SPACING if index else CLEARING) for index, gap in enumerate(gaps)):
            return x, y
    return None


def map_name(index: int) -> str:
    """Return the name of a map in a WAD: MAP01 for index 0, MAP100 for index 99.

    Args:
        index: 0 to 9998; a WAD file has at most 9999 maps.
    """
    return f"MAP{index + 1:02d}"


def wad_of(rooms: Sequence[Room], rules: str = "") -> bytes:
    """Encode rooms as the maps MAP01, MAP02, ... of one PWAD file.

    Layout (doomwiki.org/wiki/WAD): 12-byte header, the lumps' bytes, then a 16-byte directory entry per lump.
    A UDMF map is three lumps: an empty marker with the map's name, TEXTMAP, ENDMAP.

    Args:
        rooms: 1 to 9999 rooms.
        rules: The text of a MAPINFO lump (zdoom.org/wiki/MAPINFO), such as a custom skill; "" = no such lump.

    Returns:
        The bytes of the file.

    Raises:
        UserError: If the number of rooms is out of range.
    """
    if not 1 <= len(rooms) <= 9999:
        raise UserError(f"a WAD file can have 1 to 9999 rooms, not {len(rooms)}; write several files")
    lumps = [("MAPINFO", rules.encode())] if rules else []
    for index, room in enumerate(rooms):
        lumps += [(map_name(index), b""), ("TEXTMAP", udmf(room).encode()), ("ENDMAP", b"")]
    body, directory = bytearray(), bytearray()
    for name, data in lumps:
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + bytes(body + directory)


def udmf(room: Room) -> str:
    """Encode a room as UDMF text in the ZDoom name space (zdoom.org/wiki/Universal_Doom_Map_Format).

    Args:
        room: The room; its lengths are in map units and its angles in degrees.

    Returns:
        One sector with four walls, the player's start and the objects, without a newline at the end.
    """
    corners = [(0, 0), (0, room.height), (room.width, room.height), (room.width, 0)]
    blocks = ['namespace = "zdoom";']
    blocks += [_block("vertex", x=x, y=y) for x, y in corners]
    blocks += [_block("linedef", v1=i, v2=(i + 1) % 4, sidefront=i, blocking=True) for i in range(4)]
    blocks += [_block("sidedef", sector=0, texturemiddle=room.wall)] * 4
    blocks.append(
        _block(
            "sector",
            heightfloor=0,
            heightceiling=128,
            texturefloor=room.floor,
            textureceiling=room.ceiling,
            lightlevel=room.light,
        )
    )
    x, y, angle = room.start
    blocks.append(_object_block(1, x, y, angle, 1.0))
    blocks += [_object_block(ACTORS[t.name][0], t.x, t.y, t.angle, ACTORS[t.name][1]) for t in room.objects]
    return "\n".join(blocks)


def _object_block(number: int, x: float, y: float, angle: int, scale: float) -> str:
    skills = {f"skill{level}": True for level in range(1, 6)}
    return _block("thing", type=number, x=x, y=y, angle=angle, scale=scale, single=True, **skills)


def _block(kind: str, **fields: object) -> str:
    return f"{kind} {{ " + " ".join(f"{key} = {_literal(value)};" for key, value in fields.items()) + " }"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)
