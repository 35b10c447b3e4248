"""Errors that tell the user what to do: what was given, what is allowed, the nearest name, and the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

LISTED = 12  # names that an error lists in full
NEAREST = 5  # names that it lists of more


class UserError(Exception):
    """A mistake that the user can correct. The command line prints it without a traceback and exits with code 2."""


class UnknownName(UserError):
    """A name that does not exist.

    Args:
        kind: What was looked up, in the plural, e.g. "encoders".
        given: The name that was asked for.
        allowed: The names that exist.
        hint: The next step, "" for none.
    """

    def __init__(self, kind: str, given: str, allowed: Iterable[str], hint: str = "") -> None:
        self.kind, self.given, self.allowed = kind, given, sorted(allowed)
        text = f"{given!r} is not among the {kind}.{did_you_mean(given, self.allowed)}"
        known = _listed(f"Known {kind}", given, self.allowed)
        super().__init__(f"{text} {known} {hint}".rstrip())


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the most similar allowed name, or "" if none is similar."""
    close = _nearest(given, allowed, count=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Describe a pydantic error, one line for each wrong key.

    Args:
        error: What pydantic raised.
        where: The file or table that the values came from.
        model: The model that the values should fit.
    """
    return "\n".join(_explain_one(problem, where, model) for problem in error.errors())


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> str:
    """Say that a table has a key that it may not have.

    Args:
        where: The file or table with the key.
        key: The key, with dots where it is in a nested table.
        allowed: The keys of that table.
    """
    allowed, last = sorted(allowed), key.rpartition(".")[2]
    listed = _listed("Allowed keys", last, allowed)
    return f"{where}: unknown key {key!r}.{did_you_mean(last, allowed)} {listed}"


def _listed(what: str, given: str, allowed: list[str]) -> str:
    """A sentence with the allowed names, or with the nearest ones where there are many."""
    if len(allowed) <= LISTED:
        return f"{what}: {', '.join(allowed) or 'none'}."
    return f"{what}, the nearest of {len(allowed)}: {', '.join(_nearest(given, allowed, NEAREST, cutoff=0))}."


def _nearest(given: str, allowed: Iterable[str], count: int, cutoff: float) -> list[str]:
    """The most similar names, the best first, whatever their case; cutoff: the least similarity, 0 to 1."""
    spellings = {name.lower(): name for name in allowed}
    return [spellings[name] for name in get_close_matches(given.lower(), spellings, n=count, cutoff=cutoff)]


def _explain_one(problem: Mapping[str, Any], where: str, model: type[BaseModel]) -> str:
    *parents, last = problem["loc"] or ("",)
    key = ".".join(map(str, (*parents, last)))
    if problem["type"] == "extra_forbidden":
        return unknown_key(where, key, _nested(model, parents).model_fields)
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing."
    return f"{where}: {key} = {problem['input']!r}: {problem['msg']}."


def _nested(model: type[BaseModel], parents: Iterable[str | int]) -> type[BaseModel]:
    """The model of a nested table. Indices of a list of tables and names in a dict of tables are passed over."""
    for key in parents:
        if key in model.model_fields:
            annotation = model.model_fields[str(key)].annotation
            inner = [part for part in (annotation, *get_args(annotation)) if hasattr(part, "model_fields")]
            model = inner[0] if inner else model
    return model
