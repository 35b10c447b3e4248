"""Collisions and shortest ways among rectangles, against lengths worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.environments.habitat.paths import NEARER, SKIN, Floor

RADIUS = 0.18
WALL = (1.0, -5.0, 2.0, 1.0)  # its corners at z = 1 are those to walk around


def length(floor: Floor, start: tuple[float, float], *goals: tuple[float, float]) -> float:
    return float(floor.paths_to(np.array(goals)).distances(np.array([start]))[0])


def around_the_wall(radius: float) -> float:
    """From (0, 0) to (3, 0): a tangent to the circle around (1, 1), an arc, the wall's top, and the same again."""
    reach = math.sqrt(2)
    arc = math.atan2(1, 1) + math.asin(radius / reach)
    return 2 * (math.sqrt(reach**2 - radius**2) + radius * arc) + 1


def test_the_way_around_a_wall_is_that_of_the_body_or_a_little_shorter() -> None:
    found = length(Floor([WALL], RADIUS), (0, 0), (3, 0))
    assert around_the_wall(RADIUS * NEARER) <= found <= around_the_wall(RADIUS)
    assert around_the_wall(RADIUS) - around_the_wall(RADIUS * NEARER) < 0.02


def test_a_free_way_is_a_straight_line_and_the_nearest_goal_counts() -> None:
    floor = Floor([WALL], RADIUS)
    assert length(floor, (-3, 0), (0, 4)) == pytest.approx(5)
    assert length(floor, (-3, 0), (0, 4), (-3, 2), (30, 0)) == pytest.approx(2)
    assert length(Floor([], RADIUS), (0, 0), (3, 4)) == pytest.approx(5)


def test_a_closed_room_cannot_be_left_and_a_slit_must_be_as_wide_as_the_body() -> None:
    sides = [(-1, -1, 1, -0.9), (-1, 0.9, 1, 1), (-1, -1, -0.9, 1)]
    assert length(Floor([*sides, (0.9, -1, 1, 1)], RADIUS), (0, 0), (3, 0)) == math.inf
    for slit, expected in ((0.34, math.inf), (0.38, 3.0)):
        halves = [(0.9, -1, 1, -slit / 2), (0.9, slit / 2, 1, 1)]
        assert length(Floor([*sides, *halves], RADIUS), (0, 0), (3, 0)) == pytest.approx(expected)


def test_the_path_bends_where_the_length_says() -> None:
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
def test_a_body_stops_where_it_touches(start: tuple, end: tuple, stop: tuple) -> None:
    came, collided = Floor([WALL], RADIUS).move(np.array(start, float), np.array(end, float))
    assert collided
    assert math.dist(came, stop) == pytest.approx(SKIN)


def test_a_body_passes_beside_and_leaves_what_it_touches() -> None:
    floor = Floor([WALL], RADIUS)
    beside, touching = np.array([0.0, 1.0 + RADIUS + 1e-6]), np.array([1 - RADIUS - 1e-6, 0.0])
    assert not floor.move(beside, beside + (3, 0))[1]
    assert not floor.move(touching, touching - (1, 0))[1]
    assert floor.move(touching, touching + (1, 0))[0] == pytest.approx(touching, abs=1e-5)
    assert floor.free(np.array([beside, touching, (1.1, 0.0), (0.83, 0.0)])).tolist() == [True, True, False, False]


rectangles = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 2), st.floats(0.05, 2)).map(
        lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3])
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(rectangles, st.lists(st.floats(-math.pi, math.pi), min_size=1, max_size=30), st.floats(-3, 3))
def test_no_walk_is_shorter_than_the_shortest_way(obstacles: list, headings: list[float], x: float) -> None:
    """Were a way ever too long, SPL would be cut at 1 and flatter the agent."""
    floor, place = Floor(obstacles, RADIUS), np.array([x, 0.0])
    if not floor.free(place[None])[0]:
        return
    start, walked = place, 0.0
    for heading in headings:
        before = place
        place, _ = floor.move(place, place + 0.25 * np.array([math.cos(heading), math.sin(heading)]))
        walked += math.dist(before, place)
        assert floor.free(place[None])[0]
    found = length(floor, tuple(start), tuple(place))
    assert math.dist(start, place) - 1e-9 <= found <= walked + 1e-9
    assert found == pytest.approx(length(floor, tuple(place), tuple(start)))
