"""Atomic writing of files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any], *, lines: bool = False) -> None:
    """Write a dict as a JSON file atomically: the new file replaces the old file when it is complete on the disk.

    Args:
        path: The file; its folder must exist.
        values: JSON values.
        lines: Write each key with its value on one line, so that diffs stay small; False = indented JSON.
    """
    text = json.dumps(values, indent=2)
    if lines:
        text = "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()) + "\n}"
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text + "\n", encoding="utf-8")
    sync(partial)
    os.replace(partial, path)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
