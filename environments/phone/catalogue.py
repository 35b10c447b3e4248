"""The static data of the phone's shops, encyclopedia and web sites, which the page reads too: web/data/*.js."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "web" / "data"


@cache
def load(name: str) -> tuple[dict[str, Any], ...]:
    """Return the rows of a file in web/data.

    Args:
        name: The file's name without suffix, such as "products".
    """
    script = (FOLDER / f"{name}.js").read_text(encoding="utf-8")
    return tuple(json.loads(script.partition("=")[2].strip().removesuffix(";")))
