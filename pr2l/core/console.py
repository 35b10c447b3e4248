"""A rich console that does not wrap lines."""

from __future__ import annotations

from typing import Any

import rich.console


class Console(rich.console.Console):
    """Console that prints paths and commands as they are, so that users can copy them: no wrapped lines, no emoji.

    Args:
        options: Arguments of `rich.console.Console`. The default of `highlight` is False: numbers and paths have no
            colours.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"soft_wrap": True, "highlight": False, "emoji": False} | options)
