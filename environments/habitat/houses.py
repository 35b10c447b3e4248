"""Generated houses: one storey of rooms with doors, with furniture that depends on the type of the room.

Plan coordinates are habitat's: x to the east, z to the south, in metres. A turn of k means k * 90 degrees
counter-clockwise seen from above; a piece with turn 0 faces south (z).

        z0 +------------+--------+
           |  bedroom      bath  |      walls stand on the rooms' edges, half of their thickness on either side;
           +---   ------+--   ---+      gaps are doors
        z1 |        living       |
           +---------------------+
           x0                    x1
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..base import UserError
from .furniture import CATEGORIES, CATEGORY_OF, KINDS

SPLITS = ("train", "val")
ROOM_TYPES = ("living room", "bedroom", "bathroom", "kitchen", "hall", "office", "bedroom", "bathroom")
FEWEST = 3
MOST = 8  # the length of ROOM_TYPES

WALL = 0.12  # metres thick
CEILING = 2.5  # metres high
DOOR_WIDTH, DOOR_HEIGHT = 1.0, 2.05
AREA = 13.0  # mean area of a room in square metres
NARROWEST = 2.5  # smallest side of a room in metres
AISLE = 0.65  # metres kept free between two groups of furniture; the agent is 0.36 wide

Rect = tuple  # (x0, z0, x1, z1) in metres
FRONT = ((0, 1), (1, 0), (0, -1), (-1, 0))  # direction (x, z) to which a piece faces, by its turn
RIGHT = ((1, 0), (0, -1), (-1, 0), (0, 1))


@dataclass(frozen=True)
class Room:
    """Rectangular room."""

    type: str
    rect: Rect  # up to the middle of the walls

    @property
    def inside(self) -> Rect:
        """The rectangle between the faces of the walls."""
        x0, z0, x1, z1 = self.rect
        return x0 + WALL / 2, z0 + WALL / 2, x1 - WALL / 2, z1 - WALL / 2


@dataclass(frozen=True)
class Door:
    """Opening in the wall between two rooms.

    Args:
        rooms: The indices of the rooms.
        along: The axis of the wall, 0 = x, 1 = z.
        at: The position of the wall on the other axis, in metres.
        low: The lower end of the opening on the axis of the wall, in metres.
        high: The upper end.
    """

    rooms: tuple[int, int]
    along: int
    at: float
    low: float
    high: float

    def rect(self, reach: float) -> Rect:
        """Return the rectangle of the opening.

        Args:
            reach: The extent to both sides of the middle of the wall, in metres.
        """
        low, high = (self.low, self.at - reach), (self.high, self.at + reach)
        return (*low, *high) if self.along == 0 else (*low[::-1], *high[::-1])


@dataclass(frozen=True)
class Piece:
    """Piece of furniture in a house.

    Args:
        kind: The kind, a key of KINDS.
        x: The centre of the footprint in metres.
        z: The centre of the footprint in metres.
        y: The height above the floor in metres; 0 = it stands on the floor.
        turn: The number of counter-clockwise turns by 90 degrees, 0..3; 0 = it faces south.
        room: The index of the room.
        colour: The seed of the colours.
    """

    kind: str
    x: float
    z: float
    y: float
    turn: int
    room: int
    colour: int

    @property
    def rect(self) -> Rect:
        """The rectangle of the footprint."""
        kind = KINDS[self.kind]
        sides = (kind.width, kind.depth) if self.turn % 2 == 0 else (kind.depth, kind.width)
        return self.x - sides[0] / 2, self.z - sides[1] / 2, self.x + sides[0] / 2, self.z + sides[1] / 2

    @property
    def category(self) -> str | None:
        """The ObjectNav category; None = never a goal."""
        return CATEGORY_OF.get(self.kind)


@dataclass(frozen=True)
class House:
    """House with rooms, doors and furniture."""

    name: str
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    pieces: tuple[Piece, ...]

    @property
    def rect(self) -> Rect:
        """The bounding rectangle of all rooms."""
        corners = np.array([room.rect for room in self.rooms])
        return (*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())

    def room_at(self, x: float, z: float) -> Room | None:
        """Return the room at a position in metres; None outside the house.

        A room includes half the thickness of its walls.

        Args:
            x: Metres to the east.
            z: Metres to the south.
        """
        for room in self.rooms:
            x0, z0, x1, z1 = room.rect
            if x0 <= x <= x1 and z0 <= z <= z1:
                return room
        return None

    @property
    def walls(self) -> list[Rect]:
        """The solid rectangles of all walls, with gaps for the doors; each room adds its half of each wall."""
        return [wall for index in range(len(self.rooms)) for wall in self._walls_of(index)]

    @property
    def obstacles(self) -> list[Rect]:
        """The rectangles that block the agent: walls, and footprints of furniture that stands on the floor."""
        return self.walls + [piece.rect for piece in self.pieces if piece.y == 0]

    def doors_of(self, room: int, along: int, at: float) -> list[Door]:
        """Return the doors in one wall of a room, in order.

        Args:
            room: The index of the room.
            along: The axis of the wall, 0 = x, 1 = z.
            at: The position of the wall on the other axis, in metres.
        """
        sides = [door for door in self.doors if room in door.rooms and (door.along, door.at) == (along, at)]
        return sorted(sides, key=lambda door: door.low)

    def _walls_of(self, index: int) -> list[Rect]:
        x0, z0, x1, z1 = self.rooms[index].rect
        half, walls = WALL / 2, []
        for along, at, inward, start, end in (
            (0, z0, 1, x0, x1),
            (0, z1, -1, x0, x1),
            (1, x0, 1, z0, z1),
            (1, x1, -1, z0, z1),
        ):
            near, far = sorted((at, at + inward * half))
            doors = self.doors_of(index, along, at)
            lows, highs = [start, *(door.high for door in doors)], [*(door.low for door in doors), end]
            for low, high in zip(lows, highs):
                walls.append((low, near, high, far) if along == 0 else (near, low, far, high))
        return walls


@dataclass(frozen=True)
class Group:
    """Pieces of furniture that stand together.

    Args:
        width: The size along the back edge in metres.
        depth: The size from back to front in metres.
        pieces: (kind, x, z, turn, y) of each piece, relative to the middle of the group's back edge.
        placement: "wall" (back against a wall), "corner" (also in a corner) or "free" (with space to walk around it).
        chance: The probability of the group in a room, if it is not essential.
    """

    width: float
    depth: float
    pieces: tuple[tuple[str, float, float, int, float], ...]
    placement: str = "wall"
    chance: float = 1.0


def _alone(kind: str, placement: str = "wall", chance: float = 1.0) -> Group:
    size = KINDS[kind]
    return Group(size.width, size.depth, ((kind, 0.0, size.depth / 2, 0, 0.0),), placement, chance)


_BED = Group(2.1, 2.0, (("bed", -0.25, 1.0, 0, 0.0), ("nightstand", 0.82, 0.2, 0, 0.0)))
_TV = Group(1.4, 0.4, (("tv stand", 0, 0.2, 0, 0.0), ("tv", 0, 0.18, 0, 0.48)))
_SOFA = Group(1.98, 1.86, (("sofa", 0, 0.43, 0, 0.0), ("coffee table", 0, 1.6, 0, 0.0)))
_DESK = Group(
    1.3, 1.12, (("desk", 0, 0.31, 0, 0.0), ("monitor", -0.28, 0.24, 0, 0.74), ("office chair", 0.2, 0.85, 2, 0.0))
)
_DINING = Group(
    1.2,
    1.5,
    tuple(("chair", x, z, turn, 0.0) for x in (-0.29, 0.29) for z, turn in ((0.23, 0), (1.27, 2)))
    + (("table", 0, 0.75, 0, 0.0),),
    "free",
)
_ROW = Group(2.06, 0.64, (("counter", -0.32, 0.31, 0, 0.0), ("stove", 0.72, 0.32, 0, 0.0)))

# Furniture groups of each type of room, the essential ones first.
FURNISHING: dict[str, tuple[Group, ...]] = {
    "living room": (_SOFA, _TV, _alone("plant", "corner"), _alone("bookshelf", chance=0.6), _alone("lamp", "corner")),
    "bedroom": (_BED, _alone("wardrobe"), _alone("lamp", "corner", 0.5)),
    "bathroom": (_alone("toilet"), _alone("washbasin"), _alone("bathtub", "corner")),
    "kitchen": (_ROW, _alone("fridge"), _DINING),
    "hall": (_alone("cabinet"), _alone("coat rack", "corner"), _alone("plant", "corner", 0.5)),
    "office": (_DESK, _alone("bookshelf"), _alone("plant", "corner", 0.6), _alone("cabinet", chance=0.5)),
}
ESSENTIAL = {"living room": 3, "bedroom": 1, "bathroom": 2, "kitchen": 3, "hall": 1, "office": 1}  # groups

# Category -> the types of room that can have it.
ROOMS_OF: dict[str, tuple[str, ...]] = {
    category: tuple(
        type_
        for type_, groups in FURNISHING.items()
        if any(CATEGORY_OF.get(kind) == category for group in groups for kind, *_ in group.pieces)
    )
    for category in CATEGORIES
}


def house_name(split: str, rooms: int, index: int) -> str:
    """Return the name of a house, such as "train-5-0000".

    Args:
        split: "train" or "val".
        rooms: The number of rooms.
        index: The number of the house in its split, from 0.
    """
    return f"{split}-{rooms}-{index:04d}"


@lru_cache(maxsize=64)
def house(name: str) -> House:
    """Generate the house of a name, which determines it.

    Args:
        name: A name made by `house_name`.

    Raises:
        UserError: If the name is invalid.
    """
    try:
        split, rooms, index = name.split("-")
        key = [SPLITS.index(split), int(rooms), int(index)]
    except ValueError:
        raise UserError(f"{name!r} is not the name of a house; house_name() returns one, e.g. 'train-5-0000'") from None
    if not FEWEST <= key[1] <= MOST:
        raise UserError(f"a house has {FEWEST} to {MOST} rooms, not {rooms}")
    rng = np.random.default_rng(key)
    while True:
        new_house = _furnish(rng, *_shell(rng, key[1]), name=name)
        if new_house is not None:
            return new_house


def _shell(rng: np.random.Generator, count: int) -> tuple[list[Room], list[Door]]:
    """Draw rooms and doors: a rectangle, cut into `count` rooms that are all connected."""
    while True:
        area, ratio = count * AREA, rng.uniform(1.0, 1.5)
        rects = [(0.0, 0.0, round(float(np.sqrt(area * ratio)), 2), round(float(np.sqrt(area / ratio)), 2))]
        while len(rects) < count:
            rects.sort(key=_area)
            rects += _cut(rng, rects.pop())
        doors = _doors(rng, rects)
        if doors is not None and all(min(_sides(rect)) >= NARROWEST for rect in rects):
            return _assign_types(rng, rects, doors), doors


def _cut(rng: np.random.Generator, rect: Rect) -> list[Rect]:
    x0, z0, x1, z1 = rect
    share = rng.uniform(0.38, 0.62)
    if x1 - x0 > z1 - z0:
        x = round(float(x0 + share * (x1 - x0)), 2)
        return [(x0, z0, x, z1), (x, z0, x1, z1)]
    z = round(float(z0 + share * (z1 - z0)), 2)
    return [(x0, z0, x1, z), (x0, z, x1, z1)]


def _sides(rect: Rect) -> tuple[float, float]:
    return rect[2] - rect[0], rect[3] - rect[1]


def _area(rect: Rect) -> float:
    width, depth = _sides(rect)
    return width * depth


def _doors(rng: np.random.Generator, rects: list[Rect]) -> list[Door] | None:
    """Draw doors that connect all rooms, and sometimes more; None if that is not possible."""
    possible = [door for a in range(len(rects)) for b in range(a) if (door := _door(rng, rects, a, b))]
    group, doors = list(range(len(rects))), []
    for door in [possible[i] for i in rng.permutation(len(possible))]:
        a, b = (group[room] for room in door.rooms)
        if a != b or rng.random() < 0.25:
            doors.append(door)
            group = [a if index == b else index for index in group]
    return doors if len(set(group)) == 1 else None


def _door(rng: np.random.Generator, rects: list[Rect], a: int, b: int) -> Door | None:
    """Draw a door in the wall that two rooms share; None if they share none or it is too short."""
    margin = 0.35
    for along in (0, 1):
        across = 1 - along
        low = max(rects[a][along], rects[b][along]) + margin
        high = min(rects[a][along + 2], rects[b][along + 2]) - margin
        common_walls = [
            at for at in (rects[a][across], rects[a][across + 2]) if at in (rects[b][across], rects[b][across + 2])
        ]
        if common_walls and high - low >= DOOR_WIDTH:
            start = round(float(rng.uniform(low, high - DOOR_WIDTH)), 2)
            return Door((a, b), along, common_walls[0], start, round(start + DOOR_WIDTH, 2))
    return None


def _assign_types(rng: np.random.Generator, rects: list[Rect], doors: list[Door]) -> list[Room]:
    """Give types to rooms: the largest is the living room, the smallest the bathroom.

    Of the other rooms, the one with the most doors is the hall, if the house has one.
    """
    order = sorted(range(len(rects)), key=lambda room: _area(rects[room]))
    types = list(ROOM_TYPES[: len(rects)])
    types_of = {order[-1]: "living room", order[0]: "bathroom"}
    remaining = [room for room in order if room not in types_of]
    if "hall" in types:
        hall = max(remaining, key=lambda room: sum(room in door.rooms for door in doors))
        types_of[hall] = "hall"
        remaining.remove(hall)
    for type_ in types_of.values():
        types.remove(type_)
    types_of.update(zip((remaining[i] for i in rng.permutation(len(remaining))), types))
    return [Room(types_of[index], rect) for index, rect in enumerate(rects)]


def _furnish(rng: np.random.Generator, rooms: list[Room], doors: list[Door], name: str) -> House | None:
    """Return the furnished house; None if an essential group does not fit."""
    pieces: list[Piece] = []
    for index, room in enumerate(rooms):
        occupied = [door.rect(reach=1.0) for door in doors if index in door.rooms]
        for number, group in enumerate(FURNISHING[room.type]):
            essential = number < ESSENTIAL[room.type]
            if not essential and rng.random() >= group.chance:
                continue
            placed = _place(rng, group, room, occupied)
            if placed is None and essential:
                return None
            if placed is not None:
                rect, (x, z), turn = placed
                occupied.append(_grown(rect, AISLE))
                colour = int(rng.integers(2**31))
                pieces += [_piece(entry, x, z, turn, index, colour) for entry in group.pieces]
    return House(name, tuple(rooms), tuple(doors), tuple(pieces))


def _place(
    rng: np.random.Generator, group: Group, room: Room, occupied: list[Rect]
) -> tuple[Rect, tuple[float, float], int] | None:
    """Draw the rectangle of a group, the middle of its back edge and its turn; None if it does not fit."""
    x0, z0, x1, z1 = _grown(room.inside, -AISLE if group.placement == "free" else 0.0)
    for _ in range(60):
        turn = int(rng.integers(4))
        width, depth = (x1 - x0, z1 - z0) if turn % 2 == 0 else (z1 - z0, x1 - x0)
        if width < group.width or depth < group.depth:
            continue
        share = float(rng.integers(2)) if group.placement == "corner" else float(rng.random())
        side = group.width / 2 + share * (width - group.width)
        back = float(rng.random()) * (depth - group.depth) if group.placement == "free" else 0.0
        x, z = ((x0 + side, z0 + back), (x0 + back, z1 - side), (x1 - side, z1 - back), (x1 - back, z0 + side))[turn]
        corners = [
            _moved(x, z, turn, across, out)
            for across in (-group.width / 2, group.width / 2)
            for out in (0, group.depth)
        ]
        xs, zs = zip(*corners)
        rect = (min(xs), min(zs), max(xs), max(zs))
        if not any(_overlap(rect, occupied_rect) for occupied_rect in occupied):
            return rect, (x, z), turn
    return None


def _piece(entry: tuple[str, float, float, int, float], x: float, z: float, turn: int, room: int, colour: int) -> Piece:
    kind, across, out, piece_turn, y = entry
    px, pz = _moved(x, z, turn, across, out)
    return Piece(kind, round(px, 3), round(pz, 3), y, (turn + piece_turn) % 4, room, colour)


def _moved(x: float, z: float, turn: int, across: float, out: float) -> tuple[float, float]:
    """Move (x, z) by `across` to the right and `out` to the front, in the frame of a turn."""
    right, front = RIGHT[turn], FRONT[turn]
    return x + across * right[0] + out * front[0], z + across * right[1] + out * front[1]


def _grown(rect: Rect, by: float) -> Rect:
    return rect[0] - by, rect[1] - by, rect[2] + by, rect[3] + by


def _overlap(a: Rect, b: Rect) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
