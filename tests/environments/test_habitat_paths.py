"""Collisions and shortest paths among rectangles, compared with lengths computed by geometry."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.environments.habitat.paths import NEARER, SKIN, Floor

RADIUS = 0.18
WALL = (1.0, -5.0, 2.0, 1.0)  # the path goes around its corners at z = 1


def length(floor: Floor, start: tuple[float, float], *goals: tuple[float, float]) -> float:
    return float(floor.paths_to(np.array(goals)).distances(np.array([start]))[0])


def around_the_wall(radius: float) -> float:
    """Length from (0, 0) to (3, 0): a tangent to the circle around (1, 1), an arc, the top of the wall, and down."""
    reach = math.sqrt(2)
    arc = math.atan2(1, 1) + math.asin(radius / reach)
    return 2 * (math.sqrt(reach**2 - radius**2) + radius * arc) + 1


def test_path_around_a_wall_is_at_most_two_centimetres_too_short() -> None:
    result = length(Floor([WALL], RADIUS), (0, 0), (3, 0))
    assert around_the_wall(RADIUS * NEARER) <= result <= around_the_wall(RADIUS)
    assert around_the_wall(RADIUS) - around_the_wall(RADIUS * NEARER) < 0.02


def test_free_path_is_a_straight_line_to_the_nearest_goal() -> None:
    floor = Floor([WALL], RADIUS)
    assert length(floor, (-3, 0), (0, 4)) == pytest.approx(5)
    assert length(floor, (-3, 0), (0, 4), (-3, 2), (30, 0)) == pytest.approx(2)
    assert length(Floor([], RADIUS), (0, 0), (3, 4)) == pytest.approx(5)


def test_no_path_through_closed_walls_and_narrow_gaps() -> None:
    sides = [(-1, -1, 1, -0.9), (-1, 0.9, 1, 1), (-1, -1, -0.9, 1)]
    assert length(Floor([*sides, (0.9, -1, 1, 1)], RADIUS), (0, 0), (3, 0)) == math.inf
    for gap, expected in ((0.34, math.inf), (0.38, 3.0)):
        halves = [(0.9, -1, 1, -gap / 2), (0.9, gap / 2, 1, 1)]
        assert length(Floor([*sides, *halves], RADIUS), (0, 0), (3, 0)) == pytest.approx(expected)


def test_path_has_the_length_of_the_distance() -> None:
    path = Floor([WALL], RADIUS).paths_to(np.array([(3.0, 0.0)])).path(np.array([0.0, 0.0]))
    legs = [math.dist(a, b) for a, b in zip(path, path[1:], strict=False)]
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [3, 0]
    assert sum(legs) == pytest.approx(length(Floor([WALL], RADIUS), (0, 0), (3, 0)))


@pytest.mark.parametrize(
    ("start", "end", "stop"),
    [
        ((0, 0), (2, 0), (1 - RADIUS, 0)),  # a face
        ((0, 1.1), (2, 1.1), (1 - math.sqrt(RADIUS**2 - 0.1**2), 1.1)),  # a corner, 0.1 m beside its middle
        ((0, 1.17), (3, 1.17), (1 - math.sqrt(RADIUS**2 - 0.17**2), 1.17)),
    ],
)
def test_move_stops_at_the_obstacle(start: tuple, end: tuple, stop: tuple) -> None:
    position, collided = Floor([WALL], RADIUS).move(np.array(start, float), np.array(end, float))
    assert collided
    assert math.dist(position, stop) == pytest.approx(SKIN)


def test_move_along_and_away_from_an_obstacle() -> None:
    floor = Floor([WALL], RADIUS)
    beside, touching = np.array([0.0, 1.0 + RADIUS + 1e-6]), np.array([1 - RADIUS - 1e-6, 0.0])
    assert not floor.move(beside, beside + (3, 0))[1]
    assert not floor.move(touching, touching - (1, 0))[1]
    assert floor.move(touching, touching + (1, 0))[0] == pytest.approx(touching, abs=1e-5)
    assert floor.free(np.array([beside, touching, (1.1, 0.0), (0.83, 0.0)])).tolist() == [True, True, False, False]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("deviation", [0.0, 5e-324, -1e-310])
def test_move_that_deviates_from_an_axis_by_almost_nothing_ends_as_one_along_it(deviation: float) -> None:
    start, end = np.array([0.0, 0.0]), np.array([3.0, deviation])
    position, collided = Floor([WALL], RADIUS).move(start, end)
    assert collided and position == pytest.approx((1 - RADIUS - SKIN, 0))
    assert not Floor([(1.0, 1.0, 2.0, 5.0)], RADIUS).move(start, end)[1]  # a wall beside the line


rectangles = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 2), st.floats(0.05, 2)).map(
        lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3])
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(rectangles, st.lists(st.floats(-math.pi, math.pi), min_size=1, max_size=30), st.floats(-3, 3))
def test_distance_is_at_most_the_length_of_any_walk(obstacles: list, headings: list[float], x: float) -> None:
    """If a distance were too long, SPL would be cut off at 1 and too high."""
    floor, position = Floor(obstacles, RADIUS), np.array([x, 0.0])
    if not floor.free(position[None])[0]:
        return
    start, walked = position, 0.0
    for heading in headings:
        before = position
        position, _ = floor.move(position, position + 0.25 * np.array([math.cos(heading), math.sin(heading)]))
        walked += math.dist(before, position)
        assert floor.free(position[None])[0]
    distance = length(floor, tuple(start), tuple(position))
    assert math.dist(start, position) - 1e-9 <= distance <= walked + 1e-9
    assert distance == pytest.approx(length(floor, tuple(position), tuple(start)))
