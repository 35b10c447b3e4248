"""Errors for users' mistakes, with the wrong value, the allowed values, the nearest name, and the next step.

The type of an exception decides what the command line prints:

    UserError                                   the message
    OSError: full disk, no permission, no path  path, free space and next step
    any other exception                         the traceback, and whose code raised it (`code_of`)
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

LISTED = 12  # an error lists up to this number of names in full
NEAREST = 5  # of more names, it lists this number of the nearest
OURS = "pr2l"  # the owner of code that is in this repository
LEAVES = ("pr2l.environments.base", "pr2l.policies.base")  # have a UserError of their own: they import no pr2l.core
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_PATH = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


class UserError(Exception):
    """Error for a mistake that the user can correct.

    The command line prints the error without a traceback and exits with code 2.
    """


class TooLong(UserError):
    """Error for a prompt or an answer with more tokens than a model has learned positions."""


class UnknownName(UserError):
    """Error for a name that does not exist.

    Args:
        kind: Kind of the name, in the plural, e.g. "encoders".
        name: The unknown name.
        allowed: The existing names.
        hint: The next step for the user, "" for none.
    """

    def __init__(self, kind: str, name: str, allowed: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.allowed = kind, name, sorted(allowed)
        text = f"{name!r} is not among the {kind}.{did_you_mean(name, self.allowed)}"
        listing = _listed(f"Known {kind}", name, self.allowed)
        super().__init__(f"{text} {listing} {hint}".rstrip())


def is_user_error(error: BaseException) -> bool:
    """Return whether an exception is a mistake of the user: a UserError of pr2l, of environments/ or of policies/.

    Args:
        error: The exception; its causes are not considered.
    """
    modules = [sys.modules[name] for name in LEAVES if name in sys.modules]  # one that is not imported raised nothing
    return isinstance(error, (UserError, *(module.UserError for module in modules)))


def explain_os_error(error: OSError) -> str:
    """Describe an OSError that the user can correct: a full disk, a missing permission, or a path that cannot exist.

    Args:
        error: The exception; its `errno` and file names are used.

    Returns:
        The path, the free space and the next step; "" for any other OSError.
    """
    path = str(error.filename2 or error.filename or "")
    where = f"{path}: " if path else ""
    if error.errno in NO_SPACE:
        return (
            f"{where}{error.strerror or 'no space left'} ({_free_space(path)}). Free some space or name another "
            "folder, and run the command again; files that are complete stay as they are"
        )
    if error.errno in NO_PERMISSION:
        return (
            f"{where}{error.strerror or 'no permission'} ({_free_space(path)}). Name another folder, or change its "
            "permissions, and run the command again"
        )
    if error.errno == errno.EISDIR:
        return f"{where}it is a folder, and a file is needed. Name another file, or move the folder away"
    if error.errno in NO_PATH and not os.path.isdir(path):  # an existing folder is no mistake of the user
        what = f"{file} is a file, and a folder is needed" if (file := _file_in(path)) else error.strerror
        return f"{where}{what}. Name another folder, and run the command again"
    return ""


def _file_in(path: str) -> str:
    """Return the part of a path that is a file, such as "runs" of runs/new; "" if there is none."""
    return next((str(part) for part in (Path(path), *Path(path).parents) if os.path.isfile(part)), "")


def _free_space(path: str) -> str:
    """Return the free space of the disk of a path that need not exist; "" = of the working folder."""
    folder = Path(path or ".").absolute()
    with suppress(OSError):
        folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
        return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free in {folder}"
    return "free space unknown"


@contextmanager
def code_of(owner: str) -> Iterator[None]:
    """Record in an exception whose code raised it; of nested blocks, the innermost one counts.

    The record is an attribute of the exception, so it also arrives from a worker process.

    Args:
        owner: `OURS`, or a description such as "the environment my_module:MyEnv".
    """
    try:
        yield
    except Exception as error:
        if not is_user_error(error) and owner_of(error) is None:
            with suppress(AttributeError):  # of an exception with __slots__
                error._pr2l_owner = owner  # type: ignore[attr-defined]
        raise


def owner_of_object(value: object, kind: str) -> str:
    """Return whose code the class of an object is, for `code_of`.

    Args:
        value: The object.
        kind: Its kind, e.g. "encoder".
    """
    module = type(value).__module__
    return OURS if module.partition(".")[0] == OURS else f"the {kind} {module}.{type(value).__qualname__}"


def owner_of(error: BaseException) -> str | None:
    """Return whose code raised an exception, as `code_of` has recorded it; None = not recorded.

    Args:
        error: The exception.

    Returns:
        The `owner` of the innermost `code_of`.
    """
    return getattr(error, "_pr2l_owner", None)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; the name of its class if the message is empty.

    Args:
        error: The error.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the most similar allowed name, or "" if no name is similar.

    Args:
        name: The unknown name.
        allowed: The existing names.
    """
    close = _nearest(name, allowed, count=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Describe a pydantic error, one line for each wrong key.

    Args:
        error: The error from pydantic.
        where: Name of the file or table with the values.
        model: The model that refused the values.
    """
    return "\n".join(_explain_one(problem, where, model) for problem in error.errors())


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> str:
    """Return the error message for an unknown key.

    Args:
        where: Name of the file or table with the key.
        key: The key, with dots if it is in a nested table.
        allowed: The allowed keys of that table.
    """
    allowed, last = sorted(allowed), key.rpartition(".")[2]
    listing = _listed("Allowed keys", last, allowed)
    return f"{where}: unknown key {key!r}.{did_you_mean(last, allowed)} {listing}"


def _listed(what: str, name: str, allowed: list[str]) -> str:
    """Return a sentence with the allowed names, or with the nearest names if there are many."""
    if len(allowed) <= LISTED:
        return f"{what}: {', '.join(allowed) or 'none'}."
    return f"{what}, the nearest of {len(allowed)}: {', '.join(_nearest(name, allowed, NEAREST, cutoff=0))}."


def _nearest(unknown: str, allowed: Iterable[str], count: int, cutoff: float) -> list[str]:
    """Return the most similar names, the best first, ignoring case; `cutoff` is the minimum similarity, 0 to 1."""
    spellings = {name.lower(): name for name in allowed}
    return [spellings[name] for name in get_close_matches(unknown.lower(), spellings, n=count, cutoff=cutoff)]


def _explain_one(problem: Mapping[str, Any], where: str, model: type[BaseModel]) -> str:
    if not problem["loc"]:  # several values do not fit together
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}."
    *parents, last = problem["loc"]
    key = ".".join(map(str, (*parents, last)))
    if problem["type"] == "extra_forbidden":
        return unknown_key(where, key, _nested(model, parents).model_fields)
    if problem["type"] == "missing":
        return f"{where}: the key {key!r} is missing."
    return f"{where}: {key} = {problem['input']!r}: {problem['msg']}."


def _nested(model: type[BaseModel], parents: Iterable[str | int]) -> type[BaseModel]:
    """Return the model of a nested table; indices of lists and names in dicts of tables are skipped."""
    for key in parents:
        if key in model.model_fields:
            annotation = model.model_fields[str(key)].annotation
            inner = [
                candidate for candidate in (annotation, *get_args(annotation)) if hasattr(candidate, "model_fields")
            ]
            model = inner[0] if inner else model
    return model
