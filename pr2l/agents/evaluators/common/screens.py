"""Comparison and size of screenshots."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pr2l.core.types import Frame


def same_screen(first: Frame, second: Frame, tolerance: float) -> bool:
    """Return whether two screenshots show the same screen.

    Args:
        first: uint8 [H, W, 3].
        second: Like `first`; a screenshot of another shape shows another screen.
        tolerance: Mean squared difference below which they do, as a share of 255^2, the largest one. DigiRL's released
            evaluator has 0.001 (digirl/environment/android/evaluate.py). 0 = they never do.
    """
    if first.shape != second.shape:
        return False
    difference = first.astype(np.float32) - second
    return float(np.mean(difference * difference)) < tolerance * 255**2


def changed_screens(frames: Sequence[Frame], tolerance: float) -> list[Frame]:
    """Return the frames without those that show the same screen as the frame before them.

    Args:
        frames: At least one frame, the oldest first.
        tolerance: As in `same_screen`.
    """
    screens = [frames[0]]
    for frame in frames[1:]:
        if not same_screen(screens[-1], frame, tolerance):
            screens.append(frame)
    return screens


def shrink(frame: Frame, height: int) -> Frame:
    """Return a screenshot of at most a height, in its shape; a smaller one stays as it is.

    Args:
        frame: uint8 [H, W, 3].
        height: Height in pixels.
    """
    if frame.shape[0] <= height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
