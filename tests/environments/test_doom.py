"""All Doom tasks: the Gymnasium interface, determinism, ground truth, rewards, oracles."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from pr2l.environments.doom import environment as doom
from pr2l.environments.doom.maps import SPACING
from pr2l.environments.doom.oracles import ORACLES, bearing
from pr2l.environments.doom.rewards import REACH, Step
from pr2l.environments.isolation.isolated import Isolated

TASKS = list(doom.TASKS)
TASKS_AND_ISOLATED = [*((task, False) for task in TASKS), ("fetch", True)]  # test_isolated.py compares all tasks
GENERATED = ["fetch", "hunt"]


@pytest.fixture(scope="module")
def worlds():
    """worlds(task, split, isolated, labels, **options) -> an environment, shared by the tests of this file."""
    envs = {}

    def world(task, split="train", isolated=False, labels=True, **options):
        key = (task, split, isolated, labels, *options.items())
        if key not in envs and isolated:
            values = doom.Defaults(**options).model_dump(mode="json")
            envs[key] = Isolated("environments.doom", task, values, split=split, labels=labels, name="doom")
        elif key not in envs:
            envs[key] = doom.make(task, doom.Defaults(**options), split=split, labels=labels)
        return envs[key]

    yield world
    for env in envs.values():
        env.close()


def play(env, seed, act, decisions=10_000):
    """Return (observation, reward, terminated, truncated, info) of the reset, with reward 0, and of each step."""
    observation, info = env.reset(seed=seed)
    steps = [(observation, 0.0, False, False, info)]
    while len(steps) <= decisions and not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(act(env)))
    return steps


def random_policy(seed):
    rng = np.random.default_rng(seed)
    return lambda env: int(rng.integers(env.action_space.n))


def oracle_for(task, kind):
    """Return the oracle of a task with another kind of target."""
    decide, actions = ORACLES[task], doom.TASKS[task].actions
    return lambda env: actions.index((decide(replace(env.scene(), target=kind)),))


def comparable(steps):
    return [(o["frame"].tobytes(), o["proprio"].tobytes(), *rest) for o, *rest in steps]


@pytest.mark.parametrize(("task", "isolated"), TASKS_AND_ISOLATED)
@pytest.mark.filterwarnings("error")
def test_env_passes_gymnasium_checker(task, isolated, worlds):
    check_env(worlds(task, isolated=isolated), skip_render_check=True)


@pytest.mark.parametrize(("task", "isolated"), TASKS_AND_ISOLATED)
def test_seed_and_actions_determine_the_episode(task, isolated, worlds):
    env, other = worlds(task, isolated=isolated), worlds(task, labels=False)
    first = play(env, 11, random_policy(0), 50)
    play(env, 12, random_policy(1), 50)
    again = play(env, 11, random_policy(0), 50)
    assert len(first) > 15
    assert [str(info) for *_, info in first] == [str(info) for *_, info in again]
    frames = [step[:4] for step in comparable(first)]
    assert frames == [step[:4] for step in comparable(again)]
    assert frames == [step[:4] for step in comparable(play(other, 11, random_policy(0), 50))]
    assert frames != [step[:4] for step in comparable(play(other, 12, random_policy(0), 50))]


@pytest.mark.parametrize("isolated", [False, True])
def test_info_has_the_seed_that_repeats_an_unseeded_episode(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    env.reset(seed=4)
    _, info = env.reset()
    observation, next_seed = env.step(0)[0], env.reset()[1]["seed"]
    assert env.reset(seed=info["seed"])[1]["context"] == info["context"]
    assert np.array_equal(env.step(0)[0]["frame"], observation["frame"])
    assert env.reset()[1]["seed"] == next_seed


@pytest.mark.parametrize("task", GENERATED)
def test_rooms_of_train_and_evaluation_are_disjoint(task, worlds):
    train, evaluation = worlds(task), worlds(task, split="evaluation")
    for env in (train, evaluation):
        env.reset(seed=0)
        assert len(set(env._rooms)) == len(env._rooms) == doom.Defaults().rooms
    assert set(train._rooms).isdisjoint(evaluation._rooms)


@pytest.mark.parametrize(("task", "isolated"), TASKS_AND_ISOLATED)
def test_contexts_are_those_of_the_task_table(task, isolated, worlds):
    env, expected = worlds(task, isolated=isolated), list(doom.TASKS[task].contexts)
    contexts = [env.reset(seed=seed)[1]["context"] for seed in range(60 if len(expected) > 1 else 5)]
    assert all(context in expected for context in contexts)
    assert len({context["target"] for context in contexts}) == len(expected)


@pytest.mark.parametrize("repeats", [False, True])
def test_rooms_repeat_kinds_only_with_the_option(repeats, worlds):
    env = worlds("fetch", repeats=repeats)
    env.reset(seed=0)
    distinct = [len({thing.name for thing in room.objects}) == 4 for room in env._rooms]
    assert any(distinct) if repeats else all(distinct)
    assert not (repeats and all(distinct))


def test_monsters_of_hunt_are_in_separate_directions(worlds):
    env = worlds("hunt")
    for seed in range(20):
        env.reset(seed=seed)
        room = next(room for room in env._rooms if room.objects == env._objects)
        sides = sorted(math.degrees(math.atan2(t.y - room.start[1], t.x - room.start[0])) for t in room.objects)
        assert min(np.diff([*sides, sides[0] + 360])) >= doom.TASKS["hunt"].apart


# In a view of 90 degrees and 160 columns, an object is 80 * tan(bearing) columns from the centre.
@pytest.mark.parametrize("task", GENERATED)
def test_labels_match_name_position_and_distance_of_objects(task, worlds):
    env = worlds(task)
    checked = 0
    for seed in range(30):
        info = env.reset(seed=seed)[1]
        scene = env.scene()
        for label in info["labels"]:
            thing = min(scene.actors, key=lambda t: abs(_distance(scene, t) - label["distance"]))
            x0, y0, x1, y1 = label["box"]
            assert thing.kind == label["name"]
            assert 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 120
            if x0 > 0 and x1 < 160:
                column = 80 - 80 * math.tan(math.radians(bearing(scene.pose, thing.position)))
                assert x0 - 3 <= column <= x1 + 3
                checked += 1
    assert checked >= 10


def _distance(scene, thing):
    return math.dist((scene.pose.x, scene.pose.y), thing.position)


@pytest.mark.parametrize("isolated", [False, True])
def test_segmentation_matches_the_boxes(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        segmentation = info["segmentation"]
        assert segmentation.shape == observation["frame"].shape[:2] and segmentation.max() <= len(info["labels"])
        for number, label in enumerate(info["labels"], start=1):
            rows, columns = np.nonzero(segmentation == number)
            extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert label["box"] == extent


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_in_the_info_only_with_labels_true(task, worlds):
    steps = play(worlds(task), 2, doom.oracle(task), 60)
    names = {label["name"] for *_, info in steps for label in info["labels"]}
    assert names and names <= set(doom.kinds(task))
    plain = worlds(task, labels=False)
    assert set(plain.reset(seed=2)[1]) == {"context", "success", "seed"}
    with pytest.raises(ValueError, match="labels=True"):
        plain.scene()


@pytest.mark.parametrize("isolated", [False, True])
def test_proprio_is_health_ammunition_time_previous_action_and_target(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    observation, info = env.reset(seed=0)
    target = [float(context == info["context"]) for context in doom.TASKS["fetch"].contexts]
    assert sum(target) == 1
    assert observation["proprio"].tolist() == [1, 1, 0, 0, 0, 0, *target]
    after = env.step(2)[0]["proprio"]
    assert after.tolist() == pytest.approx([1, 1, 1 / 60, 0, 0, 1, *target])


def test_proprio_without_target_and_previous_action():
    options = doom.Defaults(target_in_proprio=False, previous_action_in_proprio=False)
    assert doom.make("hunt", options).observation_space["proprio"].shape == (3,)


def test_death_terminates_health_gathering(worlds):
    steps = play(worlds("health_gathering"), 0, lambda env: 0)
    health = [o["proprio"][0] for o, *_ in steps]
    assert health[0] > 0.9 and health[-1] == 0 and all(np.diff(health) <= 0)
    assert steps[-1][2] and not steps[-1][3] and not steps[-1][4]["success"]
    assert steps[-1][1] == pytest.approx(0.04 - 1.0)


STEP = Step(target="imp", tics=4, points=2.0, total_points=9.0, died=False, exited=False, last=False)


@pytest.mark.parametrize(
    ("task", "change", "reward", "success"),
    [
        ("fetch", {}, -0.01, False),
        ("fetch", {"reached": "imp"}, 0.99, True),
        ("fetch", {"reached": "demon"}, -0.51, False),
        ("hunt", {"defeated": ("imp",), "all_defeated": ("imp",)}, 0.99, True),
        ("hunt", {"defeated": ("imp",), "all_defeated": ("demon", "imp")}, 0.99, False),
        ("hunt", {"defeated": ("imp", "demon"), "all_defeated": ("imp", "demon")}, 0.49, False),
        ("basic", {"points": 106.0, "exited": True}, 1.02, True),
        ("basic", {"points": -5.0}, -0.09, False),
        ("defend_the_center", {}, 2.0, False),
        ("defend_the_center", {"total_points": 10.0, "died": True}, 1.0, True),
        ("health_gathering", {}, 0.04, False),
        ("health_gathering", {"died": True}, -0.96, False),
        ("health_gathering", {"last": True}, 0.04, True),
        ("my_way_home", {"points": 1.0, "exited": True}, 0.9996, True),
        ("take_cover", {"last": True}, 0.04, True),
        ("take_cover", {"last": True, "died": True}, 0.04, False),
    ],
)
def test_rewards_and_success_rules(task, change, reward, success):
    row, step = doom.TASKS[task], replace(STEP, **change)
    assert sum(part(step) for part in row.rewards) == pytest.approx(reward)
    assert row.succeeded(step) is success


def test_fetch_rewards_the_target_and_penalises_other_objects(worlds):
    env = worlds("fetch")
    steps = play(env, 0, doom.oracle("fetch"))
    assert steps[-1][1] == pytest.approx(0.99) and steps[-1][2] and steps[-1][4]["success"]
    assert not any(info["success"] for *_, info in steps[:-1])
    target = steps[0][4]["context"]["target"]
    other = next(thing.kind for thing in env.scene().actors if thing.kind != target)
    steps = play(env, 0, oracle_for("fetch", other))
    assert steps[-1][1] == pytest.approx(-0.51) and steps[-1][2] and not steps[-1][4]["success"]


def test_hunt_fails_if_another_monster_is_defeated_first(worlds):
    env = worlds("hunt")
    info = env.reset(seed=3)[1]
    target = info["context"]["target"]
    other = next(thing.kind for thing in env.scene().actors if thing.kind != target)
    rewards = []
    while -0.51 not in np.round(rewards, 6):
        _, reward, terminated, _, _ = env.step(oracle_for("hunt", other)(env))
        rewards.append(reward)
        assert not terminated
    while not terminated:
        _, reward, terminated, _, info = env.step(oracle_for("hunt", target)(env))
    assert reward == pytest.approx(0.99) and not info["success"]


def test_objects_are_too_far_apart_to_reach_two_at_once():
    assert SPACING >= 2 * REACH


@pytest.mark.parametrize("isolated", [False, True])
def test_horizon_truncates_the_episode(isolated, worlds):
    *_, last = steps = play(worlds("fetch", isolated=isolated), 0, lambda env: 0)
    assert len(steps) - 1 == doom.TASKS["fetch"].horizon
    assert not last[2] and last[3] and last[0]["proprio"][2] == 1


def test_approach_rewards_sum_to_the_distance_gained(worlds):
    plain, shaped = worlds("fetch"), worlds("fetch", approach_reward=0.5)

    def target_distance(env):
        return min(_distance(env.scene(), t) for t in env.scene().actors if t.kind == target)

    target = shaped.reset(seed=1)[1]["context"]["target"]
    before = target_distance(shaped)
    returns = [sum(r for _, r, *_ in play(env, 1, doom.oracle("fetch"), 8)) for env in (plain, shaped)]
    assert before - target_distance(shaped) > 20
    assert returns[1] - returns[0] == pytest.approx(0.5 * (before - target_distance(shaped)) / 100)


# Evaluation episodes, lower bound of the oracle's mean return, upper bound of the random policy's mean return.
RETURNS = {
    "fetch": (10, 0.65, 0.0),
    "hunt": (10, 0.65, -0.2),
    "basic": (10, 0.6, -0.2),
    "defend_the_center": (2, 15.0, 3.0),
    "health_gathering": (2, 20.9, 8.0),
    "my_way_home": (4, 0.97, 0.5),
    "take_cover": (4, 5.5, 4.0),
}


@pytest.mark.parametrize("task", TASKS)
def test_oracle_solves_the_task_and_random_policy_does_not(task, worlds):
    episodes, oracle_bound, random_bound = RETURNS[task]
    env, mean = worlds(task, split="evaluation"), {}
    for name, act in (("oracle", doom.oracle(task)), ("random", random_policy(0))):
        mean[name] = np.mean([sum(r for _, r, *_ in play(env, seed, act)) for seed in range(episodes)])
    assert mean["oracle"] >= oracle_bound and mean["random"] <= random_bound


def test_invalid_arguments_raise():
    with pytest.raises(ValueError, match="'fetc' .* Did you mean 'fetch'?.*take_cover"):
        doom.make("fetc")
    with pytest.raises(ValueError, match="'test' .* train or evaluation"):
        doom.make("fetch", split="test")
    with pytest.raises(ValueError, match="'fetch' only"):
        doom.make("hunt", doom.Defaults(approach_reward=1.0))
    with pytest.raises(ValidationError, match="frame_skp"):
        doom.Defaults(frame_skp=2)
    with pytest.raises(RuntimeError, match="reset"):
        doom.make("fetch").step(0)
