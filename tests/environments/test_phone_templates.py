"""The phone's task templates, checked on states without a browser: the ideal user succeeds, all others fail."""

import re
from copy import deepcopy
from pathlib import Path
from random import Random

import pytest

from pr2l.environments.base import UserError
from pr2l.environments.phone import library
from pr2l.environments.phone.generate import random_look, random_state
from pr2l.environments.phone.state import APPS, validate
from pr2l.environments.phone.table import MINI, TASKS
from pr2l.environments.phone.tasks.browser import score, search_result
from pr2l.environments.phone.template import Composite, same_answer

TEMPLATES = library.templates()
SEEDS = range(5)


def episode(template, seed):
    """Return the task of a seed and its start state."""
    rng = Random(seed)
    state = random_state(rng, random_look(rng))
    return template(state, rng), state


@pytest.fixture(params=TEMPLATES, ids=str)
def template(request):
    return TEMPLATES[request.param]


def test_ideal_user_succeeds_and_idle_user_fails(template):
    for seed in SEEDS:
        task, before = episode(template, seed)
        validate(before)
        after = task.solved(before)
        validate(after)
        assert task.success(before, after, task.answer), seed
        assert task.side_effects(before, after) == [], seed
        assert not task.success(before, before), seed


def test_side_effect_fails_the_task_and_is_named(template):
    for seed in SEEDS:
        task, before = episode(template, seed)
        after = task.solved(before)
        lost = next(row for row in after["contacts"] if row in before["contacts"])
        after["contacts"].remove(lost)
        assert not task.success(before, after, task.answer)
        assert f"contacts/{lost['id']} removed" in str(task.side_effects(before, after)[0])


def test_half_of_the_work_fails_without_a_side_effect():
    task, before = episode(TEMPLATES["TurnOffWifiAndTurnOnBluetooth"], 0)
    after = deepcopy(before)
    after["settings"]["wifi"] = False
    assert not task.success(before, after) and task.side_effects(before, after) == []


def test_wrong_value_fails_and_is_a_side_effect():
    task, before = episode(TEMPLATES["ContactsAddContact"], 0)
    after = task.solved(before)
    after["contacts"][-1]["phone"] += "0"
    assert not task.success(before, after)
    assert [change.kind for change in task.side_effects(before, after)] == ["added"]


def test_either_of_two_duplicates_may_be_deleted():
    task, before = episode(TEMPLATES["ExpenseDeleteDuplicates"], 3)
    duplicates = [row for row in before["expenses"] if row["name"] == before["expenses"][-1]["name"]]
    assert len(duplicates) == 2
    for row in duplicates:
        after = deepcopy(before)
        after["expenses"].remove(row)
        assert task.success(before, after) and task.side_effects(before, after) == []


def test_instruction_is_filled_and_a_function_of_the_seed(template):
    goals = [episode(template, seed)[0].goal for seed in SEEDS]
    assert goals == [episode(template, seed)[0].goal for seed in SEEDS]
    assert all("{" not in goal and goal == goal.strip() for goal in goals)
    assert (len(set(goals)) > 1) == ("{" in template.text)


def test_template_names_its_apps_and_its_limit_of_steps(template):
    assert template.__doc__ and template.apps and set(template.apps) <= set(APPS)
    assert template.step_limit() == int(10 * template.complexity) >= 10


@pytest.mark.parametrize("name", [name for name, cls in TEMPLATES.items() if episode(cls, 0)[0].answer is not None])
def test_wrong_or_missing_answers_fail(name):
    task, before = episode(TEMPLATES[name], 1)
    assert not task.success(before, before, None) and not task.success(before, before, "")
    assert not task.success(before, before, f"not {task.answer}")


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        (" yoga class. ", "Yoga class", True),
        ("Dentist and Yoga class", "Yoga class, Dentist", True),
        ("Dentist", "Yoga class, Dentist", False),
        ("Dentist, Dentist", "Dentist", False),
        ("$12.50", "12.50", True),
        ("1250", "12.50", False),
        ("5550042", "5550042", True),
        ("", "Dentist", False),
    ],
)
def test_answers_are_compared_without_order_case_and_punctuation(answer, expected, same):
    assert same_answer(answer, expected) is same


def test_composite_needs_all_parts():
    class Both(Composite):
        parts = (TEMPLATES["SystemWifiTurnOff"], TEMPLATES["ContactsDeleteContact"])

    task, before = episode(Both, 0)
    assert task.goal == f"Turn Wi-Fi off. Then: {task.tasks[1].goal}"
    assert (Both.apps, Both.complexity) == (("Settings", "Contacts"), 2.2)
    assert task.success(before, task.solved(before))
    for part in task.tasks:
        assert not task.success(before, part.solved(before))
        assert task.side_effects(before, part.solved(before)) == []


def test_first_product_of_a_search_is_the_best_match():
    names = [product["name"] for product in search_result("megamart.web", "green tea")]
    assert names[0] == "Green tea"
    assert score("tea", "Green tea", "", "Groceries") == 3  # in the first of three texts
    assert score("tea groceries", "Green tea", "", "Groceries") == 3 + 1
    assert score("tea pets", "Green tea", "", "Groceries") == 0


def test_unknown_templates_are_errors_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'ContactsAddContact'"):
        library.find("ContactAddContact")
    with pytest.raises(UserError, match="is not a subclass"):
        library.find("random:Random")


def test_every_class_with_a_text_is_found_once():
    folder = Path(library.__file__).parent / "tasks"
    classes = [word for file in folder.glob("*.py") for word in re.findall(r"^class (\w+)", file.read_text(), re.M)]
    assert len(set(classes)) == len(classes)
    assert set(TEMPLATES) <= set(classes)


def test_tasks_are_the_templates_and_sets_of_them():
    sets = ["mini", "webshop", "general", "all"]
    assert list(TASKS) == [*sets, *TEMPLATES]  # a new template gets its own task by a row in table.py
    assert set(TASKS["all"].templates()) == set(TEMPLATES)
    assert set(TASKS["mini"].templates()) == set(MINI) and len(MINI) == 12
    assert TASKS["SimpleSmsSend"].templates() == {"SimpleSmsSend": TEMPLATES["SimpleSmsSend"]}
    assert TASKS["all"].horizon == max(template.step_limit() for template in TEMPLATES.values())
    assert TASKS["SimpleSmsSend"].success == "Send a message to a number without a thread."
