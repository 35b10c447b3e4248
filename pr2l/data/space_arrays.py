"""Arrays for elements of Gymnasium spaces: stacked over time, written to HDF5, and read from it.

The layout is Minari's: a Dict space is a dict of arrays, a Tuple space a tuple of arrays, a Text space a list of
strings, and every other space one array [n, ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from pr2l.core.errors import UserError
from pr2l.rollout.elements import SUPPORTED


def check_supported(space: spaces.Space[Any], name: str) -> None:
    """Raise UserError for a space that recorded episodes cannot hold, such as Graph or Sequence.

    Args:
        space: The space; subspaces of Dict and Tuple are checked too.
        name: Name of the space in the error message, e.g. "action space".
    """
    if not isinstance(space, SUPPORTED):
        kinds = ", ".join(kind.__name__ for kind in SUPPORTED)
        raise UserError(f"the {name} is {space}, which cannot be recorded; it must be {kinds}")
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for subspace in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            check_supported(subspace, name)


def stack(space: spaces.Space[Any], elements: Sequence[Any]) -> Any:
    """Stack n elements of a space over time.

    Args:
        space: One of SUPPORTED.
        elements: n elements, as returned by `as_element`.

    Returns:
        Arrays [n, ...] in the space's dtype, or lists of n strings, in the layout above.
    """
    if isinstance(space, spaces.Dict):
        return {key: stack(subspace, [element[key] for element in elements]) for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            stack(subspace, [element[index] for element in elements]) for index, subspace in enumerate(space.spaces)
        )
    if isinstance(space, spaces.Text):
        return list(elements)
    return np.asarray(elements, dtype=space.dtype).reshape(len(elements), *(space.shape or ()))


def write(group: h5py.Group, name: str, values: Any) -> None:
    """Write stacked values to an HDF5 group, as Minari does.

    Args:
        group: The group.
        name: The name of the new data set or, for a dict or a tuple, of the new subgroup.
        values: Arrays or lists [n, ...] in the layout above.
    """
    if isinstance(values, (dict, tuple)):
        parts = values if isinstance(values, dict) else {f"_index_{i}": part for i, part in enumerate(values)}
        subgroup = group.create_group(name)
        for key, part in parts.items():
            write(subgroup, key, part)
        return
    texts = isinstance(values, list) and all(isinstance(value, str) for value in values)
    shape = (None,) if texts else (None, *np.shape(values)[1:])
    dtype = h5py.string_dtype("utf-8") if texts else None
    group.create_dataset(name, data=values, dtype=dtype, chunks=True, maxshape=shape)


def read(space: spaces.Space[Any], stored: Any, name: str) -> Any:
    """Read stacked elements from an HDF5 group or data set.

    Args:
        space: One of SUPPORTED.
        stored: The HDF5 group (for Dict and Tuple) or data set.
        name: Name of the values in the error message, e.g. "action".

    Returns:
        The elements in the layout above.

    Raises:
        UserError: If integers are stored for a space of floats (earlier versions rounded Box actions), or shapes or
            keys differ from the space's.
    """
    if isinstance(space, spaces.Dict):
        if missing := [key for key in space.spaces if key not in stored]:
            raise UserError(f"the stored {name} has no {missing[0]!r}, which is a key of its space {space}")
        return {key: read(subspace, stored[key], f"{name}[{key!r}]") for key, subspace in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        subspaces = enumerate(space.spaces)
        return tuple(read(subspace, stored[f"_index_{index}"], f"{name}[{index}]") for index, subspace in subspaces)
    if isinstance(space, spaces.Text):
        return [text.decode("utf-8") for text in stored[()]]
    assert isinstance(stored, h5py.Dataset)
    dtype = np.dtype(space.dtype)
    if stored.shape[1:] != space.shape or not np.can_cast(stored.dtype, dtype, "same_kind"):
        raise _wrongly_stored(space, stored, name)
    if np.issubdtype(dtype, np.floating) and not np.issubdtype(stored.dtype, np.floating):
        raise _wrongly_stored(space, stored, name)
    return stored[()].astype(dtype, copy=False)


def _wrongly_stored(space: spaces.Space[Any], stored: h5py.Dataset, name: str) -> UserError:
    return UserError(
        f"the {name} is stored as {stored.dtype} {list(stored.shape[1:])}, but its space is {space}. "
        "Earlier versions of pr2l rounded the actions of Box spaces to integers: collect the data set again"
    )
