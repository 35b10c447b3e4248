"""A rich console for messages that people copy from the terminal."""

from __future__ import annotations

from typing import Any

import rich.console


class Console(rich.console.Console):
    """A console that does not wrap its lines, so that a command or a path can be pasted from them.

    Args:
        options: As of rich's Console. Numbers and paths are not coloured unless `highlight` is True.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"soft_wrap": True, "highlight": False} | options)
