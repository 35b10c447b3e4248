"""Finds the task templates: every class in a file of tasks/, and classes of other packages by "module:Class"."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from inspect import isclass
from pkgutil import iter_modules
from typing import TypeGuard

from ..base import UserError, did_you_mean
from . import tasks
from .template import Template


@cache
def templates() -> dict[str, type[Template]]:
    """Return the templates in tasks/ by the names of their classes, in the order of files and lines.

    A class without a text, such as a base class of several templates, is not a template.
    """
    modules = [import_module(f"{tasks.__name__}.{info.name}") for info in iter_modules(tasks.__path__)]
    classes = [cls for module in modules for cls in vars(module).values() if isclass(cls)]
    return {cls.__name__: cls for cls in classes if is_template(cls) and cls.__module__.startswith(tasks.__name__)}


def is_template(cls: type) -> TypeGuard[type[Template]]:
    """Return whether a class is a template with a text."""
    return issubclass(cls, Template) and hasattr(cls, "text")


def find(name: str) -> type[Template]:
    """Return the template of a name.

    Args:
        name: The name of a class in tasks/, or "module:Class" of a class in any module that Python can import.

    Raises:
        UserError: There is no such template, or the class is not one.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        known = templates()
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(f"{name!r} is not a task template.{hint} Templates: {', '.join(known)}.")
        return known[name]
    cls = getattr(import_module(module), attribute, None)
    if not isclass(cls) or not is_template(cls):
        raise UserError(f"{name!r} is not a subclass of pr2l.environments.phone.Template with a text")
    return cls
