"""Generated houses and their episodes: geometry that NumPy alone can check, without habitat-lab."""

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
    ROOMS_OF,
    House,
    Piece,
    Room,
    house,
    house_name,
)
from pr2l.environments.habitat.scene import mesh

EMPTY = Room("hall", (0.0, 0.0, 4.0, 3.0))
NAMES = [house_name(split, rooms, index) for split in ("train", "val") for rooms in (3, 5, 8) for index in range(4)]


def area_shared(a: tuple, b: tuple) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_piece_is_at_a_place_of_its_room(name: str) -> None:
    made = house(name)
    assert all(made.room_at(piece.x, piece.z) == made.rooms[piece.room] for piece in made.pieces)
    assert made.room_at(made.rect[0] - 0.1, made.rect[1]) is None


@pytest.mark.parametrize("name", NAMES)
def test_furniture_stands_in_its_room_and_nothing_in_anything_else(name: str) -> None:
    made = house(name)
    standing = [piece for piece in made.pieces if piece.y == 0]
    for number, piece in enumerate(made.pieces):
        x0, z0, x1, z1 = made.rooms[piece.room].inside
        assert x0 - 0.01 <= piece.rect[0] and z0 - 0.01 <= piece.rect[1], (number, piece)
        assert x1 + 0.01 >= piece.rect[2] and z1 + 0.01 >= piece.rect[3], (number, piece)
    for number, piece in enumerate(standing):
        for other in standing[:number]:
            tucked = {piece.kind, other.kind} in ({"chair", "table"}, {"office chair", "desk"})
            assert tucked or area_shared(piece.rect, other.rect) < 1e-3, (piece, other)
    for door in made.doors:
        assert all(area_shared(door.rect(1.0), piece.rect) == 0 for piece in standing)


@pytest.mark.parametrize("name", NAMES)
def test_every_door_can_be_reached_and_passed(name: str) -> None:
    made, ground = house(name), dataset.floor(name)
    middles = np.array([((d[0] + d[2]) / 2, (d[1] + d[3]) / 2) for d in (door.rect(0.0) for door in made.doors)])
    assert ground.free(middles).all()
    assert np.isfinite(ground.paths_to(middles[:1]).distances(middles)).all()
    assert {room for door in made.doors for room in door.rooms} == set(range(len(made.rooms)))


@pytest.mark.parametrize("name", NAMES)
def test_a_room_tells_what_is_in_it(name: str) -> None:
    made = house(name)
    for piece in made.pieces:
        type_ = made.rooms[piece.room].type
        assert piece.kind in {kind for group in FURNISHING[type_] for kind, *_ in group.pieces}
        assert piece.category is None or type_ in ROOMS_OF[piece.category]
    for index, room in enumerate(made.rooms):
        inside = {piece.category for piece in made.pieces if piece.room == index}
        sure = {"bedroom": "bed", "bathroom": "toilet", "living room": "sofa", "kitchen": "chair", "office": "chair"}
        assert room.type == "hall" or sure[room.type] in inside


def test_every_category_has_the_rooms_where_people_keep_it() -> None:
    assert ROOMS_OF == {
        "chair": ("kitchen", "office"),
        "bed": ("bedroom",),
        "plant": ("living room", "hall", "office"),
        "toilet": ("bathroom",),
        "tv_monitor": ("living room", "office"),
        "sofa": ("living room",),
    }
    assert tuple(ROOMS_OF) == CATEGORIES


def test_a_name_determines_a_house_and_no_two_are_the_same() -> None:
    before = [house(name) for name in NAMES]
    house.cache_clear()
    assert [house(name) for name in NAMES] == before
    plans = {(split, index): house(house_name(split, 5, index)) for split in ("train", "val") for index in range(20)}
    assert len({(made.rooms, made.pieces) for made in plans.values()}) == len(plans)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test-5-0000", "'test-5-0000' names no house"),
        ("train-5", "names no house"),
        ("train-2-0000", f"has {FEWEST} to {MOST} rooms, not 2"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        house(name)


@pytest.mark.parametrize("name", NAMES[:4] + NAMES[-2:])
def test_what_is_drawn_is_where_it_stops_a_body(name: str) -> None:
    made = house(name)
    drawn = mesh(made)
    assert drawn.owners.max() == len(made.pieces)
    for owner, piece in enumerate(made.pieces, start=1):
        corners = drawn.corners[drawn.owners == owner].reshape(-1, 3)
        x0, z0, x1, z1 = piece.rect
        low, high = corners.min(axis=0), corners.max(axis=0)
        assert low == pytest.approx([x0, piece.y, z0], abs=0.06), piece
        assert high == pytest.approx([x1, piece.y + KINDS[piece.kind].height, z1], abs=0.06), piece


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("shape", ["box", "cylinder", "ball"])
def test_solids_show_their_outsides(shape: str, turn: int, monkeypatch) -> None:
    part = Part(shape, (-0.2, 0.1, 0.0), (0.3, 0.6, 0.4), (200, 100, 50))
    monkeypatch.setitem(KINDS, "lamp", Kind("lamp", 0.6, 0.4, 0.6, lambda rng: [part]))
    drawn = mesh(House("by hand", (EMPTY,), (), (Piece("lamp", 2.0, 1.5, 0.0, turn, 0, 0),)))
    faces, normals = drawn.corners[drawn.owners == 1], drawn.normals[drawn.owners == 1]
    middle = (faces.min(axis=(0, 1)) + faces.max(axis=(0, 1))) / 2
    assert ((faces.mean(axis=1) - middle) * normals).sum(axis=1).min() > 0
    assert middle[1] == pytest.approx(0.35, abs=0.01)


def test_rooms_show_their_insides() -> None:
    drawn = mesh(House("by hand", (EMPTY,), (), ()))
    middle = np.array([2.0, 1.25, 1.5])
    assert ((drawn.corners.mean(axis=1) - middle) * drawn.normals).sum(axis=1).max() < 0
    low, high = drawn.corners.min(axis=(0, 1)), drawn.corners.max(axis=(0, 1))
    assert low == pytest.approx([0.06, 0, 0.06]) and high == pytest.approx([3.94, 2.5, 2.94])


ROOMS, HOUSES = 4, 3


@pytest.fixture(scope="module")
def made() -> dict:
    return dataset.dataset("train", ROOMS, HOUSES)


def test_an_episode_starts_in_the_free_and_its_way_is_that_of_its_goals(made: dict) -> None:
    for episode in made["episodes"][::7]:
        name, start = episode["scene_id"], np.array(episode["start_position"])[[0, 2]]
        goals = made["goals_by_category"][f"{name}_{episode['object_category']}"]
        ground = dataset.floor(name)
        way = ground.paths_to(dataset.positions(goals)).distances(start[None])[0]
        assert ground.free(start[None])[0]
        assert way == pytest.approx(episode["info"]["geodesic_distance"], abs=1e-4)
        assert way >= dataset.NEAREST_START
        assert math.hypot(*episode["start_rotation"]) == pytest.approx(1, abs=1e-5)


def test_view_points_are_beside_their_goal_in_its_room_and_close_together(made: dict) -> None:
    for key, goals in made["goals_by_category"].items():
        name = key.split("_")[0]
        for goal in goals:
            piece, points = house(name).pieces[goal["object_id"]], dataset.positions([goal])
            x0, z0, x1, z1 = piece.rect
            gaps = np.hypot(*np.maximum(np.maximum((x0, z0) - points, points - (x1, z1)), 0).T)
            assert piece.category == goal["object_category"] and gaps.max() <= dataset.REACH
            assert dataset.floor(name).free(points).all()
            room: Room = house(name).rooms[piece.room]
            assert ((points > room.rect[:2]) & (points < room.rect[2:])).all()
            apart = np.linalg.norm(points[:, None] - points, axis=-1)
            assert np.sort(apart, axis=1)[:, 1].max() < 2 * dataset.SPACING
    assert dataset.SPACING / math.sqrt(2) < 0.1  # so the middle of four is within the success distance


def test_all_goals_of_every_house_are_asked_for(made: dict) -> None:
    assert len(made["episodes"]) == HOUSES * dataset.EPISODES
    asked = {f"{episode['scene_id']}_{episode['object_category']}" for episode in made["episodes"]}
    assert asked == set(made["goals_by_category"])
    assert {key.split("_", 1)[1] for key in asked} == set(CATEGORIES)
    assert made["category_to_task_category_id"] == {
        "chair": 0,
        "bed": 1,
        "plant": 2,
        "toilet": 3,
        "tv_monitor": 4,
        "sofa": 5,
    }


def test_a_dataset_is_written_once_and_is_the_same_again(tmp_path) -> None:
    first, second = (dataset.write(tmp_path / each, "val", 3, 1) for each in ("a", "b"))
    assert first.read_bytes() == second.read_bytes() and first.name == second.name
    stamp = first.stat().st_mtime_ns
    assert dataset.write(tmp_path / "a", "val", 3, 1).stat().st_mtime_ns == stamp
    assert dataset.write(tmp_path / "a", "train", 3, 1) != first


def test_a_dataset_that_was_broken_off_is_made_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(dataset, "EPISODES", 2)
    file = dataset.write(tmp_path, "val", 3, 1)
    whole = file.read_bytes()
    file.unlink()
    file.with_suffix(".part").write_bytes(whole[:100])
    assert dataset.write(tmp_path, "val", 3, 1).read_bytes() == whole


def test_splits_share_no_house() -> None:
    names = {split: {e["scene_id"] for e in dataset.dataset(split, 3, 2)["episodes"]} for split in ("train", "val")}
    houses = {
        split: {json.dumps([room.rect for room in house(name).rooms]) for name in names[split]} for split in names
    }
    assert not names["train"] & names["val"] and not houses["train"] & houses["val"]


def test_a_house_can_be_made_by_hand() -> None:
    """The parts do not lean on the generator: one empty room has four walls and no obstacle in the middle."""
    box = House("by hand", (EMPTY,), (), ())
    assert len(box.walls) == 4 and box.obstacles == box.walls
    assert sorted(wall[:2] for wall in box.walls) == [(0.0, 0.0), (0.0, 0.0), (0.0, 2.94), (3.94, 0.0)]
