"""Errors for the person at the keyboard: what was given, what is allowed, the nearest name, the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class UserError(Exception):
    """Something that the user can mend; the command line prints it without a traceback and exits with 2."""


class UnknownName(UserError):
    """A name that no plug-in has.

    kind: what was looked up, in the plural ("encoders"); given: the name asked for; allowed: the names that
    exist; hint: the next step, "" for none.
    """

    def __init__(self, kind: str, given: str, allowed: Iterable[str], hint: str = "") -> None:
        self.kind, self.given, self.allowed = kind, given, sorted(allowed)
        text = f"{given!r} is not among the {kind}.{did_you_mean(given, self.allowed)}"
        known = f"Known {kind}: {', '.join(self.allowed) or 'none'}."
        super().__init__(f"{text} {known} {hint}".rstrip())


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """A sentence (with a leading space) that names the closest allowed spelling, or "" if none is."""
    spellings = {name.lower(): name for name in allowed}
    close = get_close_matches(given.lower(), spellings, n=1, cutoff=0.5)
    return f" Did you mean {spellings[close[0]]!r}?" if close else ""


def explain(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """A pydantic error in our words. where: the file or table it is in; model: what that should have fitted."""
    return "\n".join(_explain_one(problem, where, model) for problem in error.errors())


def _explain_one(problem: Mapping[str, Any], where: str, model: type[BaseModel]) -> str:
    *parents, last = problem["loc"] or ("",)
    key = ".".join(map(str, (*parents, last)))
    if problem["type"] == "extra_forbidden":
        allowed = sorted(_below(model, parents).model_fields)
        known = f"Allowed keys: {', '.join(allowed) or 'none'}."
        return f"{where}: unknown key {key!r}.{did_you_mean(str(last), allowed)} {known}"
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing."
    return f"{where}: {key} = {problem['input']!r}: {problem['msg']}."


def _below(model: type[BaseModel], parents: Iterable[str | int]) -> type[BaseModel]:
    """The model of a nested table; places in a list of tables, and names in a table of them, lead nowhere new."""
    for key in parents:
        if key in model.model_fields:
            annotation = model.model_fields[str(key)].annotation
            inner = [part for part in (annotation, *get_args(annotation)) if hasattr(part, "model_fields")]
            model = inner[0] if inner else model
    return model
