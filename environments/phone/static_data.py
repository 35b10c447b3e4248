"""The phone's static data: products, articles, news, web sites and surveys, the same that its pages show."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..base import UserError, did_you_mean

WEB = Path(__file__).parent / "web"  # the page is WEB / "index.html"
DATA = WEB / "data"


@cache
def static_data(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of web/data.

    A page opened from the disk can load scripts but no JSON. So each file is a script: its first line is an
    assignment (`phone.data.products =`) and the rest is JSON. The rows are shared: do not change them.

    Args:
        name: The file's name without ending: "articles", "news", "products", "sites" or "surveys".

    Returns:
        The rows in the file's order. A product is {id, store, name, category, price (cents), rating, icon, about,
        author (books only)}, its store "Shop" (the app), "Megamart" or "Nutshell Books"; an article {title,
        category, text, facts, see_also}; a news item {id, topic, date, title, text}; a site {name, url, icon, colour,
        about}; a survey {id, title, fields}, a field {name, kind: text | choice | check, options}.

    Raises:
        UserError: If there is no such file.
    """
    names = sorted(file.stem for file in DATA.glob("*.js"))
    if name not in names:
        hint = did_you_mean(name, names)
        raise UserError(f"{name!r} is not a data file of the phone.{hint} There are: {', '.join(names)}.")
    rows: list[dict[str, Any]] = json.loads((DATA / f"{name}.js").read_text(encoding="utf-8").split("\n", 1)[1])
    return rows
