"""Every task of the Doom table: the Gymnasium contract, exact replays, ground truth, rewards, and an oracle."""

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
BOTH_WAYS = [*((task, False) for task in TASKS), ("fetch", True)]  # isolated?; test_isolated.py compares all tasks
GENERATED = ["fetch", "hunt"]


@pytest.fixture(scope="module")
def worlds():
    """worlds(task, split, isolated, **options): one with ground truth, shared by the tests of this file."""
    made = {}

    def world(task, split="train", isolated=False, **options):
        key = (task, split, isolated, *options.items())
        if key not in made and isolated:
            values = doom.Defaults(**options).model_dump(mode="json")
            made[key] = Isolated("environments.doom", task, values, split=split, labels=True, name="doom")
        elif key not in made:
            made[key] = doom.make(task, doom.Defaults(**options), split=split, labels=True)
        return made[key]

    yield world
    for env in made.values():
        env.close()


def play(env, seed, act, decisions=10_000):
    """(observation, reward, terminated, truncated, info) of every decision, after the reset's with reward 0."""
    observation, info = env.reset(seed=seed)
    steps = [(observation, 0.0, False, False, info)]
    while len(steps) <= decisions and not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(act(env)))
    return steps


def randomly(seed):
    rng = np.random.default_rng(seed)
    return lambda env: int(rng.integers(env.action_space.n))


def chasing(task, kind):
    """The task's oracle, made to believe that the target is of another kind."""
    decide, actions = ORACLES[task], doom.TASKS[task].actions
    return lambda env: actions.index((decide(replace(env.scene(), target=kind)),))


def signature(steps):
    return [(o["frame"].tobytes(), o["proprio"].tobytes(), *rest) for o, *rest in steps]


@pytest.mark.parametrize(("task", "isolated"), BOTH_WAYS)
@pytest.mark.filterwarnings("error")
def test_gymnasium_accepts_it(task, isolated, worlds):
    check_env(worlds(task, isolated=isolated), skip_render_check=True)


@pytest.mark.parametrize(("task", "isolated"), BOTH_WAYS)
def test_seed_and_actions_determine_every_frame(task, isolated, worlds):
    env, other = worlds(task, isolated=isolated), doom.make(task)
    first = play(env, 11, randomly(0), 50)
    play(env, 12, randomly(1), 50)
    again = play(env, 11, randomly(0), 50)
    assert len(first) > 15
    assert [str(info) for *_, info in first] == [str(info) for *_, info in again]
    frames = [step[:4] for step in signature(first)]
    assert frames == [step[:4] for step in signature(again)]
    assert frames == [step[:4] for step in signature(play(other, 11, randomly(0), 50))]
    assert frames != [step[:4] for step in signature(play(other, 12, randomly(0), 50))]
    other.close()


@pytest.mark.parametrize("isolated", [False, True])
def test_an_episode_without_a_seed_can_be_played_again_from_its_info(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    env.reset(seed=4)
    _, info = env.reset()
    observation, following = env.step(0)[0], env.reset()[1]["seed"]
    assert env.reset(seed=info["seed"])[1]["context"] == info["context"]
    assert np.array_equal(env.step(0)[0]["frame"], observation["frame"])
    assert env.reset()[1]["seed"] == following


@pytest.mark.parametrize("task", GENERATED)
def test_training_and_evaluation_rooms_are_disjoint(task, worlds):
    train, evaluation = worlds(task), worlds(task, split="evaluation")
    for env in (train, evaluation):
        env.reset(seed=0)
        assert len(set(env._rooms)) == len(env._rooms) == doom.Defaults().rooms
    assert set(train._rooms).isdisjoint(evaluation._rooms)


@pytest.mark.parametrize(("task", "isolated"), BOTH_WAYS)
def test_every_context_is_announced(task, isolated, worlds):
    env, known = worlds(task, isolated=isolated), list(doom.TASKS[task].contexts)
    seen = [env.reset(seed=seed)[1]["context"] for seed in range(60)]
    assert all(context in known for context in seen)
    assert len({context["target"] for context in seen}) == len(known)


@pytest.mark.parametrize("repeats", [False, True])
def test_kinds_in_a_room_repeat_only_when_asked_to(repeats, worlds):
    env = worlds("fetch", repeats=repeats)
    env.reset(seed=0)
    distinct = [len({thing.name for thing in room.objects}) == 4 for room in env._rooms]
    assert any(distinct) if repeats else all(distinct)
    assert not (repeats and all(distinct))


def test_a_hunter_sees_the_monsters_apart(worlds):
    env = worlds("hunt")
    for seed in range(20):
        env.reset(seed=seed)
        room = next(room for room in env._rooms if room.objects == env._objects)
        sides = sorted(math.degrees(math.atan2(t.y - room.start[1], t.x - room.start[0])) for t in room.objects)
        assert min(np.diff([*sides, sides[0] + 360])) >= doom.TASKS["hunt"].apart


# What a 90 degree view says of a thing, by plane geometry: 80 pixels to each side, tangent of the bearing.
@pytest.mark.parametrize("task", GENERATED)
def test_labels_tell_name_place_and_distance(task, worlds):
    env = worlds(task)
    found = 0
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
                found += 1
    assert found >= 10


def _distance(scene, thing):
    return math.dist((scene.pose.x, scene.pose.y), thing.position)


@pytest.mark.parametrize("isolated", [False, True])
def test_segmentation_agrees_with_the_boxes(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        drawn = info["segmentation"]
        assert drawn.shape == observation["frame"].shape[:2] and drawn.max() <= len(info["labels"])
        for number, label in enumerate(info["labels"], start=1):
            rows, columns = np.nonzero(drawn == number)
            extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert label["box"] == extent


@pytest.mark.parametrize("task", TASKS)
def test_labels_use_the_vocabulary_and_are_given_only_on_request(task, worlds):
    steps = play(worlds(task), 2, doom.oracle(task), 60)
    names = {label["name"] for *_, info in steps for label in info["labels"]}
    assert names and names <= set(doom.kinds(task))
    plain = doom.make(task)
    assert set(plain.reset(seed=2)[1]) == {"context", "success", "seed"}
    with pytest.raises(ValueError, match="labels=True"):
        plain.scene()
    plain.close()


@pytest.mark.parametrize("isolated", [False, True])
def test_proprio_is_health_ammunition_time_last_action_and_target(isolated, worlds):
    env = worlds("fetch", isolated=isolated)
    observation, info = env.reset(seed=0)
    target = [float(context == info["context"]) for context in doom.TASKS["fetch"].contexts]
    assert sum(target) == 1
    assert observation["proprio"].tolist() == [1, 1, 0, 0, 0, 0, *target]
    after = env.step(2)[0]["proprio"]
    assert after.tolist() == pytest.approx([1, 1, 1 / 60, 0, 0, 1, *target])


def test_proprio_can_be_bare():
    options = doom.Defaults(target_in_proprio=False, previous_action_in_proprio=False)
    assert doom.make("hunt", options).observation_space["proprio"].shape == (3,)


def test_health_falls_and_death_ends_the_episode(worlds):
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


def test_reaching_the_named_thing_ends_well_and_another_ends_badly(worlds):
    env = worlds("fetch")
    steps = play(env, 0, doom.oracle("fetch"))
    assert steps[-1][1] == pytest.approx(0.99) and steps[-1][2] and steps[-1][4]["success"]
    assert not any(info["success"] for *_, info in steps[:-1])
    target = steps[0][4]["context"]["target"]
    other = next(thing.kind for thing in env.scene().actors if thing.kind != target)
    steps = play(env, 0, chasing("fetch", other))
    assert steps[-1][1] == pytest.approx(-0.51) and steps[-1][2] and not steps[-1][4]["success"]


def test_defeating_another_monster_costs_and_spoils_the_success(worlds):
    env = worlds("hunt")
    info = env.reset(seed=3)[1]
    target = info["context"]["target"]
    other = next(thing.kind for thing in env.scene().actors if thing.kind != target)
    rewards = []
    while -0.51 not in np.round(rewards, 6):
        _, reward, terminated, _, _ = env.step(chasing("hunt", other)(env))
        rewards.append(reward)
        assert not terminated
    while not terminated:
        _, reward, terminated, _, info = env.step(chasing("hunt", target)(env))
    assert reward == pytest.approx(0.99) and not info["success"]


def test_no_two_things_can_be_reached_at_once():
    assert SPACING >= 2 * REACH


@pytest.mark.parametrize("isolated", [False, True])
def test_the_horizon_truncates(isolated, worlds):
    *_, last = steps = play(worlds("fetch", isolated=isolated), 0, lambda env: 0)
    assert len(steps) - 1 == doom.TASKS["fetch"].horizon
    assert not last[2] and last[3] and last[0]["proprio"][2] == 1


def test_shaping_adds_up_to_the_distance_gained(worlds):
    plain, shaped = worlds("fetch"), worlds("fetch", approach_reward=0.5)

    def gap(env):
        return min(_distance(env.scene(), t) for t in env.scene().actors if t.kind == target)

    target = shaped.reset(seed=1)[1]["context"]["target"]
    before = gap(shaped)
    returns = [sum(r for _, r, *_ in play(env, 1, doom.oracle("fetch"), 8)) for env in (plain, shaped)]
    assert before - gap(shaped) > 20
    assert returns[1] - returns[0] == pytest.approx(0.5 * (before - gap(shaped)) / 100)


# Mean returns over evaluation episodes: (episodes, the oracle's at least, the random policy's at most).
RETURNS = {
    "fetch": (20, 0.65, 0.0),
    "hunt": (20, 0.65, -0.2),
    "basic": (10, 0.6, -0.2),
    "defend_the_center": (2, 15.0, 3.0),
    "health_gathering": (2, 20.9, 8.0),
    "my_way_home": (4, 0.97, 0.5),
    "take_cover": (4, 5.5, 4.0),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_oracle_solves_what_chance_does_not(task, worlds):
    episodes, least, most = RETURNS[task]
    env, mean = worlds(task, split="evaluation"), {}
    for name, act in (("oracle", doom.oracle(task)), ("random", randomly(0))):
        mean[name] = np.mean([sum(r for _, r, *_ in play(env, seed, act)) for seed in range(episodes)])
    assert mean["oracle"] >= least and mean["random"] <= most


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'fetc' is not a task of doom. Did you mean 'fetch'?.*take_cover"):
        doom.make("fetc")
    with pytest.raises(ValueError, match="'test' is not a split: train or evaluation"):
        doom.make("fetch", split="test")
    with pytest.raises(ValueError, match="'fetch' only"):
        doom.make("hunt", doom.Defaults(approach_reward=1.0))
    with pytest.raises(ValidationError, match="frame_skp"):
        doom.Defaults(frame_skp=2)
    with pytest.raises(RuntimeError, match="reset"):
        doom.make("fetch").step(0)
