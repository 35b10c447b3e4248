"""The phone's splits: training and evaluation have no template, app, instruction or episode in common."""

import pytest

from pr2l.environments.base import UserError
from pr2l.environments.phone import library
from pr2l.environments.phone.episode import draw_episode
from pr2l.environments.phone.splits import EVALUATION_APPS, has_goal, side_of, templates_of
from pr2l.environments.phone.table import TASKS

TEMPLATES = library.templates()
SIDES = ("train", "evaluation")


def both(by, templates=TEMPLATES):
    return [templates_of(templates, side, by) for side in SIDES]


def goals(side, by, count=300):
    templates = templates_of(TEMPLATES, side, by)
    return {draw_episode(templates, seed, split=side, by=by).task.goal for seed in range(count)}


def test_templates_of_the_sides_are_disjoint_and_complete():
    train, evaluation = both("template")
    assert not set(train) & set(evaluation) and set(train) | set(evaluation) == set(TEMPLATES)
    assert 0.15 < len(evaluation) / len(TEMPLATES) < 0.45
    assert not {cls.text for cls in train.values()} & {cls.text for cls in evaluation.values()}


def test_apps_of_the_sides_are_disjoint():
    train, evaluation = both("app")
    assert not {app for cls in train.values() for app in cls.apps} & set(EVALUATION_APPS)
    assert all(set(cls.apps) & set(EVALUATION_APPS) for cls in evaluation.values())
    assert set(train) | set(evaluation) == set(TEMPLATES)


def test_instructions_of_the_sides_are_disjoint():
    train, evaluation = (goals(side, "goal") for side in SIDES)
    assert not train & evaluation and len(train) > 100 and len(evaluation) > 100
    assert {side_of(goal) for goal in train} == {"train"}
    assert all(has_goal(goal, "evaluation", "goal") for goal in evaluation)


def test_episodes_of_the_sides_are_disjoint_for_the_same_seeds():
    states = [[draw_episode(TEMPLATES, seed, split=side).before for seed in range(50)] for side in SIDES]
    assert not [state for state in states[0] if state in states[1]]


def test_split_by_seed_has_all_templates_on_both_sides():
    assert both("seed") == [TEMPLATES, TEMPLATES]


@pytest.mark.parametrize("task", ["mini", "webshop", "general", "all"])
@pytest.mark.parametrize("by", ["seed", "goal", "template", "app"])
def test_sets_of_tasks_have_templates_on_both_sides(task, by):
    if task == "webshop" and by == "app":
        with pytest.raises(UserError, match="use a larger set of templates, or split_by=seed"):
            templates_of(TASKS[task].templates(), "evaluation", by)
    else:
        assert all(both(by, TASKS[task].templates()))


def test_unknown_split_is_an_error():
    with pytest.raises(UserError, match="'test' is not a split: train or evaluation"):
        templates_of(TEMPLATES, "test", "seed")
