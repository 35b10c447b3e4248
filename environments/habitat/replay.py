"""Human demonstrations of ObjectNav, as Habitat-Web and PIRLNav publish them: episodes with a `reference_replay`.

A file is one JSON object, gzipped, hundreds of megabytes once unpacked; among its keys are

    "episodes": [{"episode_id": "7", "scene_id": "hm3d/train/00800-.../TEEsavR23oF.basis.glb",
                  "start_position": [x, y, z], "start_rotation": [x, y, z, w], "object_category": "chair",
                  "reference_replay": [{"action": "STOP"}, {"action": "TURN_LEFT", "agent_state": {...}}, ...]}, ...]

(Ram81/pirlnav at 8235b0e: pirlnav/dataset/dataset.py and task/object_nav_task.py). The first entry of a replay is the
state before anything was done, so its action stands for nothing. Everything else in the file is passed over: episodes
are decoded one at a time. Imports nothing but the standard library, and runs on Python 3.9.
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

# As written in a replay -> as habitat-lab's ObjectNav task calls it.
ACTIONS = {
    "STOP": "stop",
    "MOVE_FORWARD": "move_forward",
    "TURN_LEFT": "turn_left",
    "TURN_RIGHT": "turn_right",
    "LOOK_UP": "look_up",
    "LOOK_DOWN": "look_down",
}
BLOCK = 1 << 20  # characters read at a time

_SPACE = re.compile(r"[ \t\r\n]*")
# What opens or closes, or a string, which may go on after the text: then without the group.
_TOKEN = re.compile(r'[\[\]{}]|"[^"\\]*(?:\\.[^"\\]*)*(")?', re.DOTALL)


@dataclass(frozen=True)
class Replay:
    """One demonstration.

    scene_id: as in the file, a path below the scene data sets' folder. goal: the object's category. position: x, y, z
    in metres; rotation: a quaternion x, y, z, w; both of the start. actions: values of ACTIONS, each of which was done.
    """

    episode_id: str
    scene_id: str
    goal: str
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    actions: tuple[str, ...]


def read_replays(path: Path) -> Iterator[Replay]:
    """The demonstrations of a .json.gz file, in their order, one in memory at a time.

    Raises FileNotFoundError, and ValueError with the number of the episode where the file is not as described above.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, episode in enumerate(_episodes(_Json(file))):
                yield _replay(episode)
                number += 1  # what fails from here on is the next one
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
        known = ", ".join(ACTIONS)
        raise ValueError(f"its reference_replay has the step {_short(step)}, whose action is none of {known}")
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
    """The elements of the list "episodes" of the object that the text is."""
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
    """A place in a JSON text that is read a block at a time."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is not white space, "" at the end; it stays the next."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches everywhere
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, character: str) -> None:
        """Passes a character."""
        if (found := self.next()) != character:
            raise ValueError(f"expected {character!r} and found {found!r}" if found else "the file ends too early")
        self._at += 1

    def value(self) -> Any:
        """Passes a value, and decodes it."""
        self.next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                raise ValueError(f"this is not JSON: {_short(self._text[error.pos : error.pos + 40])}") from error
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def elements(self) -> Iterator[Any]:
        """Passes a list, and decodes its elements one by one."""
        self.expect("[")
        while self.next() != "]":
            yield self.value()
            if self.next() != "]":
                self.expect(",")
        self.expect("]")

    def skip(self) -> None:
        """Passes a value without keeping or checking what is in it."""
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
        """Reads on, dropping what is passed; at least as much as is kept, so a long value is not tried too often."""
        kept = self._text[self._at :]
        block = self._file.read(max(BLOCK, len(kept)))
        self._text, self._at = kept + block, 0
        return bool(block)
