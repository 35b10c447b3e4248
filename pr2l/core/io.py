"""Atomic writing of files, and checksums that are verified when a file is read.

`write_json` stores a digest of the values beside them, under the key "digest"; `read_json` verifies and removes it. A
file without that key, from an earlier version or another program, is read without verification.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pr2l.core import digest
from pr2l.core.errors import UserError

DIGEST = "digest"


class DamagedFile(UserError):
    """Error for a file that is not as it was written: truncated, overwritten in part, or edited.

    Args:
        path: The file.
        problem: What is wrong with it.
        next_step: What the user can do, "" for none.
    """

    def __init__(self, path: Path, problem: str, next_step: str = "") -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path} is damaged: {problem}. {next_step}".rstrip())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: the new file replaces the old file when it is complete on the disk.

    Args:
        path: The file; its folder must exist.
        text: The content.
    """
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    os.replace(partial, path)


def write_json(path: Path, values: dict[str, Any], *, lines: bool = False) -> None:
    """Write a dict as a JSON file, atomically and with a digest.

    Args:
        path: The file; its folder must exist.
        values: JSON values.
        lines: Write each key with its value on one line, so that diffs stay small; False = indented JSON.
    """
    signed = _signed(values)
    text = json.dumps(signed, indent=2)
    if lines:
        text = "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in signed.items()) + "\n}"
    write_text(path, text + "\n")


def read_json(path: Path, next_step: str = "") -> dict[str, Any]:
    """Read a dict from a JSON file, and verify its digest if it has one.

    Args:
        path: The file.
        next_step: What the user can do if the file is damaged, "" for nothing.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFile: The file is no JSON object, or its values do not have the digest.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(path, f"it is not JSON ({error})", next_step) from error
    return parse_json(text, path, next_step)


def json_line(values: dict[str, Any]) -> str:
    """Return a dict as one line of a file of JSON lines, with a digest; `parse_json` reads it.

    Args:
        values: JSON values by name.
    """
    return json.dumps(_signed(values)) + "\n"


def parse_json(text: str, path: Path, next_step: str = "") -> dict[str, Any]:
    """Parse a dict from the text of a JSON file or of one of its lines, and verify its digest if it has one.

    Args:
        text: The text.
        path: The file of the text, for errors.
        next_step: What the user can do if the text is damaged, "" for nothing.

    Raises:
        DamagedFile: The text is no JSON object, or its values do not have the digest.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or an integer of 5,000 digits
        raise DamagedFile(path, f"it is not JSON ({error})", next_step) from error
    if not isinstance(values, dict):
        raise DamagedFile(path, f"it contains a {type(values).__name__}, not a JSON object", next_step)
    written = values.pop(DIGEST, None)
    if written is None and _last_is_digest(values):
        raise DamagedFile(path, f"the name {DIGEST!r} of its last entry differs", next_step)
    if written is not None and written != _digest(values):
        raise DamagedFile(path, "its values differ from those that were written", next_step)
    return values


def _last_is_digest(values: dict[str, Any]) -> bool:
    """Return whether the last value is the digest of the others; then its name was damaged."""
    if not values:
        return False
    *others, (_, last) = values.items()
    return isinstance(last, str) and last == _digest(dict(others))


def _signed(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, DIGEST: _digest(values)}


def _digest(values: dict[str, Any]) -> str:
    return digest.of_json(json.loads(json.dumps(values)))  # as read from the file: lists in place of tuples


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk.

    Args:
        path: An existing file, or a folder after a file in it was created or renamed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
