"""Reader of human demonstrations of ObjectNav in the format of Habitat-Web and PIRLNav.

A file is one gzipped JSON object of hundreds of megabytes; among its keys are

    "episodes": [{"episode_id": "7", "scene_id": "hm3d/train/00800-.../TEEsavR23oF.basis.glb",
                  "start_position": [x, y, z], "start_rotation": [x, y, z, w], "object_category": "chair",
                  "reference_replay": [{"action": "STOP"}, {"action": "TURN_LEFT", "agent_state": {...}}, ...]}, ...]

(Ram81/pirlnav at 8235b0e: pirlnav/dataset/dataset.py and task/object_nav_task.py). The first entry of a replay is the
state at the start, and its action was not taken. The reader decodes one episode at a time and skips all other parts of
the file. This module imports only the standard library and runs with Python 3.9.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

# Action in a replay -> action of habitat-lab's ObjectNav task.
ACTIONS = {
    "STOP": "stop",
    "MOVE_FORWARD": "move_forward",
    "TURN_LEFT": "turn_left",
    "TURN_RIGHT": "turn_right",
    "LOOK_UP": "look_up",
    "LOOK_DOWN": "look_down",
}
BLOCK = 1 << 20  # characters per read

_IN_NUMBER = re.compile(r"[-+.eE0-9]*")
_SPACE = re.compile(r"[ \t\r\n]*")
# A bracket, or a string; the group is missing if the string is not closed within the text.
_TOKEN = re.compile(r'[\[\]{}]|"[^"\\]*(?:\\.[^"\\]*)*(")?', re.DOTALL)


@dataclass(frozen=True)
class Replay:
    """Human demonstration of one episode.

    Args:
        episode_id: The id of the episode in the file.
        scene_id: The path of the scene below the folder of the scene data sets.
        goal: The object's category.
        position: The start position (x, y, z) in metres.
        rotation: The start rotation, a quaternion (x, y, z, w).
        actions: The actions that were taken, values of ACTIONS.
    """

    episode_id: str
    scene_id: str
    goal: str
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    actions: tuple[str, ...]


def read_replays(path: Path) -> Iterator[Replay]:
    """Read the demonstrations of a file in order, with one in memory at a time.

    Args:
        path: A .json.gz file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not in the format above; the message names the episode.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, episode in enumerate(_episodes(_Json(file))):
                yield _replay(episode)
                number += 1  # a later error belongs to the next episode
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ValueError(
            f"{path}, episode {number}: {error}. An ObjectNav data set with human demonstrations is needed, "
            "such as content/<scene>.json.gz of PIRLNav's objectnav_hm3d_hd"
        ) from error


def _replay(episode: Any) -> Replay:
    if not isinstance(episode, dict):
        raise ValueError(f"it is {_short(episode)}, not an object")
    steps = _field(episode, "reference_replay", list)
    if not steps:
        raise ValueError("its reference_replay is empty; it holds at least the state at the start")
    x, y, z = _numbers(episode, "start_position", 3)
    qx, qy, qz, qw = _numbers(episode, "start_rotation", 4)
    return Replay(
        str(_field(episode, "episode_id", (str, int))),
        _field(episode, "scene_id", str),
        _field(episode, "object_category", str),
        (x, y, z),
        (qx, qy, qz, qw),
        tuple(_action(step) for step in steps[1:]),
    )


def _action(step: Any) -> str:
    name = step.get("action") if isinstance(step, dict) else None
    if not isinstance(name, str) or name not in ACTIONS:
        names = ", ".join(ACTIONS)
        raise ValueError(f"its reference_replay has the step {_short(step)}, whose action is none of {names}")
    return ACTIONS[name]


def _field(episode: dict[str, Any], name: str, kind: Any) -> Any:
    if name not in episode:
        raise ValueError(f"it has no {name}; it has {', '.join(sorted(episode)) or 'nothing'}")
    if not isinstance(episode[name], kind) or isinstance(episode[name], bool):
        raise ValueError(f"its {name} is {_short(episode[name])}")
    return episode[name]


def _numbers(episode: dict[str, Any], name: str, count: int) -> list[float]:
    values = _field(episode, name, list)
    if len(values) != count or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"its {name} is {_short(values)}, not {count} numbers")
    return [float(value) for value in values]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _episodes(text: _Json) -> Iterator[Any]:
    """Decode the elements of the list "episodes" one by one."""
    text.expect("{")
    while text.next() == '"':
        key = text.value()
        text.expect(":")
        if key == "episodes":
            yield from text.elements()
            return
        text.skip()
        if text.next() == ",":
            text.expect(",")
    raise ValueError("the file has no list `episodes`")


class _Json:
    """Position in a JSON text that is read in blocks."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """Return the next character that is not white space, or "" at the end; the position stays before it."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches everywhere
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        """Move past a character.

        Raises:
            ValueError: If the next character is another one.
        """
        if (actual := self.next()) != character:
            raise ValueError(f"expected {character!r} and found {actual!r}" if actual else "the file ends too early")
        self._at += 1

    def value(self) -> Any:
        """Decode the next value and move past it."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise ValueError(f"this is not JSON: {_short(self._text[error.pos : error.pos + 40])}") from error
            if _IN_NUMBER.fullmatch(self._text, end) and self._more():  # a number such as 0.5 may go on after its 0
                continue
            self._at = end
            return value

    def elements(self) -> Iterator[Any]:
        """Decode the elements of a list one by one, and move past the list."""
        self.expect("[")
        while self.next() != "]":
            yield self.value()
            if self.next() != "]":
                self.expect(",")
        self.expect("]")

    def skip(self) -> None:
        """Move past a value without decoding it."""
        if self.next() not in ("[", "{"):
            self.value()
            return
        depth = 0
        while True:
            for token in _TOKEN.finditer(self._text, self._at):
                if token.group().startswith('"') and not token.group(1):
                    break
                self._at = token.end()
                depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.group(), 0)
                if depth == 0:
                    return
            else:
                self._at = len(self._text)
            if not self._more():
                raise ValueError("the file ends too early")

    def _more(self) -> bool:
        """Read a block and drop the text before the position; False at the end of the file.

        A block is at least as long as the remaining text, so that a long value needs few attempts to decode it.
        """
        remaining = self._text[self._at :]
        block = self._file.read(max(BLOCK, len(remaining)))
        self._text, self._at = remaining + block, 0
        return bool(block)
