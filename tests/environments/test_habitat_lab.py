"""The real habitat-lab over generated houses, in its interpreter; `make sims` runs this.

Rewards, success and SPL are habitat-lab's; what they should be follows from the way that the agent took.
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
    made = {split: habitat.make("objectnav", OPTIONS, split=split, labels=True) for split in habitat.SPLITS}
    yield made
    for env in made.values():
        env.close()


def play(env, seed, act, steps=1000):
    """(observation, reward, terminated, truncated, info) of an episode, its reset first."""
    observation, info = env.reset(seed=seed)
    played = [(observation, 0.0, False, False, info)]
    while len(played) <= steps and not (played[-1][2] or played[-1][3]):
        played.append(env.step(act(env)))
    return played


def walked(played) -> float:
    """Metres, from the GPS sensor that the observations carry."""
    places = [observation["proprio"][:2] for observation, *_ in played]
    return sum(math.dist(a, b) for a, b in zip(places, places[1:], strict=False))


@pytest.mark.parametrize("split", habitat.SPLITS)
@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_succeeds_and_is_paid_for_the_way(worlds, split, seed) -> None:
    played = play(worlds[split], seed, habitat.oracle("objectnav"))
    first, last = played[0][4], played[-1][4]
    assert last["success"] and played[-1][2] and not played[-1][3]
    assert not any(info["success"] for *_, info in played[:-1])
    gained = first["measures"]["distance_to_goal"] - last["measures"]["distance_to_goal"]
    assert sum(step[1] for step in played) == pytest.approx(gained + 2.5 - 0.001 * (len(played) - 1), abs=1e-4)
    # SPL is the shortest way over the way taken. The shortest way is never too long, so nothing is cut off at 1
    # but what is left to the goal, less than the success distance.
    shortest, way = first["measures"]["distance_to_goal"], walked(played)
    assert last["measures"]["spl"] == pytest.approx(shortest / max(shortest, way), abs=1e-3)
    assert shortest <= way + last["measures"]["distance_to_goal"] + 1e-3
    assert last["measures"]["distance_to_goal"] < 0.1 and last["measures"]["spl"] > 0.6


def test_the_searching_oracle_turns_left_until_it_sees_a_goal_and_stops_in_front_of_it() -> None:
    options = OPTIONS.model_copy(update={"oracle": "searching"})
    looked = 0
    with closing(habitat.make("objectnav", options, split="evaluation", labels=True)) as env:
        oracle, actions = habitat.oracle("objectnav"), []
        for seed in range(8):
            actions.clear()
            played = play(env, seed, lambda env, actions=actions: actions.append(oracle(env)) or actions[-1])
            infos = [info for *_, info in played]
            target = infos[0]["context"]["target"]
            unseen = [target not in {label["name"] for label in info["labels"]} for info in infos[:-1]]
            kept = [info["scene"]["kept"][target] for info in infos[:-1]]
            looked += sum(action == LEFT for action, *where in zip(actions, unseen, kept, strict=True) if all(where))
            ends = [label["box"] for label in infos[-1]["labels"] if label["name"] == target]
            assert infos[-1]["success"] and any(x0 < 100 and x1 > 60 for x0, _, x1, _ in ends), (target, ends)
    assert looked > 5


def test_stopping_at_once_fails_and_walking_on_runs_into_the_horizon(worlds) -> None:
    env = worlds["train"]
    stopped = play(env, 0, lambda env: STOP)
    assert len(stopped) == 2 and stopped[-1][2]
    assert not stopped[-1][4]["success"] and stopped[-1][4]["measures"]["spl"] == 0
    turning = play(env, 0, lambda env: LEFT)
    assert len(turning) - 1 == OPTIONS.horizon and turning[-1][3] and not turning[-1][2]
    # A whole turn of twelve steps shows the same again.
    frames = [observation["frame"] for observation, *_ in turning]
    assert np.abs(frames[0].astype(int) - frames[12]).mean() < 0.1
    assert np.abs(frames[0].astype(int) - frames[6]).mean() > 5


def test_proprio_says_where_the_agent_went(worlds) -> None:
    env = worlds["train"]
    seen = [env.reset(seed=3)[0]["proprio"]] + [env.step(action)[0]["proprio"] for action in (LEFT, RIGHT, RIGHT)]
    turns = [math.degrees(math.atan2(proprio[2], proprio[3])) for proprio in seen]
    assert turns == pytest.approx([0, 30, 0, -30], abs=0.01)
    assert [proprio[4:8].tolist() for proprio in seen] == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    before, after = seen[-1], env.step(FORWARD)[0]["proprio"]
    step = after[:2] - before[:2]
    assert np.linalg.norm(step) <= 0.25 + 1e-6
    if np.linalg.norm(step) > 0.2:  # 30 degrees to the right: ahead, and to the right half as far
        assert step / np.linalg.norm(step) == pytest.approx([math.cos(math.pi / 6), 0.5], abs=1e-3)


def test_a_seed_and_the_actions_determine_the_episode(worlds) -> None:
    env, other = worlds["train"], habitat.make("objectnav", OPTIONS, labels=True)
    actions = np.random.default_rng(0).integers(1, 4, 25).tolist()
    with closing(other):
        runs = []
        for each in (env, env, other):
            left = iter(actions)
            runs.append(play(each, 5, lambda env, left=left: next(left), len(actions)))
    for again in runs[1:]:
        for (one, *rest), (two, *same) in zip(runs[0], again, strict=True):
            assert (one["frame"] == two["frame"]).all() and (one["proprio"] == two["proprio"]).all()
            assert rest[:3] == same[:3] and rest[3].keys() == same[3].keys()
            assert rest[3]["labels"] == same[3]["labels"]
            assert (rest[3]["segmentation"] == same[3]["segmentation"]).all()


@pytest.mark.filterwarnings("error:an episode that was played again")
def test_a_killed_run_comes_back_into_its_episode(worlds) -> None:
    episodes = SeededEpisodes(worlds["train"], lambda number: 40 + number)
    episodes.reset()
    for action in (LEFT, FORWARD, FORWARD, RIGHT, FORWARD):
        last = episodes.step(action)[0]
    state = json.loads(json.dumps(episodes.state()))
    episodes.reset()
    assert (episodes.restore(state)[0]["frame"] == last["frame"]).all()


def test_labels_say_what_the_segmentation_shows_and_the_goal_is_seen_at_the_end(worlds) -> None:
    named, near = set(), []
    for seed in range(6):
        *_, info = play(worlds["train"], seed, habitat.oracle("objectnav"))[-1]
        shown = info["segmentation"]
        assert set(np.unique(shown)) <= {0, *range(1, len(info["labels"]) + 1)}
        for number, label in enumerate(info["labels"], start=1):
            rows, columns = np.nonzero(shown == number)
            assert label["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            named.add(label["name"])
        near += [label["distance"] for label in info["labels"] if label["name"] == info["context"]["target"]]
    assert named <= set(habitat.kinds("objectnav"))
    assert near and min(near) < 2


def test_the_scene_is_the_room_that_is_looked_into(worlds) -> None:
    right = []
    for seed in range(12):
        for *_, info in play(worlds["train"], seed, habitat.oracle("objectnav")):
            assert info["scene"]["room"] in ROOM_TYPES
            kept = {target for target, there in info["scene"]["kept"].items() if there}
            assert kept == {WORDS[goal] for goal in CATEGORIES if info["scene"]["room"] in ROOMS_OF[goal]}
            # What is in the middle of the frame and near stands in that room, unless it is seen through a door.
            ahead = [one for one in info["labels"] if one["box"][0] < 80 < one["box"][2]]
            near = {one["name"] for one in ahead if one["distance"] < 1.8}
            right += [goal in kept for goal in near if goal in info["scene"]["kept"]]
    assert len(right) > 10 and np.mean(right) > 0.8


def test_train_and_evaluation_are_in_different_houses(worlds) -> None:
    seen = {split: set() for split in habitat.SPLITS}
    for split, env in worlds.items():
        for seed in range(10):
            env.reset(seed=seed)
            seen[split].add(env.call("house"))
    assert not seen["train"] & seen["evaluation"]
    assert all(name.startswith("train-4-") for name in seen["train"]) and len(seen["train"]) == 3
    assert all(name.startswith("val-4-") for name in seen["evaluation"]) and len(seen["evaluation"]) > 3


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


def test_labels_are_where_a_pinhole_camera_sees_the_things() -> None:
    """An eye 0.88 m high at (4, 5) looks north at a fridge and a stove, whose fronts are 2.65 and 2.68 m ahead."""
    python = str(interpreter("habitat-lite"))
    made = subprocess.run([python, "-c", CAMERA], capture_output=True, check=True, text=True)
    fridge, stove, hidden, column = (np.array(each) for each in json.loads(made.stdout))
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


def test_the_longest_way_to_begin_with_can_be_set() -> None:
    with closing(habitat.make("objectnav", OPTIONS.model_copy(update={"farthest": 2.0}))) as env:
        begun = [env.reset(seed=seed)[1]["measures"]["distance_to_goal"] for seed in range(6)]
    assert min(begun) >= 1.0 and max(begun) <= 2.0 and len(set(begun)) > 2
    with (
        pytest.raises(ValueError, match=r"no episode has a way of 0.5 m at most; the shortest has 1.\d\d m"),
        closing(habitat.make("objectnav", OPTIONS.model_copy(update={"farthest": 0.5}))) as env,
    ):
        env.reset(seed=0)


def test_every_link_of_the_chain_is_checked(tmp_path) -> None:
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


def test_the_config_for_scans_can_be_composed() -> None:
    """All of that path that can be run without habitat-sim."""
    made = subprocess.run([str(interpreter("habitat-lite")), "-c", SCANS], capture_output=True, check=True, text=True)
    path = "/some where/data/datasets/objectnav/hm3d/v1/val/val.json.gz"
    assert made.stdout == f"{path} Sim-v0 ['stop', 'move_forward', 'turn_left', 'turn_right']\n"


def test_scans_need_habitat_sim() -> None:
    options = habitat.Defaults(scenes="hm3d", python=str(interpreter("habitat-lite")))
    with pytest.raises(ValueError, match="scenes=hm3d needs habitat-sim.*or leave scenes=embedded"):
        habitat.make("objectnav", options).reset(seed=0)
