"""Furniture of the generated houses: each kind is a few boxes, cylinders and ellipsoids in familiar colours.

A part fills a box in the coordinates of its piece, in metres: x across, y up from the floor, z to the front; the back
of the piece is at z = 0 and its middle at x = 0. Kinds with a category are goals of ObjectNav; other kinds
characterise a room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Categories of ObjectNav HM3D by their number, and their names in instructions.
CATEGORIES = ("chair", "bed", "plant", "toilet", "tv_monitor", "sofa")
WORDS = {category: category for category in CATEGORIES} | {"tv_monitor": "tv"}

Colour = tuple  # red, green and blue in 0..255
Shape = Literal["box", "cylinder", "ball"]

WHITE, CREAM, STEEL, BLACK = (240, 240, 238), (226, 214, 190), (176, 182, 190), (28, 28, 32)
OAK, WALNUT, PINE = (156, 106, 62), (98, 62, 38), (196, 154, 100)
GREEN, LEAF, CLAY = (44, 112, 48), (70, 146, 58), (178, 88, 54)
FABRICS = ((150, 42, 46), (46, 78, 140), (92, 98, 106), (62, 112, 92), (184, 140, 76))
WOODS = (OAK, WALNUT, PINE)


@dataclass(frozen=True)
class Part:
    """Solid part of a piece of furniture, which fills the box from `low` to `high`.

    Args:
        shape: "box", "cylinder" (upright) or "ball" (an ellipsoid).
        low: The lower corner of the box, x, y, z in metres.
        high: The upper corner of the box.
        colour: Red, green and blue, 0..255.
    """

    shape: Shape
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: Colour


Builder = Callable[[np.random.Generator], list]  # of Parts


@dataclass(frozen=True)
class Kind:
    """Kind of furniture.

    Args:
        name: The name of the kind, such as "office chair".
        width: The size along x in metres.
        depth: The size along z in metres.
        height: The size along y in metres.
        build: Returns the parts from a random generator, which chooses the colours.
    """

    name: str
    width: float
    depth: float
    height: float
    build: Builder


def _box(x: float, y: float, z: float, width: float, height: float, depth: float, colour: Colour) -> Part:
    """Return a box centred at x, with its bottom at y and its back at z."""
    return Part("box", (x - width / 2, y, z), (x + width / 2, y + height, z + depth), colour)


def _round(x: float, y: float, z: float, width: float, height: float, depth: float, colour: Colour) -> Part:
    return Part("cylinder", (x - width / 2, y, z), (x + width / 2, y + height, z + depth), colour)


def _ball(x: float, y: float, z: float, width: float, height: float, depth: float, colour: Colour) -> Part:
    return Part("ball", (x - width / 2, y, z), (x + width / 2, y + height, z + depth), colour)


def _legs(width: float, depth: float, height: float, thick: float, colour: Colour) -> list[Part]:
    ends = [(side * (width - thick) / 2, z) for side in (-1, 1) for z in (0.0, depth - thick)]
    return [_box(x, 0.0, z, thick, height, thick, colour) for x, z in ends]


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _chair(rng: np.random.Generator) -> list[Part]:
    wood = _pick(rng, WOODS)
    posts = [_box(side * 0.19, 0.46, 0.0, 0.05, 0.46, 0.05, wood) for side in (-1, 1)]
    rails = [_box(0, y, 0.005, 0.38, 0.09, 0.035, wood) for y in (0.58, 0.72, 0.84)]
    return [*_legs(0.43, 0.45, 0.43, 0.05, wood), _box(0, 0.43, 0, 0.45, 0.05, 0.45, wood), *posts, *rails]


def _office_chair(rng: np.random.Generator) -> list[Part]:
    fabric = _pick(rng, (BLACK, (40, 52, 84)))
    feet = [_box(0, 0.04, 0.22, 0.5, 0.05, 0.06, STEEL), _box(0, 0.04, 0.0, 0.06, 0.05, 0.5, STEEL)]
    post = _round(0, 0.05, 0.22, 0.07, 0.4, 0.07, STEEL)
    return [
        *feet,
        post,
        _box(0, 0.44, 0.02, 0.48, 0.09, 0.46, fabric),
        _box(0, 0.56, 0.0, 0.44, 0.4, 0.07, fabric),
    ]


def _bed(rng: np.random.Generator) -> list[Part]:
    wood, blanket = _pick(rng, WOODS), _pick(rng, FABRICS)
    pillows = [_box(x, 0.52, 0.12, 0.58, 0.14, 0.38, WHITE) for x in (-0.37, 0.37)]
    return [
        _box(0, 0, 0, 1.6, 1.05, 0.08, wood),
        _box(0, 0.1, 0.08, 1.6, 0.2, 1.92, wood),
        _box(0, 0.3, 0.08, 1.54, 0.22, 1.88, CREAM),
        _box(0, 0.22, 0.72, 1.58, 0.33, 1.26, blanket),
        *pillows,
    ]


def _plant(rng: np.random.Generator) -> list[Part]:
    leaves = [(0, 0.85, 0.0, 0.34), (-0.12, 0.62, 0.04, 0.3), (0.13, 0.66, -0.05, 0.3), (0.02, 0.5, 0.1, 0.26)]
    crowns = [
        _ball(x, y, 0.2 + z - size / 2, size * 0.8, size * 1.3, size, colour)
        for (x, y, z, size), colour in zip(leaves, (LEAF, GREEN, LEAF, GREEN))
    ]
    pot = [_round(0, 0, 0.06, 0.28, 0.3, 0.28, CLAY), _round(0, 0.27, 0.03, 0.34, 0.08, 0.34, CLAY)]
    return [*pot, _round(0, 0.35, 0.18, 0.04, 0.4, 0.04, WALNUT), *crowns]


def _toilet(rng: np.random.Generator) -> list[Part]:
    return [
        _box(0, 0.36, 0.0, 0.42, 0.42, 0.19, WHITE),
        _box(0, 0.78, 0.0, 0.44, 0.04, 0.21, (222, 224, 224)),
        _round(0, 0.0, 0.16, 0.24, 0.26, 0.36, (226, 228, 228)),
        _round(0, 0.2, 0.17, 0.38, 0.2, 0.5, WHITE),
        _round(0, 0.4, 0.17, 0.41, 0.025, 0.52, (206, 210, 212)),
        _round(0, 0.425, 0.23, 0.27, 0.006, 0.36, (96, 116, 128)),
        _box(0.15, 0.69, 0.19, 0.07, 0.03, 0.02, STEEL),
    ]


def _tv(rng: np.random.Generator) -> list[Part]:
    return [
        _box(0, 0, 0.02, 0.4, 0.03, 0.2, BLACK),
        _box(0, 0.03, 0.08, 0.08, 0.1, 0.05, BLACK),
        _box(0, 0.1, 0.07, 1.12, 0.66, 0.06, BLACK),
        _box(0, 0.14, 0.13, 1.05, 0.58, 0.004, (58, 84, 118)),
        _box(-0.22, 0.3, 0.134, 0.4, 0.34, 0.002, (84, 118, 156)),
    ]


def _monitor(rng: np.random.Generator) -> list[Part]:
    return [
        _box(0, 0, 0.02, 0.24, 0.02, 0.18, BLACK),
        _box(0, 0.02, 0.07, 0.06, 0.12, 0.04, BLACK),
        _box(0, 0.12, 0.06, 0.62, 0.38, 0.05, BLACK),
        _box(0, 0.15, 0.11, 0.57, 0.32, 0.004, (72, 112, 160)),
        _box(0, 0.0, 0.26, 0.42, 0.02, 0.13, (60, 62, 66)),
    ]


def _sofa(rng: np.random.Generator) -> list[Part]:
    fabric = _pick(rng, FABRICS)
    cushion = tuple(min(255, int(1.18 * value) + 8) for value in fabric)
    seats = [_box(x, 0.36, 0.2, 0.76, 0.12, 0.64, cushion) for x in (-0.39, 0.39)]
    backs = [_box(x, 0.48, 0.16, 0.74, 0.36, 0.16, cushion) for x in (-0.39, 0.39)]
    arms = [_box(side * 0.89, 0.06, 0.0, 0.2, 0.56, 0.86, fabric) for side in (-1, 1)]
    base = [_box(0, 0.06, 0.0, 1.6, 0.3, 0.84, fabric), _box(0, 0.06, 0.0, 1.6, 0.76, 0.18, fabric)]
    return [*base, *arms, *seats, *backs]


def _table(width: float, depth: float, height: float, thick: float = 0.06) -> Builder:
    def build(rng: np.random.Generator) -> list[Part]:
        wood = _pick(rng, WOODS)
        legs = _legs(width - 0.06, depth, height - 0.04, thick, wood)
        return [*legs, _box(0, height - 0.04, 0, width, 0.04, depth, wood)]

    return build


def _cupboard(width: float, depth: float, height: float, doors: int, colours: tuple[Colour, ...]) -> Builder:
    """Return the builder of a cupboard with doors side by side, each with a handle."""

    def build(rng: np.random.Generator) -> list[Part]:
        body = _pick(rng, colours)
        front = tuple(int(0.88 * value) for value in body)
        leaf = width / doors
        parts = [_box(0, 0.0, 0, width, height, depth - 0.02, body)]
        for door in range(doors):
            x = (door + 0.5) * leaf - width / 2
            parts.append(_box(x, 0.05, depth - 0.02, leaf - 0.03, height - 0.08, 0.012, front))
            parts.append(_box(x + leaf * 0.36, height * 0.5, depth - 0.008, 0.02, height * 0.12, 0.02, STEEL))
        return parts

    return build


def _counter(rng: np.random.Generator) -> list[Part]:
    cupboard = _cupboard(1.4, 0.6, 0.86, 3, ((206, 198, 180), (150, 170, 176)))(rng)
    sink = [_box(0.3, 0.9, 0.12, 0.5, 0.005, 0.38, (120, 128, 136)), _box(0.3, 0.9, 0.05, 0.04, 0.26, 0.04, STEEL)]
    tap = _box(0.3, 1.13, 0.05, 0.03, 0.03, 0.2, STEEL)
    return [*cupboard, _box(0, 0.86, 0, 1.42, 0.04, 0.62, (74, 72, 70)), *sink, tap]


def _stove(rng: np.random.Generator) -> list[Part]:
    centres = [(x, z) for x in (-0.14, 0.14) for z in (0.07, 0.33)]
    rings = [_round(x, 0.9, z, 0.2, 0.012, 0.2, (60, 20, 18)) for x, z in centres]
    knobs = [_round(x, 0.8, 0.6, 0.05, 0.05, 0.03, BLACK) for x in (-0.2, -0.07, 0.07, 0.2)]
    return [
        _box(0, 0, 0, 0.6, 0.88, 0.6, (214, 216, 218)),
        _box(0, 0.88, 0, 0.6, 0.02, 0.6, BLACK),
        _box(0, 0.18, 0.6, 0.48, 0.44, 0.01, (38, 38, 42)),
        _box(0, 0.67, 0.61, 0.46, 0.03, 0.03, STEEL),
        *rings,
        *knobs,
    ]


def _fridge(rng: np.random.Generator) -> list[Part]:
    body = _pick(rng, ((228, 230, 232), STEEL))
    doors = [_box(0, y, 0.62, 0.66, high, 0.05, body) for y, high in ((0.04, 1.12), (1.19, 0.55))]
    handles = [_box(-0.27, y, 0.67, 0.03, 0.36, 0.04, (90, 94, 100)) for y in (0.72, 1.24)]
    return [_box(0, 0, 0, 0.68, 1.76, 0.62, tuple(int(0.8 * value) for value in body)), *doors, *handles]


def _bathtub(rng: np.random.Generator) -> list[Part]:
    return [
        _box(0, 0, 0, 1.6, 0.5, 0.74, WHITE),
        _box(0, 0.5, 0, 1.64, 0.05, 0.76, (224, 226, 228)),
        _box(0, 0.551, 0.1, 1.36, 0.002, 0.54, (150, 196, 214)),
        _box(-0.72, 0.55, 0.34, 0.05, 0.2, 0.05, STEEL),
        _box(-0.66, 0.72, 0.34, 0.17, 0.04, 0.05, STEEL),
    ]


def _washbasin(rng: np.random.Generator) -> list[Part]:
    return [
        _round(0, 0, 0.1, 0.16, 0.72, 0.16, WHITE),
        _round(0, 0.7, 0.0, 0.58, 0.16, 0.44, WHITE),
        _round(0, 0.861, 0.06, 0.42, 0.004, 0.3, (186, 204, 212)),
        _box(0, 0.86, 0.02, 0.04, 0.16, 0.04, STEEL),
        _box(0, 1.2, 0.0, 0.6, 0.7, 0.02, (178, 208, 222)),
        _box(0, 1.18, 0.0, 0.64, 0.74, 0.012, PINE),
    ]


def _bookshelf(rng: np.random.Generator) -> list[Part]:
    wood = _pick(rng, WOODS)
    back = tuple(int(0.6 * value) for value in wood)
    sides = [_box(side * 0.48, 0, 0, 0.04, 1.9, 0.3, wood) for side in (-1, 1)]
    boards = [_box(0, y, 0, 0.92, 0.04, 0.3, wood) for y in (0.02, 0.4, 0.78, 1.16, 1.54, 1.86)]
    books = []
    for y in (0.06, 0.44, 0.82, 1.2, 1.58):
        for x in np.arange(-0.42, 0.4, 0.085):
            colour = tuple(int(value) for value in rng.integers(40, 210, 3))
            books.append(_box(float(x), y, 0.04, 0.07, float(rng.uniform(0.18, 0.26)), 0.2, colour))
    return [_box(0, 0, 0, 0.96, 1.88, 0.02, back), *sides, *boards, *books]


def _coat_rack(rng: np.random.Generator) -> list[Part]:
    coat = _pick(rng, FABRICS)
    arms = [_box(0, 1.6, 0.19, 0.4, 0.03, 0.03, WALNUT), _box(0, 1.6, 0.0, 0.03, 0.03, 0.4, WALNUT)]
    foot, post = _round(0, 0, 0.05, 0.3, 0.04, 0.3, WALNUT), _round(0, 0.04, 0.18, 0.05, 1.7, 0.05, WALNUT)
    return [foot, post, *arms, _box(0.14, 0.85, 0.1, 0.14, 0.74, 0.22, coat)]


def _lamp(rng: np.random.Generator) -> list[Part]:
    foot, post = _round(0, 0, 0.04, 0.26, 0.03, 0.26, BLACK), _round(0, 0.03, 0.155, 0.03, 1.3, 0.03, BLACK)
    return [foot, post, _round(0, 1.28, 0.0, 0.34, 0.3, 0.34, (250, 232, 170))]


_KINDS = (
    Kind("chair", 0.46, 0.46, 0.93, _chair),
    Kind("office chair", 0.5, 0.5, 0.96, _office_chair),
    Kind("bed", 1.6, 2.0, 1.05, _bed),
    Kind("plant", 0.5, 0.44, 1.3, _plant),
    Kind("toilet", 0.44, 0.69, 0.82, _toilet),
    Kind("tv", 1.12, 0.2, 0.76, _tv),
    Kind("monitor", 0.62, 0.4, 0.5, _monitor),
    Kind("sofa", 1.98, 0.86, 0.84, _sofa),
    Kind("table", 1.2, 0.8, 0.75, _table(1.2, 0.8, 0.75)),
    Kind("coffee table", 0.9, 0.5, 0.4, _table(0.9, 0.5, 0.4, 0.05)),
    Kind("desk", 1.3, 0.62, 0.74, _table(1.3, 0.62, 0.74)),
    Kind("tv stand", 1.4, 0.4, 0.48, _cupboard(1.4, 0.4, 0.48, 3, WOODS)),
    Kind("nightstand", 0.44, 0.4, 0.5, _cupboard(0.44, 0.4, 0.5, 1, WOODS)),
    Kind("wardrobe", 1.2, 0.58, 1.95, _cupboard(1.2, 0.58, 1.95, 2, (*WOODS, CREAM))),
    Kind("cabinet", 0.9, 0.36, 0.85, _cupboard(0.9, 0.36, 0.85, 2, (*WOODS, CREAM))),
    Kind("counter", 1.42, 0.62, 1.16, _counter),
    Kind("stove", 0.6, 0.64, 0.92, _stove),
    Kind("fridge", 0.68, 0.71, 1.76, _fridge),
    Kind("bathtub", 1.64, 0.76, 0.76, _bathtub),
    Kind("washbasin", 0.64, 0.44, 1.92, _washbasin),
    Kind("bookshelf", 1.0, 0.3, 1.9, _bookshelf),
    Kind("coat rack", 0.42, 0.42, 1.74, _coat_rack),
    Kind("lamp", 0.34, 0.34, 1.58, _lamp),
)
KINDS = {kind.name: kind for kind in _KINDS}

# Kind -> its ObjectNav category; an "office chair" is a chair, a "monitor" a tv_monitor.
CATEGORY_OF = {category: category for category in CATEGORIES if category in KINDS}
CATEGORY_OF.update({"office chair": "chair", "tv": "tv_monitor", "monitor": "tv_monitor"})
# Kind -> its name in `labels`.
NAMES = {name: WORDS[CATEGORY_OF[name]] if name in CATEGORY_OF else name for name in KINDS}
