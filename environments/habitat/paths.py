"""Free space of a disc among rectangles, and its shortest paths (a visibility graph).

A disc of radius r can stand at a point if no obstacle is nearer than r: obstacles grow by r and get round corners. A
shortest path consists of straight lines and arcs around corners. Here a quarter arc is ARC + 1 points joined by
straight lines, which come as near as r * NEARER to the corner. So a path is at least as long as the path of a disc of
radius r * NEARER and at most as long as the path of the disc itself: it is never too long, and at most 2 cm too short
per corner (r = 0.18 m).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ARC = 3  # straight lines per quarter circle
NEARER = math.cos(math.pi / (4 * ARC))
LEAN = math.sin(math.pi / (4 * ARC))
SKIN = 1e-3  # metres kept between the disc and an obstacle that stops it


class Floor:
    """Free space of a disc among obstacles.

    Args:
        obstacles: Rectangles (x0, z0, x1, z1) in metres.
        radius: The radius of the disc in metres.

    Attributes:
        corners: The C free points at which shortest paths can bend, [C, 2].
        lengths: The lengths of straight lines between corners, [C, C]; inf = blocked or never part of a shortest path.
    """

    def __init__(self, obstacles: Sequence[Sequence[float]], radius: float) -> None:
        self.obstacles = np.array(obstacles, float).reshape(-1, 4)
        self.radius = radius
        self.corners, self._normals = self._corners()
        bent = self.bent(self.corners)
        self.lengths = self.straight(self.corners, self.corners, bent & bent.T)

    def free(self, points: Floats) -> NDArray[np.bool_]:
        """Return whether the disc can stand at each of the points [P, 2], bool [P].

        Args:
            points: Centres (x, z) of the disc in metres. A disc that touches an obstacle is free.
        """
        return self._gaps(points).min(axis=1, initial=np.inf) >= self.radius - 1e-9

    def straight(self, starts: Floats, ends: Floats, useful: NDArray[np.bool_]) -> Floats:
        """Return the lengths of straight lines.

        Args:
            starts: Points [S, 2].
            ends: Points [E, 2].
            useful: Which lines to compute, [S, E].

        Returns:
            Lengths in metres, [S, E]; inf if the line is blocked or not useful.
        """
        lengths = np.full(useful.shape, np.inf)
        start, end = np.nonzero(useful)
        clear = self._contact(starts[start], ends[end], self.radius * NEARER - 1e-6) > 1
        start, end = start[clear], end[clear]
        lengths[start, end] = np.linalg.norm(starts[start] - ends[end], axis=1)
        return lengths

    def bent(self, points: Floats) -> NDArray[np.bool_]:
        """Return whether a straight line from each point [P, 2] can touch and bend at each corner, bool [P, C].

        Args:
            points: Points (x, z) in metres.
        """
        offsets = self.corners - points[:, None]
        lean = np.abs((offsets * self._normals).sum(axis=-1))
        lengths = np.linalg.norm(offsets, axis=-1)
        return (lean <= LEAN * lengths + 1e-9) & (lengths > 1e-9)

    def move(self, start: Floats, end: Floats) -> tuple[Floats, bool]:
        """Move the disc in a straight line until it touches an obstacle.

        Args:
            start: The start [2].
            end: The end [2].

        Returns:
            The position [2] at which the disc stops, and whether an obstacle has stopped it.
        """
        share = float(self._contact(start[None], end[None], self.radius)[0])
        if share > 1:
            return end, False
        length = float(np.linalg.norm(end - start))
        return start + (end - start) * max(share - SKIN / length, 0.0), True

    def paths_to(self, goals: Floats) -> ShortestPaths:
        """Return the shortest paths to the nearest of some goals.

        Args:
            goals: Points [G, 2], which must be free.
        """
        return ShortestPaths(self, goals)

    def _corners(self) -> tuple[Floats, Floats]:
        """Return the free points [C, 2] on the arcs around all corners, and the normals of the arcs there."""
        angles = np.linspace(0, math.pi / 2, ARC + 1)[:, None]
        points, normals = [], []
        for columns, turn in (((2, 3), 0.0), ((0, 3), math.pi / 2), ((0, 1), math.pi), ((2, 1), 1.5 * math.pi)):
            normal = np.concatenate([np.cos(angles + turn), np.sin(angles + turn)], axis=1)
            points.append(self.obstacles[:, None, columns] + self.radius * normal)
            normals.append(np.broadcast_to(normal, points[-1].shape))
        all_points = np.concatenate(points).reshape(-1, 2)
        free = self.free(all_points)
        return all_points[free], np.concatenate(normals).reshape(-1, 2)[free]

    def _gaps(self, points: Floats) -> Floats:
        """Return the distance of each point from each obstacle, [P, N]."""
        low, high = self.obstacles[:, :2], self.obstacles[:, 2:]
        return np.linalg.norm(np.maximum(np.maximum(low - points[:, None], points[:, None] - high), 0), axis=-1)

    def _contact(self, starts: Floats, ends: Floats, radius: float) -> Floats:
        """Return the fraction of each line at which the moving disc first touches an obstacle, [S]; inf = never."""
        first = np.full(len(starts), np.inf)
        for chunk in range(0, len(starts), 4096):
            lines = slice(chunk, chunk + 4096)
            self._first_contact(starts[lines], ends[lines], radius, first[lines])
        return first

    def _first_contact(self, starts: Floats, ends: Floats, radius: float, first: Floats) -> None:
        along = ends - starts
        boxes = np.concatenate([self.obstacles[:, :2] - radius, self.obstacles[:, 2:] + radius], axis=1)
        enters, leaves = _through_boxes(starts[:, None], along[:, None], boxes)
        line, box = np.nonzero((enters < leaves) & (leaves > 0) & (enters < 1))  # check corners for these only
        rect, start, step = self.obstacles[box], starts[line], along[line]
        shares = []
        for grow in ((radius, 0.0), (0.0, radius)):
            low, high = rect[:, :2] - grow, rect[:, 2:] + grow
            shares.append(_first_share(*_through_boxes(start, step, np.concatenate([low, high], axis=1))))
        for corner in ((0, 1), (0, 3), (2, 1), (2, 3)):
            shares.append(_first_share(*_through_discs(start, step, rect[:, corner], radius)))
        np.minimum.at(first, line, np.min(shares, axis=0))


class ShortestPaths:
    """Shortest paths from any point of a floor to the nearest of some goals.

    Args:
        floor: The floor.
        goals: Points [G, 2], which must be free.
    """

    def __init__(self, floor: Floor, goals: Floats) -> None:
        self._floor, self._goals = floor, goals
        direct = floor.straight(goals, floor.corners, floor.bent(goals))
        self._corner_distances = _dijkstra(floor.lengths, direct.min(axis=0, initial=np.inf))

    def distances(self, points: Floats) -> Floats:
        """Return the lengths of the shortest paths.

        Args:
            points: The starts [P, 2].

        Returns:
            Lengths in metres, [P]; inf if there is no path.
        """
        return self._through(points).min(axis=1, initial=np.inf)

    def path(self, start: Floats) -> list[Floats]:
        """Return the points of the shortest path.

        Args:
            start: The start [2].

        Returns:
            The start, the corners and the goal, [2] each; empty if there is no path.
        """
        aims, points = np.concatenate([self._floor.corners, self._goals]), [start]
        while np.isfinite(lengths := self._through(points[-1][None])[0]).any():
            best = int(lengths.argmin())
            points.append(aims[best])
            if best >= len(self._floor.corners):
                return points
        return []

    def _through(self, points: Floats) -> Floats:
        """Return the lengths of the paths that first go straight to each corner or goal, [P, C + G]."""
        floor = self._floor
        corners = floor.straight(points, floor.corners, floor.bent(points)) + self._corner_distances
        goals = floor.straight(points, self._goals, np.ones((len(points), len(self._goals)), bool))
        return np.concatenate([corners, goals], axis=1)


def _through_boxes(starts: Floats, along: Floats, boxes: Floats) -> tuple[Floats, Floats]:
    """Return the fractions of each line at which it enters and leaves a box; boxes [..., 4], lines [..., 2]."""
    # A line along an axis, or one that deviates from it by less than 1e-307 m, has infinite fractions on the other one.
    # Their signs are right: such a deviation enters and leaves no box.
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        lows = (boxes[..., :2] - starts) / along
        highs = (boxes[..., 2:] - starts) / along
    # A line along one axis is always or never inside the box on the other axis; 0 / 0 is the box's edge.
    enters = np.nan_to_num(np.minimum(lows, highs), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    leaves = np.nan_to_num(np.maximum(lows, highs), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    return enters.max(axis=-1), leaves.min(axis=-1)


def _through_discs(starts: Floats, along: Floats, centres: Floats, radius: float) -> tuple[Floats, Floats]:
    offset = starts - centres
    square = np.maximum((along**2).sum(axis=-1), 1e-18)
    half = (offset * along).sum(axis=-1) / square
    inside = half**2 - ((offset**2).sum(axis=-1) - radius**2) / square
    root = np.sqrt(np.maximum(inside, 0))
    misses = inside <= 0
    return np.where(misses, np.inf, -half - root), np.where(misses, -np.inf, -half + root)


def _first_share(enters: Floats, leaves: Floats) -> Floats:
    hit = (enters < leaves) & (leaves > 0) & (enters < 1)
    return np.where(hit, np.maximum(enters, 0), np.inf)


def _dijkstra(lengths: Floats, sources: Floats) -> Floats:
    """Return the shortest distance of each node to the goals, [C].

    Args:
        lengths: The lengths between nodes, [C, C].
        sources: The lengths of direct lines to the nearest goal, [C].
    """
    distances, waiting = sources.copy(), np.ones(len(sources), bool)
    for _ in range(len(sources)):
        node = int(np.where(waiting, distances, np.inf).argmin())
        waiting[node] = False
        distances = np.minimum(distances, distances[node] + lengths[node])
    return distances
