"""Shortest paths on a Doom map, for oracles: breadth-first search on a grid from the goal."""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Wall = tuple[float, float, float, float]  # x1, y1, x2, y2
Disc = tuple[float, float, float]  # x, y, radius
Cell = tuple[int, int]

CELL = 16  # side of a grid cell in map units: half the player's width
BODY = 20  # units kept between the player's centre and a wall; the player's radius is 16
NEIGHBOURS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


class Plan:
    """Shortest paths from every cell of a grid to a goal, around walls and discs.

    Args:
        goal: The end (x, y) of all paths, in map units.
        walls: Line segments (x1, y1, x2, y2) that the player cannot cross.
        discs: Circles (x, y, radius) that paths avoid.

    Attributes:
        free: Whether the player can stand in each cell, bool [columns, rows].
        steps: The number of grid steps to the goal from each cell, [columns, rows]; inf = no path.
    """

    def __init__(self, goal: Point, walls: tuple[Wall, ...], discs: tuple[Disc, ...] = ()) -> None:
        ends = np.array(walls, float).reshape(-1, 2, 2)
        self._origin = ends.min(axis=(0, 1))
        columns, rows = ((ends.max(axis=(0, 1)) - self._origin) // CELL + 1).astype(int)
        index = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), axis=-1)
        centres = self._origin + (index + 0.5) * CELL
        self.free = np.ones((columns, rows), bool)
        for start, end in ends:
            self.free &= _distance_to_segment(centres, start, end) > BODY
        for x, y, radius in discs:
            self.free &= np.hypot(centres[..., 0] - x, centres[..., 1] - y) > radius
        self.steps = self._flood(self._cell(goal))

    def waypoint(self, start: Point) -> Point:
        """Return the furthest point of the shortest path that the player can reach in a straight line.

        Args:
            start: The player's position (x, y), in map units.
        """
        cell = self._nearest_reachable(start)
        best = cell
        while self.steps[cell] > 0:
            cell = min(self._around(cell), key=lambda neighbour: self.steps[neighbour])
            if not self._clear(start, self._centre(cell)):
                break
            best = cell
        return self._centre(best)

    def _flood(self, goal: Cell) -> NDArray[np.float64]:
        steps = np.full(self.free.shape, np.inf)
        steps[goal] = 0
        queue = deque([goal])
        while queue:
            cell = queue.popleft()
            for neighbour in self._around(cell):
                if self.free[neighbour] and steps[neighbour] == np.inf:
                    steps[neighbour] = steps[cell] + 1
                    queue.append(neighbour)
        return steps

    def _around(self, cell: Cell) -> list[Cell]:
        columns, rows = self.free.shape
        cells = [(cell[0] + i, cell[1] + j) for i, j in NEIGHBOURS]
        return [(i, j) for i, j in cells if 0 <= i < columns and 0 <= j < rows]

    def _clear(self, start: Point, end: Point) -> bool:
        points = np.linspace(start, end, int(math.dist(start, end) / CELL * 2) + 2)[2:]
        return bool((self.steps[self._cells(points)] < np.inf).all())

    def _nearest_reachable(self, point: Point) -> Cell:
        """Return the nearest cell with a path to the goal, since the player may touch a wall."""
        reachable = np.argwhere(self.steps < np.inf)
        i, j = reachable[np.abs(reachable - np.array(self._cell(point))).sum(axis=1).argmin()]
        return int(i), int(j)

    def _cell(self, point: Point) -> Cell:
        i, j = self._cells(np.array([point]))
        return int(i[0]), int(j[0])

    def _cells(self, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Return the columns [N] and rows [N] of the cells of points [N, 2]; the nearest cell outside the grid."""
        cells = ((points - self._origin) // CELL).astype(int)
        return tuple(cells.clip(0, np.array(self.free.shape) - 1).T)

    def _centre(self, cell: Cell) -> Point:
        x, y = self._origin + (np.array(cell) + 0.5) * CELL
        return float(x), float(y)


plan = lru_cache(maxsize=8)(Plan)


def _distance_to_segment(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distances [...] of points [..., 2] from a line segment."""
    along = end - start
    share = ((points - start) @ along / (along @ along)).clip(0, 1)
    distance: NDArray[np.float64] = np.linalg.norm(points - start - share[..., None] * along, axis=-1)
    return distance
