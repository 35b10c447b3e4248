"""Actions on screens, and whether each one changed the screen: what Digi-Q's VLM learns before it is frozen.

They come from recorded episodes, where the next frame of the episode says whether the screen changed, or from generated
screens (screens.py). Malformed actions are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from pr2l.core.errors import UserError
from pr2l.core.types import Context, Frame
from pr2l.data.candidates import text_form
from pr2l.data.recording import Recording
from pr2l.data.screens import ScreenSet

HELD_OUT = 5  # every fifth episode is held out
KEPT = 16  # episodes whose frames stay in memory


class EpisodeSource(BaseModel):
    """Parameters of a set of changes from recorded episodes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Path  # folder of a data set from `pr2l collect`
    part: Literal["all", "train", "held_out"] = "all"  # held_out = every fifth episode; train = the others
    # mean squared difference of the pixels, 0..255, at a quarter of the size above which a screen has changed; 0 = any
    # difference. The code of Digi-Q has 30, but a switch in the settings of pr2l's phone changes only 19 to 26
    threshold: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class Change:
    """One action on a screen.

    Args:
        frame: Number of the screen, an argument of `Changes.frame`.
        action: Text form of the action.
        context: Context of the screen; {} for a generated one.
        changed: Whether the action changed the screen.
    """

    frame: int
    action: str
    context: Context
    changed: bool


@dataclass(frozen=True)
class Changes:
    """Set of actions on screens.

    Args:
        rows: The actions.
        frame: Function from the number of a screen to its frame, uint8 [H, W, 3].
    """

    rows: Sequence[Change]
    frame: Callable[[int], Frame]

    def __len__(self) -> int:
        return len(self.rows)


def recorded_changes(source: EpisodeSource) -> Changes:
    """Read the actions of recorded episodes.

    Args:
        source: Parameters of the set.

    Raises:
        UserError: There is no such data set, its environment does not write actions as texts, or the set is empty.
    """
    recording = Recording(source.data)
    text_of = text_form(recording)
    rows = []
    for number in range(recording.episodes):
        if source.part != "all" and (number % HELD_OUT == HELD_OUT - 1) != (source.part == "held_out"):
            continue
        first, frames, episode = int(recording.starts[number]), recording.frames(number), recording.episode(number)
        for step, (action, context) in enumerate(zip(episode.actions, episode.contexts, strict=False)):
            if text := text_of(action, context):
                changed = difference(frames[step], frames[step + 1]) > source.threshold
                rows.append(Change(first + step, text, context, changed))
    if not rows:
        raise UserError(
            f"{source.data} has no action in part={source.part}: of its {recording.episodes} episodes, every "
            f"{HELD_OUT}th is held out; record more with `pr2l collect`, or use part=all"
        )
    frames_of = lru_cache(maxsize=KEPT)(recording.frames)

    def frame(row: int) -> Frame:
        number = recording.episode_of(row)
        return frames_of(number)[row - int(recording.starts[number])]

    return Changes(rows, frame)


def generated_changes(screens: ScreenSet) -> Changes:
    """Return the actions that were tried on generated screens.

    Args:
        screens: The screens.
    """
    rows = [
        Change(number, action, {}, changed)
        for number, row in enumerate(screens.rows)
        for action, changed in row["actions"]
    ]
    return Changes(rows, screens.frame)


def difference(before: Frame, after: Frame) -> float:
    """Return the mean squared difference of the pixels of two frames at a quarter of their size.

    Args:
        before: uint8 [H, W, 3].
        after: A frame of the same size.
    """
    height, width = before.shape[:2]
    size = max(width // 4, 1), max(height // 4, 1)
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.float64) for frame in (before, after)]
    return float(np.square(small[0] - small[1]).mean())
