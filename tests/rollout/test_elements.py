"""Conversion of actions to elements of a space and to JSON."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from pr2l.core.errors import UserError
from pr2l.rollout.elements import action_to_json, as_element

NESTED = spaces.Dict(
    keys=spaces.Tuple([spaces.MultiBinary(2), spaces.Text(8)]),
    mouse=spaces.Dict(move=spaces.Box(-1, 1, (2,), np.float32), button=spaces.Discrete(3, start=-1)),
)
MOVES = spaces.Dict(move=spaces.Box(-1, 1, (2,), np.float32), jump=spaces.Discrete(2))
SPACES = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=5),
    spaces.Box(-1, 1, (2,), np.float32),
    spaces.Box(-np.inf, np.inf, (2, 3), np.float64),
    spaces.Box(0, 255, (4,), np.uint8),
    spaces.Box(-1, 1, (), np.float32),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete([[3, 4], [2, 2]], start=[[1, 0], [0, 7]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Text(10),
    MOVES,
    spaces.Tuple([spaces.MultiBinary(2), spaces.Box(-1, 1, (1,), np.float64)]),
    NESTED,
]


def types_of(element):
    """Return the same structure with types, or dtypes and shapes, as leaves."""
    if isinstance(element, dict):
        return {key: types_of(part) for key, part in element.items()}
    if isinstance(element, tuple):
        return tuple(types_of(part) for part in element)
    return (element.dtype, element.shape) if isinstance(element, np.ndarray) else type(element)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_elements_are_restored_from_json_with_their_types(space) -> None:
    space.seed(0)
    for _ in range(5):
        action = space.sample()
        element = as_element(space, action, "action")
        restored = as_element(space, json.loads(json.dumps(action_to_json(space, element))), "action")
        assert space.contains(restored) and types_of(restored) == types_of(element) == types_of(action)
        assert action_to_json(space, restored) == action_to_json(space, action)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_restored_from_json_exactly(dtype) -> None:
    space = spaces.Box(-np.inf, np.inf, (4,), dtype)
    numbers = np.array([0.1, -1 / 3, np.nextafter(dtype(1), dtype(2)), np.finfo(dtype).tiny], dtype)
    restored = as_element(space, json.loads(json.dumps(action_to_json(space, numbers))), "action")
    assert restored.tobytes() == numbers.tobytes()


@pytest.mark.parametrize("value", [2, 2.0, np.int32(2), np.float32(2), np.array(2, np.uint8)], ids=repr)
def test_integers_of_other_types_are_converted(value) -> None:
    element = as_element(spaces.Discrete(3), value, "action")
    assert element == 2 and type(element) is np.int64
    assert as_element(spaces.MultiDiscrete([3, 3]), [value, 0], "action").tolist() == [2, 0]


def test_element_is_a_copy() -> None:
    action = {"move": np.zeros(2, np.float32), "jump": np.int64(1)}
    element = as_element(MOVES, action, "action")
    element["move"][:] = 1
    assert not action["move"].any()


def test_box_elements_may_be_out_of_bounds() -> None:
    assert as_element(spaces.Box(-1, 1, (2,), np.float32), [3, -0.5], "action").tolist() == [3, -0.5]


WRONG_BUTTON = {"keys": [[0, 1], "a"], "mouse": {"move": [0, 0], "button": 2}}
WRONG_KEYS = {"keys": [[0, 3], "a"], "mouse": {"move": [0, 0], "button": 1}}
WRONG = [
    (spaces.Discrete(3), 0.5, "the action is 0.5 (float)"),
    (spaces.Discrete(3), 0.5, "Discrete(3): send an integer from 0 to 2"),
    (spaces.Discrete(3), -1, "send an integer from 0 to 2"),
    (spaces.Discrete(3), 3, "send an integer from 0 to 2"),
    (spaces.Discrete(3, start=1), 0, "send an integer from 1 to 3"),
    (spaces.Discrete(3), np.array([1]), "is array([1]) (int64 [1])"),
    (spaces.Discrete(3), float("nan"), "send an integer"),
    (spaces.Discrete(3), 2**70, "send an integer"),
    (spaces.Discrete(3), "1", "send an integer"),
    (spaces.Discrete(3), None, "send an integer"),
    (spaces.Box(-1, 1, (2,), np.float32), [1.0], "send numbers of shape [2] that float32 can hold"),
    (spaces.Box(-1, 1, (2,), np.float32), [1.0, [2.0]], "send numbers of shape [2]"),
    (spaces.Box(-1, 1, (2,), np.float32), ["left", "up"], "send numbers"),
    (spaces.Box(0, 255, (2,), np.uint8), [0.5, 1], "that uint8 can hold"),
    (spaces.Box(0, 255, (2,), np.uint8), [-1, 1], "that uint8 can hold"),
    (spaces.MultiDiscrete([2, 2]), [0, 2], "send integers of shape [2] in its range"),
    (spaces.MultiDiscrete([2, 2]), [0, 0.5], "send integers"),
    (spaces.MultiDiscrete([2, 2]), [0], "send integers"),
    (spaces.MultiBinary(2), [0, 2], "send integers"),
    (spaces.Text(5), 3, "send a string"),
    (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}, "send a dict with the keys 'a'"),
    (spaces.Dict(a=spaces.Discrete(2)), {"a": 1, "b": 1}, "send a dict with the keys 'a'"),
    (spaces.Dict(a=spaces.Discrete(2)), 1, "send a dict with the keys 'a'"),
    (spaces.Tuple([spaces.Discrete(2)]), (0, 1), "send a tuple of 1 elements"),
    (spaces.Tuple([spaces.Discrete(2)]), None, "send a tuple of 1 elements"),
    (spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]), "0a", "send a tuple of 2 elements"),
    (NESTED, WRONG_BUTTON, "the action['mouse']['button'] is 2 (int)"),
    (NESTED, WRONG_KEYS, "the action['keys'][0] is [0, 3] (list)"),
    (spaces.Sequence(spaces.Discrete(2)), (0, 1), "declare another space; pr2l supports Discrete, Box, "),
]


@pytest.mark.parametrize(("space", "action", "message"), WRONG)
def test_wrong_action_raises_with_the_expected_form(space, action, message) -> None:
    with pytest.raises(UserError, match="no element of its space") as error:
        as_element(space, action, "action")
    assert message in str(error.value)
