"""The phone's state document: schema, access by path, random states and differences."""

import json
from copy import deepcopy
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pr2l.environments.base import UserError
from pr2l.environments.phone.diff import diff, same, unexpected, without
from pr2l.environments.phone.generate import add, new_id, random_look, random_state
from pr2l.environments.phone.state import APPS, get, put, validate

SEEDS = st.integers(0, 2**32)


def state(seed=0):
    return random_state(Random(seed))


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_random_states_are_valid_json_and_a_function_of_the_seed(seed):
    document = random_state(Random(seed), random_look(Random(seed)))
    validate(document)
    assert json.loads(json.dumps(document)) == document
    assert random_state(Random(seed), random_look(Random(seed))) == document


def test_random_states_and_looks_differ():
    assert len({json.dumps(state(seed)) for seed in range(50)}) == 50
    looks = [random_look(Random(seed)) for seed in range(50)]
    assert {look["dark"] for look in looks} == {True, False}
    assert {look["font"] for look in looks} == {"small", "normal", "large"}
    assert {look["wallpaper"] for look in looks} == set(range(6))
    assert all(sorted(look["icon_order"]) == sorted(APPS) for look in looks)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_names_of_random_rows_are_unique(seed):
    document = state(seed)
    for table, key in {"contacts": "first_name", "events": "title", "notes": "title", "expenses": "name"}.items():
        names = [row[key] for row in document[table]]
        assert len(set(names)) == len(names)
    numbers = {contact["phone"] for contact in document["contacts"]}
    assert {message["name_or_number"] for message in document["messages"]} <= numbers


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("settings/wifi", "on", "settings/wifi: Input should be a valid boolean"),
        ("settings/brightness", 101, "settings/brightness: .*less than or equal to 100"),
        ("contacts/c1/phone", 5550042, "contacts/0/phone: Input should be a valid string"),
        ("events/e1/date", "16.10.2023", "events/0/date: String should match pattern"),
        ("contacts/c2/id", "c1", "contacts has more than one row with the id 'c1'"),
    ],
)
def test_invalid_values_name_their_paths(path, value, text):
    document = state()
    put(document, path, value)
    with pytest.raises(UserError, match=text):
        validate(document)


def test_unknown_and_missing_keys_are_errors():
    document = state()
    del document["alarms"]
    document["settings"]["warp"] = True
    with pytest.raises(UserError, match="settings/warp: Extra inputs.*alarms: Field required"):
        validate(document)


def test_values_are_read_and_written_by_path():
    document = state()
    put(document, "contacts/c2/phone", "5559999")
    assert get(document, "contacts/c2/phone") == document["contacts"][1]["phone"] == "5559999"
    with pytest.raises(UserError, match="nothing at 'contacts/c99/phone': 'c99' is missing"):
        get(document, "contacts/c99/phone")
    with pytest.raises(UserError, match="is a row of a list"):
        put(document, "contacts/c2", {})


def test_diff_names_what_was_added_removed_and_changed():
    before = {"a": {"x": 1, "y": 2}, "rows": [{"id": "r1", "n": 1}, {"id": "r2", "n": 2}], "words": ["b", "c"]}
    after = {"a": {"x": 1, "y": 3}, "rows": [{"id": "r2", "n": 5}, {"id": "r3", "n": 1}], "words": ["b", "d"]}
    assert list(map(str, diff(before, after))) == [
        "a/y changed from 2 to 3",
        'rows/r1 removed: {"id": "r1", "n": 1}',
        'rows/r3 added: {"id": "r3", "n": 1}',
        "rows/r2/n changed from 2 to 5",
        'words/c removed: "c"',
        'words/d added: "d"',
    ]


def test_diff_of_moves_and_repeated_values():
    assert diff({"words": ["a", "b"]}, {"words": ["b", "a"]})[0].kind == "changed"
    assert diff({"rows": [{"id": "1"}, {"id": "2"}]}, {"rows": [{"id": "2"}, {"id": "1"}]}) == []
    assert [change.path for change in diff({"words": ["a"]}, {"words": ["a", "a", "a"]})] == [
        "words/a (2)",
        "words/a (3)",
    ]


@settings(max_examples=50, deadline=None)
@given(SEEDS, SEEDS)
def test_diff_is_empty_exactly_for_equal_states(one, other):
    assert diff(state(one), state(one)) == []
    assert bool(diff(state(one), state(other))) == (state(one) != state(other))


def test_same_ignores_ids_order_case_and_free_paths_only():
    first, second = state(), state()
    second["contacts"].reverse()
    second["contacts"][0]["id"] = "c77"
    second["notes"][0]["title"] = f" {first['notes'][0]['title'].upper()} "
    assert same(first, second)
    second["messages"][0]["read"] ^= True
    assert not same(first, second) and same(first, second, ["messages/*/read"])
    second["contacts"].append(deepcopy(second["contacts"][0]))
    assert not same(first, second, ["messages/*/read"])


def test_without_removes_the_values_of_patterns():
    document = {"screen": 1, "rows": [{"id": "a", "x": 1, "y": 2}, {"id": "b", "x": 3}], "deep": {"one": {"z": 1}}}
    rest = without(document, ["screen", "rows/*/x", "rows/b", "deep/*/z", "not/there"])
    assert rest == {"rows": [{"id": "a", "y": 2}], "deep": {"one": {}}}
    assert without(document, ["rows/*", "deep/*"]) == {"screen": 1, "rows": [], "deep": {}}


def test_unexpected_changes_are_those_that_the_goal_does_not_need():
    before = state()
    goal, after = deepcopy(before), deepcopy(before)
    person = {"first_name": "Ann", "last_name": "Lee", "phone": "1", "email": "", "starred": False}
    add(goal, "contacts", **person)
    after["contacts"].append({"id": "c500", **person})
    after["screen"] = {"app": "Contacts"}
    assert unexpected(before, goal, after, ["screen"]) == []
    after["contacts"].append({"id": "c501", **person})
    lost = after["contacts"].pop(0)
    after["settings"]["brightness"] = 99
    paths = {(change.kind, change.path) for change in unexpected(before, goal, after, ["screen"])}
    assert paths == {
        ("added", "contacts/c501"),
        ("removed", f"contacts/{lost['id']}"),
        ("changed", "settings/brightness"),
    }


def test_new_ids_follow_the_largest_number():
    assert new_id([], "c") == "c1"
    assert new_id([{"id": "c2"}, {"id": "c9"}, {"id": "cx"}], "c") == "c10"
