"""Entry point of the `pr2l` command, and how it prints errors, crashes and warnings."""

from __future__ import annotations

import atexit
import signal
import sys
import warnings
from types import TracebackType
from typing import TextIO

from rich.markup import escape

from pr2l import __version__
from pr2l.cli.commands import app
from pr2l.core.console import Console
from pr2l.core.errors import OURS, explain_os_error, is_user_error, owner_of
from pr2l.core.signals import stops_once


def main() -> None:
    """Run the command line, as entry point of the console script."""
    warnings.showwarning = _show_warning
    sys.excepthook = _show_crash
    try:
        with stops_once(signal.SIGINT):
            app()
    except Exception as error:
        message = _message(error)
        if not message:
            raise
        _fail(message)
    finally:
        # Ctrl-C while Python ends would print a traceback. Registered last, this comes before the handlers of torch.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning; a FutureWarning, which is for users, appears without its line of code."""
    where = "" if issubclass(category, FutureWarning) else f"{filename}:{lineno}: {category.__name__}: "
    Console(stderr=True).print(f"[yellow]warning:[/] {escape(where + str(message))}")


def _message(error: Exception) -> str:
    """Return what to print in place of a traceback; "" for an exception that the user cannot correct."""
    if is_user_error(error):
        return str(error)
    if isinstance(error, OSError) and owner_of(error) in (None, OURS):
        return explain_os_error(error)
    return ""


def _show_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback and whose code raised the exception, as `sys.excepthook`."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, Exception):
        Console(stderr=True).print(f"\n{_whose_bug(error)}", markup=False)


def _whose_bug(error: Exception) -> str:
    owner = owner_of(error)
    if owner in (None, OURS):
        return (
            f"This is a bug of pr2l {__version__}. Please report it in the issues of the repository of pr2l, with the "
            "command and this traceback. Complete files are unchanged, and a run resumes from its newest checkpoint"
        )
    return (
        f"The code of {owner} raised this exception, not pr2l; please report it to its author. Complete files are "
        "unchanged, and a run resumes from its newest checkpoint"
    )


def _fail(message: str) -> None:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}")
    sys.exit(2)
