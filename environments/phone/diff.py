"""Differences between two states: which values were added, removed or changed, and whether two states are the same.

`diff` names every difference by its path. `same` ignores the ids of rows and the order of lists, because two ways to
reach a goal can give new rows different ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from .state import Document, row_key


@dataclass(frozen=True)
class Change:
    """One difference between two states."""

    kind: Literal["added", "removed", "changed"]
    path: str
    before: Any = None  # None if added
    after: Any = None  # None if removed

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"{self.path} changed from {json.dumps(self.before)} to {json.dumps(self.after)}"
        return f"{self.path} {self.kind}: {json.dumps(self.after if self.kind == 'added' else self.before)}"


def diff(before: Any, after: Any, path: str = "") -> list[Change]:
    """List the differences between two states, or between two values of a state.

    Args:
        before: The earlier state.
        after: The later state.
        path: The path of both, "" for whole states.

    Returns:
        The changes. A row of a list is found by its id and an item without an id by its value; a move in a list is a
        change only in lists of plain values.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return _diff_keyed(before, after, path)
    if isinstance(before, list) and isinstance(after, list):
        keyed = _keyed(before), _keyed(after)
        changes = _diff_keyed(*keyed, path)
        moved = not changes and before != after and not any(isinstance(item, dict) for item in before)
        return [Change("changed", path, before, after)] if moved else changes
    return [] if before == after else [Change("changed", path, before, after)]


def same(first: Document, second: Document, free: Iterable[str] = ()) -> bool:
    """Return whether two states agree up to the ids of rows, the order of lists, and the case and spaces of texts.

    Args:
        first: A state.
        second: A state.
        free: Patterns of paths that may differ, such as "screen" or "messages/*/read"; "*" is any key or row.
    """
    patterns = tuple(free)
    return _canonical(without(first, patterns)) == _canonical(without(second, patterns))


def without(document: Document, patterns: Iterable[str]) -> Document:
    """Return a copy of a state without the values at the paths of some patterns.

    Args:
        document: The state.
        patterns: Patterns of paths, see `same`.
    """
    copy = deepcopy(document)
    for pattern in patterns:
        *parents, key = pattern.split("/")
        for container in list(_matches(copy, parents)):
            _remove(container, key)
    return copy


def unexpected(before: Document, expected: Document, after: Document, free: Iterable[str] = ()) -> list[Change]:
    """List the changes of a state that are not among the expected changes.

    Args:
        before: The state at the start.
        expected: The state as it should be at the end.
        after: The state as it is at the end.
        free: Patterns of paths that may change, see `same`.

    Returns:
        The changes from `before` to `after`; a new row counts as expected if it equals an expected new row up to its
        id.
    """
    patterns = tuple(free)
    first, goal, last = (without(state, patterns) for state in (before, expected, after))
    allowed = Counter(map(_content, diff(first, goal)))
    extra = []
    for change in diff(first, last):
        if allowed[_content(change)] > 0:
            allowed[_content(change)] -= 1
        else:
            extra.append(change)
    return extra


def _diff_keyed(before: dict[str, Any], after: dict[str, Any], path: str) -> list[Change]:
    prefix = f"{path}/" if path else ""
    removed = [Change("removed", f"{prefix}{key}", before=before[key]) for key in before if key not in after]
    added = [Change("added", f"{prefix}{key}", after=after[key]) for key in after if key not in before]
    pairs = ((key, before[key], after[key]) for key in before if key in after)
    return [*removed, *added, *(change for key, old, new in pairs for change in diff(old, new, f"{prefix}{key}"))]


def _keyed(items: list[Any]) -> dict[str, Any]:
    """Return the items of a list by id, or by value and, from the second on, its number."""
    keyed: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for item in items:
        key = row_key(item) or (item if isinstance(item, str) else json.dumps(item, sort_keys=True))
        counts[key] += 1
        keyed[key if counts[key] == 1 else f"{key} ({counts[key]})"] = item
    return keyed


def _content(change: Change) -> tuple[str, str, Any]:
    """Return a change as a value; that of an added or removed row has no id."""
    path = change.path if change.kind == "changed" else change.path.rpartition("/")[0]
    return change.kind, path, _canonical(change.before if change.kind == "removed" else change.after)


def _canonical(value: Any) -> Any:
    """Return a hashable value without ids, list order, case and extra spaces."""
    if isinstance(value, dict):
        return frozenset((key, _canonical(item)) for key, item in value.items() if key != "id")
    if isinstance(value, list):
        return frozenset(Counter(map(_canonical, value)).items())
    return plain(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """Return a text in lower case, without surrounding space and with single spaces."""
    return " ".join(text.casefold().split())


def _matches(value: Any, keys: list[str]) -> Iterator[Any]:
    """Yield the values at the paths of a pattern."""
    if not keys:
        yield value
        return
    children = value if isinstance(value, dict) else _keyed(value) if isinstance(value, list) else {}
    for key in list(children) if keys[0] == "*" else [keys[0]]:
        if key in children:
            yield from _matches(children[key], keys[1:])


def _remove(container: Any, key: str) -> None:
    if isinstance(container, dict):
        for name in list(container) if key == "*" else [key]:
            container.pop(name, None)
    elif isinstance(container, list):
        container[:] = [item for item in container if key not in ("*", row_key(item))]
