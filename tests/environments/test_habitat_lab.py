"""The habitat-lab package with generated houses, in its interpreter.

Rewards, success and SPL of habitat-lab are compared with values computed from the path of the agent.
"""

import json
import math
import subprocess
from contextlib import closing

import numpy as np
import pytest

from pr2l.environments.habitat import environment as habitat
from pr2l.environments.habitat.furniture import CATEGORIES, WORDS
from pr2l.environments.habitat.houses import ROOM_TYPES, ROOMS_OF
from pr2l.environments.isolation.interpreters import interpreter
from pr2l.environments.isolation.isolated import WORKER
from pr2l.rollout import simulators as sims
from pr2l.rollout.episodes import SeededEpisodes

pytestmark = [pytest.mark.sims, pytest.mark.timeout(900)]

OPTIONS = habitat.Defaults(rooms=4, houses=3, horizon=150)
STOP, FORWARD, LEFT, RIGHT = range(4)


@pytest.fixture(scope="module")
def worlds():
    envs = {split: habitat.make("objectnav", OPTIONS, split=split, labels=True) for split in habitat.SPLITS}
    yield envs
    for env in envs.values():
        env.close()


def play(env, seed, act, steps=1000):
    """Return (observation, reward, terminated, truncated, info) of the reset, with reward 0, and of each step."""
    observation, info = env.reset(seed=seed)
    played = [(observation, 0.0, False, False, info)]
    while len(played) <= steps and not (played[-1][2] or played[-1][3]):
        played.append(env.step(act(env)))
    return played


def path_length(played) -> float:
    """Return the length of the path in metres, from the GPS sensor."""
    positions = [observation["proprio"][:2] for observation, *_ in played]
    return sum(math.dist(a, b) for a, b in zip(positions, positions[1:], strict=False))


@pytest.mark.parametrize("split", habitat.SPLITS)
@pytest.mark.parametrize("seed", range(8))
def test_oracle_succeeds_with_the_expected_reward_and_spl(worlds, split, seed) -> None:
    played = play(worlds[split], seed, habitat.oracle("objectnav"))
    first, last = played[0][4], played[-1][4]
    assert last["success"] and played[-1][2] and not played[-1][3]
    assert not any(info["success"] for *_, info in played[:-1])
    gained = first["measures"]["distance_to_goal"] - last["measures"]["distance_to_goal"]
    assert sum(step[1] for step in played) == pytest.approx(gained + 2.5 - 0.001 * (len(played) - 1), abs=1e-4)
    # SPL is the shortest distance over the length of the path. The agent stops up to the success distance before the
    # goal, so that the path can be shorter by that much.
    shortest, length = first["measures"]["distance_to_goal"], path_length(played)
    assert last["measures"]["spl"] == pytest.approx(shortest / max(shortest, length), abs=1e-3)
    assert shortest <= length + last["measures"]["distance_to_goal"] + 1e-3
    assert last["measures"]["distance_to_goal"] < 0.1 and last["measures"]["spl"] > 0.6


def test_searching_oracle_turns_left_until_it_sees_a_goal_and_stops_facing_it() -> None:
    options = OPTIONS.model_copy(update={"oracle": "searching"})
    left_turns = 0
    with closing(habitat.make("objectnav", options, split="evaluation", labels=True)) as env:
        oracle, actions = habitat.oracle("objectnav"), []
        for seed in range(8):
            actions.clear()
            played = play(env, seed, lambda env, actions=actions: actions.append(oracle(env)) or actions[-1])
            infos = [info for *_, info in played]
            target = infos[0]["context"]["target"]
            invisible = [target not in {label["name"] for label in info["labels"]} for info in infos[:-1]]
            in_room = [info["scene"]["kept"][target] for info in infos[:-1]]
            steps = zip(actions, invisible, in_room, strict=True)
            left_turns += sum(action == LEFT for action, *conditions in steps if all(conditions))
            ends = [label["box"] for label in infos[-1]["labels"] if label["name"] == target]
            assert infos[-1]["success"] and any(x0 < 100 and x1 > 60 for x0, _, x1, _ in ends), (target, ends)
    assert left_turns > 5


def test_immediate_stop_fails_and_horizon_truncates(worlds) -> None:
    env = worlds["train"]
    stopped = play(env, 0, lambda env: STOP)
    assert len(stopped) == 2 and stopped[-1][2]
    assert not stopped[-1][4]["success"] and stopped[-1][4]["measures"]["spl"] == 0
    turning = play(env, 0, lambda env: LEFT)
    assert len(turning) - 1 == OPTIONS.horizon and turning[-1][3] and not turning[-1][2]
    # After a full turn of twelve steps the frame is the same.
    frames = [observation["frame"] for observation, *_ in turning]
    assert np.abs(frames[0].astype(int) - frames[12]).mean() < 0.1
    assert np.abs(frames[0].astype(int) - frames[6]).mean() > 5


def test_proprio_has_position_heading_and_previous_action(worlds) -> None:
    env = worlds["train"]
    proprios = [env.reset(seed=3)[0]["proprio"]] + [env.step(action)[0]["proprio"] for action in (LEFT, RIGHT, RIGHT)]
    turns = [math.degrees(math.atan2(proprio[2], proprio[3])) for proprio in proprios]
    assert turns == pytest.approx([0, 30, 0, -30], abs=0.01)
    assert [proprio[4:8].tolist() for proprio in proprios] == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    before, after = proprios[-1], env.step(FORWARD)[0]["proprio"]
    step = after[:2] - before[:2]
    assert np.linalg.norm(step) <= 0.25 + 1e-6
    if np.linalg.norm(step) > 0.2:  # 30 degrees to the right: ahead, and to the right half as far
        assert step / np.linalg.norm(step) == pytest.approx([math.cos(math.pi / 6), 0.5], abs=1e-3)


def test_seed_and_actions_determine_the_episode(worlds) -> None:
    env, other = worlds["train"], habitat.make("objectnav", OPTIONS, labels=True)
    actions = np.random.default_rng(0).integers(1, 4, 25).tolist()
    with closing(other):
        runs = []
        for world in (env, env, other):
            remaining = iter(actions)
            runs.append(play(world, 5, lambda env, remaining=remaining: next(remaining), len(actions)))
    for again in runs[1:]:
        for (one, *rest), (two, *same) in zip(runs[0], again, strict=True):
            assert (one["frame"] == two["frame"]).all() and (one["proprio"] == two["proprio"]).all()
            assert rest[:3] == same[:3] and rest[3].keys() == same[3].keys()
            assert rest[3]["labels"] == same[3]["labels"]
            assert (rest[3]["segmentation"] == same[3]["segmentation"]).all()


@pytest.mark.filterwarnings("error:an episode that was played again")
def test_episode_is_restored_from_its_state(worlds) -> None:
    episodes = SeededEpisodes(worlds["train"], lambda number: 40 + number)
    episodes.reset()
    for action in (LEFT, FORWARD, FORWARD, RIGHT, FORWARD):
        last = episodes.step(action)[0]
    state = json.loads(json.dumps(episodes.state()))
    episodes.reset()
    assert (episodes.restore(state)[0]["frame"] == last["frame"]).all()


def test_labels_match_the_segmentation_and_the_goal_is_visible_at_the_end(worlds) -> None:
    names, near = set(), []
    for seed in range(6):
        *_, info = play(worlds["train"], seed, habitat.oracle("objectnav"))[-1]
        segmentation = info["segmentation"]
        assert set(np.unique(segmentation)) <= {0, *range(1, len(info["labels"]) + 1)}
        for number, label in enumerate(info["labels"], start=1):
            rows, columns = np.nonzero(segmentation == number)
            assert label["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            names.add(label["name"])
        near += [label["distance"] for label in info["labels"] if label["name"] == info["context"]["target"]]
    assert names <= set(habitat.kinds("objectnav"))
    assert near and min(near) < 2


def test_scene_is_the_room_in_view(worlds) -> None:
    in_room = []
    for seed in range(12):
        for *_, info in play(worlds["train"], seed, habitat.oracle("objectnav")):
            assert info["scene"]["room"] in ROOM_TYPES
            kept = {target for target, there in info["scene"]["kept"].items() if there}
            assert kept == {WORDS[goal] for goal in CATEGORIES if info["scene"]["room"] in ROOMS_OF[goal]}
            # Near objects in the middle of the frame are in that room, except those seen through a door.
            ahead = [one for one in info["labels"] if one["box"][0] < 80 < one["box"][2]]
            near = {one["name"] for one in ahead if one["distance"] < 1.8}
            in_room += [goal in kept for goal in near if goal in info["scene"]["kept"]]
    assert len(in_room) > 10 and np.mean(in_room) > 0.8


def test_houses_of_train_and_evaluation_are_disjoint(worlds) -> None:
    houses = {split: set() for split in habitat.SPLITS}
    for split, env in worlds.items():
        for seed in range(10):
            env.reset(seed=seed)
            houses[split].add(env.call("house"))
    assert not houses["train"] & houses["evaluation"]
    assert all(name.startswith("train-4-") for name in houses["train"]) and len(houses["train"]) == 3
    assert all(name.startswith("val-4-") for name in houses["evaluation"]) and len(houses["evaluation"]) > 3


CAMERA = f"""
import json, sys
sys.path.insert(0, {str(WORKER.parent)!r})
import worker
worker.make_packages("environments.habitat.remote")
import numpy as np
from environments.habitat.houses import House, Piece, Room
from environments.habitat.renderer import Renderer
from environments.habitat.scene import mesh
house = House("by hand", (Room("hall", (0.0, 0.0, 8.0, 8.0)),), (),
              tuple(Piece(kind, x, 2.0, 0.0, 0, 0, 0) for kind, x in (("fridge", 3.0), ("stove", 5.0))))
frame, owners = Renderer(160, 120, 90).draw(mesh(house), np.array([4.0, 0.88, 5.0]), 0.0)
hidden = Renderer(160, 120, 90).draw(mesh(house), np.array([3.0, 0.88, 1.0]), 0.0)[1]
print(json.dumps([(owners == 1).tolist(), (owners == 2).tolist(), hidden.tolist(), frame[:, 80].tolist()]))
"""


def test_labels_match_a_pinhole_camera() -> None:
    """An eye 0.88 m high at (4, 5) looks north at a fridge and a stove, whose fronts are 2.65 and 2.68 m ahead."""
    python = str(interpreter("habitat-lite"))
    done = subprocess.run([python, "-c", CAMERA], capture_output=True, check=True, text=True)
    fridge, stove, hidden, column = (np.array(part) for part in json.loads(done.stdout))
    focal = 80  # pixels: 160 / 2 / tan(90 degrees / 2)
    front = 5 - (2.0 + 0.71 / 2 - 0.04)  # of the doors; the fridge's z ends with its handles
    left, right = 80 + focal * (3.0 - 0.33 - 4) / front, 80 + focal * (3.0 + 0.33 - 4) / front
    top, bottom = 60 - focal * (1.74 - 0.88) / front, 60 + focal * (0.88 - 0.04) / front
    rows, columns = np.nonzero(fridge)
    assert [columns.min(), rows.min(), rows.max() + 1] == pytest.approx([left, top, bottom], abs=1.5)
    assert columns.max() + 1 >= right - 1  # its side shows a little farther to the right
    assert np.nonzero(stove)[1].min() > 80 and columns.max() < 80  # on the right and on the left
    assert not hidden.any()  # both are behind that eye
    assert len({tuple(pixel) for pixel in column.tolist()}) > 3  # ceiling, wall and floor differ


def test_option_farthest_limits_the_distance_at_the_start() -> None:
    with closing(habitat.make("objectnav", OPTIONS.model_copy(update={"farthest": 2.0}))) as env:
        distances = [env.reset(seed=seed)[1]["measures"]["distance_to_goal"] for seed in range(6)]
    assert min(distances) >= 1.0 and max(distances) <= 2.0 and len(set(distances)) > 2
    with (
        pytest.raises(ValueError, match=r"no episode has a path of at most 0.5 m; the shortest is 1.\d\d m"),
        closing(habitat.make("objectnav", OPTIONS.model_copy(update={"farthest": 0.5}))) as env,
    ):
        env.reset(seed=0)


def test_check_passes_for_all_parts(tmp_path) -> None:
    assert sims.check("habitat-lite", frame=tmp_path / "frame.png")
    assert (tmp_path / "frame.png").stat().st_size > 1000


SCANS = f"""
import sys
sys.path.insert(0, {str(WORKER.parent)!r})
import worker
worker.make_packages("environments.habitat.remote")
from environments.habitat import remote as far
far.shim.prepare()
import habitat
options = dict(scenes="hm3d", data="/some where/data", horizon=7)
config = habitat.get_config(far.CONFIG, [*far._overrides(options, 64, 48), *far._scenes(options, "val")]).habitat
print(config.dataset.data_path.format(split=config.dataset.split), config.simulator.type, list(config.task.actions))
"""


def test_config_for_scans_is_composed() -> None:
    """The part of this mode that runs without habitat-sim."""
    done = subprocess.run([str(interpreter("habitat-lite")), "-c", SCANS], capture_output=True, check=True, text=True)
    path = "/some where/data/datasets/objectnav/hm3d/v1/val/val.json.gz"
    assert done.stdout == f"{path} Sim-v0 ['stop', 'move_forward', 'turn_left', 'turn_right']\n"


def test_scans_need_habitat_sim() -> None:
    options = habitat.Defaults(scenes="hm3d", python=str(interpreter("habitat-lite")))
    with pytest.raises(ValueError, match="scenes=hm3d needs habitat-sim.*scenes=embedded"):
        habitat.make("objectnav", options).reset(seed=0)
