"""Films of episodes: enlarged frames with what the VLM was asked and what it said written below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np

from pr2l.core.types import Context

WIDTH = 480  # of the picture in pixels; frames are enlarged by a whole factor up to it
LINE = 22  # pixels per line of text
SMALL = ("-crf", "35", "-preset", "veryfast")  # of x264: 2 kB a picture, a tenth of what imageio chooses
HOLD = 8  # times that the last picture of an episode is repeated, so that one can see how it ended


def picture(frame: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """A uint8 [H, W, 3] frame, enlarged, over a strip with the lines of text; both sides even, as codecs want."""
    scale = max(1, WIDTH // frame.shape[1])
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((LINE * len(lines) + LINE // 2, large.shape[1], 3), np.uint8)
    for row, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (8, LINE * row - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1, cv2.LINE_AA)
    whole = np.concatenate([large, strip])
    return whole[: whole.shape[0] // 2 * 2, : whole.shape[1] // 2 * 2]


def write_video(path: Path, pictures: Sequence[np.ndarray], fps: float) -> Path:
    """Writes <path>.mp4, or <path>.gif where no encoder for mp4 works; pictures are uint8 [H, W, 3], all alike."""
    try:
        film = path.with_suffix(".mp4")
        imageio.mimwrite(film, list(pictures), fps=fps, macro_block_size=2, quality=None, output_params=list(SMALL))
    except (ImportError, OSError, RuntimeError, ValueError):  # whatever is wrong with ffmpeg here
        film.unlink(missing_ok=True)
        film = path.with_suffix(".gif")
        imageio.mimwrite(film, list(pictures), duration=1000 / fps, loop=0)
    return film


class Film:
    """Collects the first episode of each of the first `episodes` environments while they are being played."""

    def __init__(self, episodes: int) -> None:
        self._scenes: list[list[np.ndarray]] = [[] for _ in range(episodes)]
        self._said = [""] * episodes
        self._over = [False] * episodes

    def show(self, frames: np.ndarray, contexts: Sequence[Context], answers: Sequence[str]) -> None:
        """What the environments show now; answers: the VLM's, empty where it was not asked."""
        for row, scene in enumerate(self._scenes):
            if self._over[row]:
                continue
            self._said[row] = f"VLM: {answers[row]}" if answers else ""
            scene.append(picture(frames[row], [_describe(contexts[row]), self._said[row]]))

    def end(self, row: int, frame: np.ndarray, context: Context, success: bool) -> None:
        """Environment `row` has ended its episode with this frame."""
        if row < len(self._scenes) and not self._over[row]:
            end = picture(frame, [_describe(context), "success" if success else "failure"])
            self._scenes[row] += [end] * HOLD
            self._over[row] = True

    def pictures(self) -> list[np.ndarray]:
        return [one for scene in self._scenes for one in scene]


def _describe(context: Context) -> str:
    return ", ".join(f"{slot}: {value}" for slot, value in context.items())
