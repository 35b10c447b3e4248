"""Geometry of the generated houses and their episodes, without habitat-lab."""

import json
import math

import numpy as np
import pytest

from pr2l.environments.habitat import dataset
from pr2l.environments.habitat.furniture import CATEGORIES, KINDS, Kind, Part
from pr2l.environments.habitat.houses import (
    FEWEST,
    FURNISHING,
    MOST,
    ROOM_TYPES,
    ROOMS_OF,
    House,
    Piece,
    Room,
    house,
    house_name,
)
from pr2l.environments.habitat.scene import mesh

EMPTY = Room("hall", (0.0, 0.0, 4.0, 3.0))
NAMES = [house_name(split, rooms, index) for index in range(4) for split in ("train", "val") for rooms in (3, 5, 8)]
SLOW_NAMES = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES[6:]]
every_house = pytest.mark.parametrize("name", [*NAMES[:6], *SLOW_NAMES])


REQUIRED = {"bedroom": "bed", "bathroom": "toilet", "living room": "sofa", "kitchen": "chair", "office": "chair"}


def overlap(a: tuple, b: tuple) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@every_house
def test_pieces_are_in_their_rooms(name: str) -> None:
    home = house(name)
    assert all(home.room_at(piece.x, piece.z) == home.rooms[piece.room] for piece in home.pieces)
    assert home.room_at(home.rect[0] - 0.1, home.rect[1]) is None


@every_house
def test_pieces_overlap_neither_walls_nor_doors_nor_each_other(name: str) -> None:
    home = house(name)
    standing = [piece for piece in home.pieces if piece.y == 0]
    for number, piece in enumerate(home.pieces):
        x0, z0, x1, z1 = home.rooms[piece.room].inside
        assert x0 - 0.01 <= piece.rect[0] and z0 - 0.01 <= piece.rect[1], (number, piece)
        assert x1 + 0.01 >= piece.rect[2] and z1 + 0.01 >= piece.rect[3], (number, piece)
    for number, piece in enumerate(standing):
        for other in standing[:number]:
            tucked = {piece.kind, other.kind} in ({"chair", "table"}, {"office chair", "desk"})
            assert tucked or overlap(piece.rect, other.rect) < 1e-3, (piece, other)
    for door in home.doors:
        assert all(overlap(door.rect(1.0), piece.rect) == 0 for piece in standing)


@every_house
def test_all_doors_are_reachable(name: str) -> None:
    home, ground = house(name), dataset.floor(name)
    middles = np.array([((d[0] + d[2]) / 2, (d[1] + d[3]) / 2) for d in (door.rect(0.0) for door in home.doors)])
    assert ground.free(middles).all()
    assert np.isfinite(ground.paths_to(middles[:1]).distances(middles)).all()
    assert {room for door in home.doors for room in door.rooms} == set(range(len(home.rooms)))


@every_house
def test_pieces_suit_the_type_of_their_room(name: str) -> None:
    home = house(name)
    for piece in home.pieces:
        type_ = home.rooms[piece.room].type
        assert piece.kind in {kind for group in FURNISHING[type_] for kind, *_ in group.pieces}
        assert piece.category is None or type_ in ROOMS_OF[piece.category]
    for index, room in enumerate(home.rooms):
        inside = {piece.category for piece in home.pieces if piece.room == index}
        assert room.type == "hall" or REQUIRED[room.type] in inside


def test_rooms_of_each_category() -> None:
    assert ROOMS_OF == {
        "chair": ("kitchen", "office"),
        "bed": ("bedroom",),
        "plant": ("living room", "hall", "office"),
        "toilet": ("bathroom",),
        "tv_monitor": ("living room", "office"),
        "sofa": ("living room",),
    }
    assert tuple(ROOMS_OF) == CATEGORIES


def test_names_determine_houses_and_all_houses_differ() -> None:
    houses = [house(name) for name in NAMES[:6]]
    house.cache_clear()
    assert [house(name) for name in NAMES[:6]] == houses
    plans = {(split, index): house(house_name(split, 5, index)) for split in ("train", "val") for index in range(8)}
    assert len({(home.rooms, home.pieces) for home in plans.values()}) == len(plans)


def test_the_largest_house_has_every_type_of_room():
    assert len(ROOM_TYPES) == MOST


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test-5-0000", "'test-5-0000' is not the name of a house"),
        ("train-5", "not the name of a house"),
        ("train-2-0000", f"has {FEWEST} to {MOST} rooms, not 2"),
    ],
)
def test_unknown_names_raise(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        house(name)


@pytest.mark.parametrize("name", NAMES[:6])
def test_mesh_of_each_piece_fills_its_obstacle(name: str) -> None:
    home = house(name)
    drawn = mesh(home)
    assert drawn.owners.max() == len(home.pieces)
    for owner, piece in enumerate(home.pieces, start=1):
        corners = drawn.corners[drawn.owners == owner].reshape(-1, 3)
        x0, z0, x1, z1 = piece.rect
        low, high = corners.min(axis=0), corners.max(axis=0)
        assert low == pytest.approx([x0, piece.y, z0], abs=0.06), piece
        assert high == pytest.approx([x1, piece.y + KINDS[piece.kind].height, z1], abs=0.06), piece


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("shape", ["box", "cylinder", "ball"])
def test_normals_of_solids_point_outwards(shape: str, turn: int, monkeypatch) -> None:
    part = Part(shape, (-0.2, 0.1, 0.0), (0.3, 0.6, 0.4), (200, 100, 50))
    monkeypatch.setitem(KINDS, "lamp", Kind("lamp", 0.6, 0.4, 0.6, lambda rng: [part]))
    drawn = mesh(House("by hand", (EMPTY,), (), (Piece("lamp", 2.0, 1.5, 0.0, turn, 0, 0),)))
    faces, normals = drawn.corners[drawn.owners == 1], drawn.normals[drawn.owners == 1]
    middle = (faces.min(axis=(0, 1)) + faces.max(axis=(0, 1))) / 2
    assert ((faces.mean(axis=1) - middle) * normals).sum(axis=1).min() > 0
    assert middle[1] == pytest.approx(0.35, abs=0.01)


def test_normals_of_walls_point_into_the_room() -> None:
    drawn = mesh(House("by hand", (EMPTY,), (), ()))
    middle = np.array([2.0, 1.25, 1.5])
    assert ((drawn.corners.mean(axis=1) - middle) * drawn.normals).sum(axis=1).max() < 0
    low, high = drawn.corners.min(axis=(0, 1)), drawn.corners.max(axis=(0, 1))
    assert low == pytest.approx([0.06, 0, 0.06]) and high == pytest.approx([3.94, 2.5, 2.94])


ROOMS, HOUSES = 4, 2


@pytest.fixture(scope="module")
def data() -> dict:
    return dataset.dataset("train", ROOMS, HOUSES)


def test_episodes_start_on_free_floor_at_their_geodesic_distance(data: dict) -> None:
    for episode in data["episodes"][::7]:
        name, start = episode["scene_id"], np.array(episode["start_position"])[[0, 2]]
        goals = data["goals_by_category"][f"{name}_{episode['object_category']}"]
        ground = dataset.floor(name)
        distance = ground.paths_to(dataset.positions(goals)).distances(start[None])[0]
        assert ground.free(start[None])[0]
        assert distance == pytest.approx(episode["info"]["geodesic_distance"], abs=1e-4)
        assert distance >= dataset.NEAREST_START
        assert math.hypot(*episode["start_rotation"]) == pytest.approx(1, abs=1e-5)


def test_view_points_are_near_their_goal_in_its_room_and_close_together(data: dict) -> None:
    for key, goals in data["goals_by_category"].items():
        name = key.split("_")[0]
        for goal in goals:
            piece, points = house(name).pieces[goal["object_id"]], dataset.positions([goal])
            x0, z0, x1, z1 = piece.rect
            gaps = np.hypot(*np.maximum(np.maximum((x0, z0) - points, points - (x1, z1)), 0).T)
            assert piece.category == goal["object_category"] and gaps.max() <= dataset.REACH
            assert dataset.floor(name).free(points).all()
            room: Room = house(name).rooms[piece.room]
            assert ((points > room.rect[:2]) & (points < room.rect[2:])).all()
            distances = np.linalg.norm(points[:, None] - points, axis=-1)
            assert np.sort(distances, axis=1)[:, 1].max() < 2 * dataset.SPACING
    assert dataset.SPACING / math.sqrt(2) < 0.1  # so the centre of four is within the success distance


def test_episodes_ask_for_all_goals_of_every_house(data: dict) -> None:
    assert len(data["episodes"]) == HOUSES * dataset.EPISODES
    asked = {f"{episode['scene_id']}_{episode['object_category']}" for episode in data["episodes"]}
    assert asked == set(data["goals_by_category"])
    assert {key.split("_", 1)[1] for key in asked} == set(CATEGORIES)
    assert data["category_to_task_category_id"] == {
        "chair": 0,
        "bed": 1,
        "plant": 2,
        "toilet": 3,
        "tv_monitor": 4,
        "sofa": 5,
    }


def test_dataset_is_written_once_and_is_reproducible(tmp_path) -> None:
    first, second = (dataset.write(tmp_path / folder, "val", 3, 1) for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes() and first.name == second.name
    written = first.stat().st_mtime_ns
    assert dataset.write(tmp_path / "a", "val", 3, 1).stat().st_mtime_ns == written
    assert dataset.write(tmp_path / "a", "train", 3, 1) != first


def test_unfinished_dataset_is_written_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "EPISODES", 2)
    file = dataset.write(tmp_path, "val", 3, 1)
    whole = file.read_bytes()
    file.unlink()
    file.with_suffix(".part").write_bytes(whole[:100])
    assert dataset.write(tmp_path, "val", 3, 1).read_bytes() == whole


def test_splits_have_no_house_in_common() -> None:
    names = {split: {e["scene_id"] for e in dataset.dataset(split, 3, 2)["episodes"]} for split in ("train", "val")}
    houses = {
        split: {json.dumps([room.rect for room in house(name).rooms]) for name in names[split]} for split in names
    }
    assert not names["train"] & names["val"] and not houses["train"] & houses["val"]


def test_house_of_one_empty_room_has_four_walls() -> None:
    box = House("by hand", (EMPTY,), (), ())
    assert len(box.walls) == 4 and box.obstacles == box.walls
    assert sorted(wall[:2] for wall in box.walls) == [(0.0, 0.0), (0.0, 0.0), (0.0, 2.94), (3.94, 0.0)]
