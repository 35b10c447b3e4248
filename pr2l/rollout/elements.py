"""Elements of Gymnasium spaces: values in the types of their space, and actions as JSON and back without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from pr2l.core.errors import UserError

ARRAYS = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)  # spaces with arrays as elements
SUPPORTED = (*ARRAYS, spaces.Text, spaces.Dict, spaces.Tuple)


def as_element(space: spaces.Space[Any], value: Any, name: str) -> Any:
    """Copy a value as an element of a space.

    This runs once per step and environment and takes a few microseconds.

    Args:
        space: One of SUPPORTED.
        value: An observation or action, e.g. a row of an algorithm's batch, an array of another dtype, or a result of
            `action_to_json`.
        name: Name of the value in the error message, e.g. "action".

    Returns:
        A copy, which the environment may keep or change: an array of the space's dtype; for Discrete a NumPy scalar of
        that dtype; a str for Text; a dict or a tuple of elements for Dict and Tuple.

    Raises:
        UserError: If the structure or the shape differs from the space's, if the conversion to an integer dtype would
            change a number, or if a discrete value is out of range. Box values may lie outside the bounds, and texts
            outside the charset.
    """
    if isinstance(space, ARRAYS):
        return _as_array(space, value, name)
    if isinstance(space, spaces.Text) and isinstance(value, str):
        return str(value)
    if isinstance(space, spaces.Dict) and isinstance(value, Mapping) and value.keys() == space.spaces.keys():
        return {key: as_element(subspace, value[key], f"{name}[{key!r}]") for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Tuple) and isinstance(value, tuple | list) and len(value) == len(space.spaces):
        parts = zip(space.spaces, value, strict=True)
        return tuple(as_element(subspace, part, f"{name}[{index}]") for index, (subspace, part) in enumerate(parts))
    raise _not_an_element(space, value, name)


def _as_array(space: spaces.Space[Any], value: Any, name: str) -> Any:
    try:
        array = np.array(value)
        if array.dtype != space.dtype:
            array = _cast(array, np.dtype(space.dtype))
    except (ValueError, TypeError, OverflowError) as error:
        raise _not_an_element(space, value, name) from error
    if array.shape != space.shape or (not isinstance(space, spaces.Box) and not space.contains(array)):
        raise _not_an_element(space, value, name)
    return array[()] if isinstance(space, spaces.Discrete) else array


def _cast(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Convert an array to a dtype; ValueError if the dtype is not of floats and a number would change."""
    with np.errstate(invalid="ignore"):  # NaN as an integer, which is refused here
        elements = array.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(elements, array):
        raise ValueError(f"{array} has numbers that {dtype} cannot hold")
    return elements


def _not_an_element(space: spaces.Space[Any], value: Any, name: str) -> UserError:
    kind = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return UserError(f"the {name} is {text} ({kind}), which is no element of its space {space}: {_requirement(space)}")


def _requirement(space: spaces.Space[Any]) -> str:
    """Return the end of the error message: what an element of the space must be."""
    if isinstance(space, spaces.Discrete):
        return f"send an integer from {space.start} to {space.start + space.n - 1}"
    if isinstance(space, spaces.Box):
        return f"send numbers of shape {list(space.shape)} that {space.dtype} can hold"
    if isinstance(space, ARRAYS):
        return f"send integers of shape {list(space.shape or ())} in its range"
    if isinstance(space, spaces.Dict):
        return f"send a dict with the keys {', '.join(map(repr, space.spaces))}"
    if isinstance(space, spaces.Tuple):
        return f"send a tuple of {len(space.spaces)} elements"
    if isinstance(space, spaces.Text):
        return "send a string"
    return f"declare another space; pr2l supports {', '.join(supported.__name__ for supported in SUPPORTED)}"


def action_to_json(space: spaces.Space[Any], action: Any) -> Any:
    """Convert an action to JSON values, which `as_element` converts back.

    Args:
        space: The action space, one of SUPPORTED.
        action: An action of that space, as returned by `as_element`.

    Returns:
        Numbers, strings, and nested lists and dicts of them.
    """
    if isinstance(space, spaces.Dict):
        return {key: action_to_json(subspace, action[key]) for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return [action_to_json(subspace, value) for subspace, value in zip(space.spaces, action, strict=True)]
    return action if isinstance(action, str) else np.asarray(action).tolist()
