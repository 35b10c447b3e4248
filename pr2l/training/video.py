"""Videos of episodes: enlarged frames above the prompt's context, the VLM's answer, the action and the reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as imageio
import numpy as np

from pr2l.core.types import Context

WIDTH = 480  # of the picture in pixels; frames are enlarged by the largest whole factor that fits
LINE = 22  # pixels per line of text
ENCODING = ("-crf", "35", "-preset", "veryfast")  # of x264: 2 kB a picture, a tenth of imageio's default
REPEATS = 8  # times that the last picture of an episode is shown, so that its end can be seen


def picture(frame: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """A frame above lines of text.

    Args:
        frame: uint8 [H, W, 3].
        lines: The text.

    Returns:
        uint8 [H', W', 3], both sides even, as codecs require.
    """
    scale = max(1, WIDTH // frame.shape[1])
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((LINE * len(lines) + LINE // 2, large.shape[1], 3), np.uint8)
    for row, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (8, LINE * row - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1, cv2.LINE_AA)
    whole = np.concatenate([large, strip])
    return whole[: whole.shape[0] // 2 * 2, : whole.shape[1] // 2 * 2]


def write_video(path: Path, pictures: Sequence[np.ndarray], fps: float) -> Path:
    """Write <path>.mp4, or <path>.gif where no encoder for mp4 works.

    Args:
        path: Without a suffix.
        pictures: uint8 [H, W, 3], all of one shape.
        fps: Pictures per second.

    Returns:
        The file.
    """
    video = path.with_suffix(".mp4")
    try:
        imageio.mimwrite(video, list(pictures), fps=fps, macro_block_size=2, quality=None, output_params=list(ENCODING))
    except (ImportError, OSError, RuntimeError, ValueError):  # whatever is wrong with ffmpeg here
        video.unlink(missing_ok=True)
        video = path.with_suffix(".gif")
        imageio.mimwrite(video, list(pictures), duration=1000 / fps, loop=0)
    return video


class EpisodeVideo:
    """Collects pictures of the first episode of each of the first environments while they are played.

    Args:
        episodes: How many environments.
    """

    def __init__(self, episodes: int) -> None:
        self._episodes: list[list[np.ndarray]] = [[] for _ in range(episodes)]
        self._ended = [False] * episodes
        self._last_step = [""] * episodes  # action and reward that led to the current frame

    def show(self, frames: np.ndarray, contexts: Sequence[Context], answers: Sequence[str]) -> None:
        """Add what the environments show now.

        Args:
            frames: uint8 [N, H, W, 3].
            contexts: N of them, which the prompt was about.
            answers: Of the VLM to the prompt, "" or [] where it was not asked to generate.
        """
        for row, pictures in enumerate(self._episodes):
            if not self._ended[row]:
                answer = f"VLM: {answers[row]}" if answers and answers[row] else ""
                pictures.append(picture(frames[row], [describe(contexts[row]), answer, self._last_step[row]]))

    def step(self, actions: Sequence[Any] | np.ndarray, rewards: np.ndarray) -> None:
        """Note N actions and their rewards, float32 [N], for the next pictures."""
        for row in range(len(self._episodes)):
            action = np.array2string(np.asarray(actions[row]), precision=2)
            self._last_step[row] = f"action {action}, reward {float(rewards[row]):.2f}"

    def end(self, row: int, frame: np.ndarray, context: Context, success: bool) -> None:
        """Add the last frame of the episode that environment `row` has ended."""
        if row < len(self._episodes) and not self._ended[row]:
            lines = [describe(context), "success" if success else "failure", self._last_step[row]]
            self._episodes[row] += [picture(frame, lines)] * REPEATS
            self._ended[row] = True

    def pictures(self) -> list[np.ndarray]:
        """All pictures, one episode after the other."""
        return [frame for pictures in self._episodes for frame in pictures]


def describe(context: Context) -> str:
    """A context in one line, such as "target: red armor"."""
    return ", ".join(f"{slot}: {value}" for slot, value in context.items())
