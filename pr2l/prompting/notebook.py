"""Helpers for the notebooks in prompts/notebooks: HTML tables, picture uploads, and no progress bars."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from pr2l.core.errors import UserError
from pr2l.core.images import read_image
from pr2l.core.types import Frames

PICTURES = Path("pictures")  # folder for pictures if there is no upload widget
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def quiet() -> None:
    """Turn off progress bars and warnings about missing widgets, which notebooks show in red.

    Call this before other imports, so that their warnings are turned off too.
    """
    for message in ("IProgress not found", 'install "ipywidgets"'):
        warnings.filterwarnings("ignore", message=message)
    from transformers.utils import logging

    logging.disable_progress_bar()


class HtmlTable:
    """Wrapper around a rich table that a notebook shows as an HTML table."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def _repr_html_(self) -> str:
        columns = self.table.columns
        head = "".join(_cell("th", column.header) for column in columns)
        rows = zip(*(column.cells for column in columns), strict=True)
        body = "".join(f"<tr>{''.join(_cell('td', value) for value in row)}</tr>" for row in rows)
        captions = [escape(str(text)) for text in (self.table.title, self.table.caption) if text]
        caption = f"<caption style='text-align: left'>{'<br>'.join(captions)}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, value: Any) -> str:
    return f"<{tag} style='text-align: left'>{escape(str(value))}</{tag}>"


def upload() -> Any:
    """Return an upload button for pictures; without ipywidgets, a text that names the folder and the package."""
    try:
        from ipywidgets import FileUpload  # type: ignore[import-not-found]
    except ImportError:
        PICTURES.mkdir(exist_ok=True)
        return (
            f"Put pictures into the folder {PICTURES.resolve()} (for example with Jupyter's upload button), or install "
            "the package for an upload button here: pip install ipywidgets"
        )
    return FileUpload(accept="image/*", multiple=True)


def pictures(uploaded: Any, size: tuple[int, int]) -> list[Frames]:
    """Return the uploaded pictures, and the pictures in the folder PICTURES.

    Args:
        uploaded: Return value of upload.
        size: Height and width of the returned pictures in pixels.

    Returns:
        Pictures, uint8 [H, W, 3] each. Files that cannot be read as pictures are skipped.
    """
    values = () if isinstance(uploaded, str) else uploaded.value
    contents: Sequence[Any] = [io.BytesIO(file["content"]) for file in values]
    files = sorted(path for path in PICTURES.glob("*") if path.suffix.lower() in SUFFIXES)
    frames = []
    for source in [*contents, *files]:
        try:
            picture = Image.fromarray(read_image(source))
        except UserError:
            continue
        frames.append(np.asarray(picture.resize(size[::-1])))
    return frames
