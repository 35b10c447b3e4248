"""The last K frames of an episode, for prompts of several images.

    frames of the episode     f0   f1   f2   f3
    the last 3 at row 1       f0   f0   f1            the first frame replaces the missing ones
    the last 3 at row 3       f1   f2   f3

With K = 1 a row is its frame alone, without an axis for the history.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from pr2l.core.types import Frame, Frames


def last_frames(frames: Frames, rows: npt.ArrayLike, count: int) -> Frames:
    """Return the last K frames at some rows of an episode, the oldest first.

    Args:
        frames: uint8 [n, H, W, 3], the frames of one episode, from its start.
        rows: int [B], indices of frames.
        count: K, number of frames per row.

    Returns:
        uint8 [B, K, H, W, 3]; [B, H, W, 3] if K is 1.
    """
    indices = np.asarray(rows, int)
    if count == 1:
        return frames[indices]
    return frames[np.maximum(indices[:, None] + np.arange(1 - count, 1), 0)]


class FrameHistory:
    """The last K frames of a running episode.

    Args:
        count: K, number of frames.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._frames: deque[Frame] = deque(maxlen=count)

    def clear(self) -> None:
        """Forget all frames; call this at the start of an episode."""
        self._frames.clear()

    def add(self, frame: Frame) -> Frames:
        """Add a copy of the current frame, and return the last K frames.

        Args:
            frame: uint8 [H, W, 3].

        Returns:
            As a row of `last_frames`: uint8 [K, H, W, 3], or [H, W, 3] if K is 1.
        """
        self._frames.append(frame.copy())
        return last_frames(np.stack(self._frames), [len(self._frames) - 1], self.count)[0]
