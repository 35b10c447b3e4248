"""Sets of labelled screens of the phone, for training and evaluating VLMs that read screens.

A set is a folder with

    frames.bin       the frames as PNG, one after the other
    screens.jsonl    one line per screen: walk, place in frames.bin, labels, words, what is open, actions
    set.json         the ScreenSource and digests of the files; written last, so it marks a complete set

Each walk has a seed of its own, so an interrupted generation goes on after the last complete walk, and the result
equals that of an uninterrupted one. Frames are stored as PNG, because 20,000 raw frames of 448 x 252 need 7 GB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from pr2l.core import digest
from pr2l.core.config import Seed
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.core.lock import locked
from pr2l.core.types import Frame
from pr2l.data.screen_pages import text_pages
from pr2l.data.screen_texts import Split
from pr2l.data.screen_walk import Screen, page_spec, walk
from pr2l.environments.browser import BrowserOptions, Page, Pool, shared_pool

FRAMES, SCREENS, CARD = "frames.bin", "screens.jsonl", "set.json"
Content: TypeAlias = Literal["apps", "text"]
Progress = Callable[[int], None]  # called with the number of screens so far


class ScreenSource(BaseModel):
    """Parameters of a set of screens; equal sources give equal sets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: Content = "apps"  # text = pages of random words, for reading alone
    apps: Split = "train"  # evaluation = apps that no training screen shows
    themes: Split = "train"  # evaluation = accent colours and wallpapers that no training screen shows
    words: Split = "train"  # evaluation = words that no generated text of a training screen has
    frames: PositiveInt  # number of screens
    scale: float = Field(default=0.7, gt=0, le=1)  # pixels of a frame per CSS pixel of the screen of 360 x 640
    seed: Seed = 0


@dataclass(frozen=True)
class ScreenSet:
    """Set of screens on the disk.

    Args:
        rows: What screens.jsonl contains: "walk", "place" (offset and length in frames.bin), "labels", "words",
            "edges", "screen", "actions"; see `Screen`. The screen after an action that changed one is the next row.
        data: The bytes of frames.bin.
        content: "text" for pages of text.
    """

    rows: list[dict[str, Any]]
    data: NDArray[np.uint8]
    content: Content = "apps"

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, row: int) -> Frame:
        """Return a frame, uint8 [H, W, 3].

        Args:
            row: Index of the screen, from 0.
        """
        start, length = self.rows[row]["place"]
        picture = cv2.imdecode(np.asarray(self.data[start : start + length]), cv2.IMREAD_COLOR_RGB)
        return np.asarray(picture, np.uint8)


def load_or_generate(source: ScreenSource, folder: Path, progress: Progress = lambda done: None) -> ScreenSet:
    """Load a set of screens; generate it, or the rest of it, if it is not complete.

    Args:
        source: The parameters of the set.
        folder: The folder of all sets; each set is a subfolder.
        progress: Function that is called with the number of screens so far, after each walk.

    Raises:
        UserError: If Chromium is not installed.
        PageFailure: If a page fails several times in the same walk.
        DamagedFile: If a file of the set differs from what was written.
    """
    key = hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:8]
    path = folder / f"screens-{source.content}-{source.apps}-{source.themes}-{source.words}-{key}"
    if not (path / CARD).exists():
        with locked(path, wait=True):
            if not (path / CARD).exists():  # another process has not generated it in the meantime
                _generate(source, path, progress)
    return _read(path)


def _read(path: Path) -> ScreenSet:
    again = f"Delete {path}; the same command generates its screens again."
    card = read_json(path / CARD, again)
    for name, written in card["files"].items():
        if not (path / name).is_file():
            raise DamagedFile(path / name, "it is missing", again)
        if digest.of_file(path / name) != written:
            raise DamagedFile(path / name, "its content differs from what was written", again)
    frames = np.memmap(path / FRAMES, np.uint8, mode="r")
    return ScreenSet(_lines(path / SCREENS), frames, card["source"]["content"])


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _generate(source: ScreenSource, path: Path, progress: Progress) -> None:
    path.mkdir(parents=True, exist_ok=True)
    rows = _complete_walks(path)
    done, first = len(rows), rows[-1]["walk"] + 1 if rows else 0
    progress(done)
    with (
        closing(shared_pool(BrowserOptions(timeout=30.0))) as pool,
        (path / FRAMES).open("ab") as frames,
        (path / SCREENS).open("a", encoding="utf-8") as lines,
    ):
        for number in count(first):
            if done == source.frames:
                break
            screens = _walk(pool, source, number)[: source.frames - done]
            _append(screens, number, frames, lines)
            done += len(screens)
            progress(done)
    files = {name: digest.of_file(path / name) for name in (FRAMES, SCREENS)}
    write_json(path / CARD, {"source": source.model_dump(mode="json"), "files": files})


def _complete_walks(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the complete walks of an interrupted generation; cut off what was written after them."""
    for name in (FRAMES, SCREENS):
        (path / name).touch()
    whole = (path / SCREENS).read_text(encoding="utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in whole]
    while rows and not rows[-1]["last"]:
        rows.pop()
    with (path / SCREENS).open("r+b") as file:
        file.truncate(sum(len(line.encode()) + 1 for line in whole[: len(rows)]))
    with (path / FRAMES).open("r+b") as file:
        file.truncate(sum(rows[-1]["place"]) if rows else 0)
    return rows


def _walk(pool: Pool, source: ScreenSource, number: int) -> list[Screen]:
    """Return the screens of a walk; a page that fails is replaced, and the walk starts again."""

    def screens(page: Page) -> list[Screen]:
        rng = Random(f"{source.seed}/{number}")
        if source.content == "text":
            return list(text_pages(page, rng, source.themes, source.words))
        return list(walk(page, rng, source.apps, source.themes, source.words))

    page, walked = pool.start(page_spec(source.scale), screens)
    page.close()
    return walked


def _append(screens: list[Screen], number: int, frames: Any, lines: Any) -> None:
    """Write a walk: first its frames, then its lines, so that each line has its frame."""
    rows = []
    for index, screen in enumerate(screens):
        picture = cv2.imencode(".png", cv2.cvtColor(screen.frame, cv2.COLOR_RGB2BGR))[1].tobytes()
        rows.append(
            {
                "walk": number,
                "last": index == len(screens) - 1,
                "place": [frames.tell(), len(picture)],
                "labels": screen.labels,
                "words": screen.words,
                "edges": screen.edges,
                "screen": screen.screen,
                "actions": screen.actions,
            }
        )
        frames.write(picture)
    frames.flush()
    lines.write("".join(json.dumps(row) + "\n" for row in rows))
    lines.flush()
