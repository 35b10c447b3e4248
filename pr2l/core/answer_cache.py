"""Cache of the answers of models, so that no question is paid for twice.

A cache on disk is a file of JSON lines, each with a digest of its values:

    {"key": digest of model and question, "answer": {"probability": 0.5, "texts": [...]}, "digest": ...}

Several processes may use one file at the same time: a line is appended in one piece under a lock of the file, and lines
of other processes are read before a question is asked. A line that a killed process left incomplete is skipped.
The file is also a recording: with `replay`, no question is asked, so an API needs neither network nor key.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, json_line, parse_json
from pr2l.core.messages import Message

if sys.platform != "win32":
    import fcntl


CACHE = Path("runs/evaluators/answers.jsonl")  # shared by all commands


class AnswerCache:
    """Cache of JSON values by key, in memory or on disk; threads may share one.

    Args:
        path: File of the cache, which is created with its folder if it does not exist. None = in memory only.
        replay: Raise an error for a question that is not in the cache, in place of asking it.

    Attributes:
        hits: Number of answers that were found in the cache.

    Raises:
        UserError: With `replay`, there is no such file.
    """

    def __init__(self, path: Path | None = None, *, replay: bool = False) -> None:
        if replay and (path is None or not path.is_file()):
            raise UserError(f"there is no recording {path}; record one by the same command without replay")
        self.path, self.replay, self.hits = path, replay, 0
        self._answers: dict[str, Any] = {}
        self._position = 0  # in the file: the lines before it are in memory
        self._mutex = threading.Lock()

    def answer(self, key: Any, ask: Callable[[], Any]) -> Any:
        """Return the stored answer of a key, or ask and store it.

        Args:
            key: JSON values of all that the answer depends on.
            ask: Function that returns the answer, a JSON value other than None. If it raises, nothing is stored.

        Raises:
            UserError: With `replay`, the key is not in the cache.
        """
        name = digest.of_json(key)
        with self._mutex:
            if name not in self._answers:
                self._read()
            if name in self._answers:
                self.hits += 1
                return self._answers[name]
        if self.replay:
            raise UserError(f"{self.path} has no answer to this question; record it by the command without replay")
        answer = ask()
        with self._mutex:
            self._answers.setdefault(name, answer)
            self._append({"key": name, "answer": answer})
        return answer

    def _read(self) -> None:
        """Read the lines that were appended since the last call; of several answers to a key, the first one counts."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        complete = content.rpartition(b"\n")[0]
        self._position += len(complete) + 1 if complete else 0
        for line in complete.splitlines():
            try:
                values = parse_json(line.decode(errors="replace"), self.path)
                self._answers.setdefault(values["key"], values["answer"])
            except (DamagedFile, KeyError):
                continue

    def _append(self, values: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b", buffering=0) as file:
            if sys.platform != "win32":
                fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            cut = end > 0 and _last_byte(file) != b"\n"  # a process was killed while it wrote
            file.write(b"\n" * cut + json_line(values).encode())


def _last_byte(file: Any) -> bytes:
    file.seek(-1, os.SEEK_END)
    last: bytes = file.read(1)
    return last


def question_key(messages: list[Message]) -> list[Any]:
    """Return a conversation as JSON values for a key, with a digest in place of each image.

    Args:
        messages: Messages that hold their images.
    """
    return [[message["role"], [_part_key(part) for part in message["content"]]] for message in messages]


def _part_key(part: Any) -> Any:
    if part["type"] == "text":
        return part["text"]
    image = np.ascontiguousarray(part["image"])
    return {"shape": list(image.shape), "pixels": digest.of_bytes(image.tobytes())}
