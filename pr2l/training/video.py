"""Videos of episodes: enlarged frames above the question to the VLM, its answer, the action and the reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as imageio
import numpy as np

from pr2l.core.types import Context, Frame

Draw = Callable[[int, Frame], Frame]  # number of an environment, its frame uint8 [H, W, 3] -> frame with a drawing

WIDTH = 480  # maximum width in pixels of an enlarged frame; the factor is the largest integer that fits
LINE = 22  # pixels per line of text
FONT, FONT_SCALES = cv2.FONT_HERSHEY_SIMPLEX, (0.5, 0.45, 0.4, 0.35, 0.3, 0.25)
ENCODING = ("-crf", "35", "-preset", "veryfast")  # options of x264: 2 kB per picture, a tenth of imageio's default
REPEATS = 8  # repetitions of the last picture of an episode, so that viewers see the end


def picture(frame: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Draw an enlarged frame above lines of text.

    Args:
        frame: uint8 [H, W, 3].
        lines: Lines of text. A line that is too wide is drawn smaller, down to half of the size; the rest is cut off.

    Returns:
        uint8 [H', W', 3] with even sides, because video codecs need them.
    """
    scale = max(1, WIDTH // frame.shape[1])
    large = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    strip = np.zeros((LINE * len(lines) + LINE // 2, large.shape[1], 3), np.uint8)
    for row, line in enumerate(lines, start=1):
        size = _font_scale(line, large.shape[1] - 16)
        cv2.putText(strip, line, (8, LINE * row - 4), FONT, size, (255,) * 3, 1, cv2.LINE_AA)
    picture = np.concatenate([large, strip])
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def _font_scale(line: str, width: int) -> float:
    """Return the largest of FONT_SCALES at which a line fits, or the smallest one."""
    fitting = (scale for scale in FONT_SCALES if cv2.getTextSize(line, FONT, scale, 1)[0][0] <= width)
    return next(fitting, FONT_SCALES[-1])


def write_video(path: Path, pictures: Sequence[np.ndarray], fps: float) -> Path:
    """Write <path>.mp4, or <path>.gif if no mp4 encoder works.

    Args:
        path: Path without a suffix.
        pictures: Pictures uint8 [H, W, 3] of the same shape.
        fps: Pictures per second.

    Returns:
        Path of the file.
    """
    video = path.with_suffix(".mp4")
    try:
        imageio.mimwrite(video, list(pictures), fps=fps, macro_block_size=2, quality=None, output_params=list(ENCODING))
    except (ImportError, OSError, RuntimeError, ValueError):  # any failure of ffmpeg
        video.unlink(missing_ok=True)
        video = path.with_suffix(".gif")
        imageio.mimwrite(video, list(pictures), duration=1000 / fps, loop=0)
    return video


def describe(context: Context) -> str:
    """Return a context in one line, such as "target: red armor".

    Args:
        context: Slot -> value; an empty context gives "".
    """
    return ", ".join(f"{slot}: {value}" for slot, value in context.items())


def unchanged(row: int, frame: Frame) -> Frame:
    """Return the frame of an environment, whose number is `row`, without a drawing."""
    return frame


class EpisodeVideo:
    """Recorder of the first episode of each of the first environments.

    Args:
        episodes: Number of environments to record.
        question: Function from a context to the first line below the frame, such as the text of the prompt.
    """

    def __init__(self, episodes: int, question: Callable[[Context], str] = describe) -> None:
        self._question = question
        self._episodes: list[list[np.ndarray]] = [[] for _ in range(episodes)]
        self._ended = [False] * episodes
        self._last_step = [""] * episodes  # action and reward that led to the current frame

    def show(
        self, frames: np.ndarray, contexts: Sequence[Context], answers: Sequence[str], draw: Draw = unchanged
    ) -> None:
        """Add the current frames of the environments.

        Args:
            frames: uint8 [N, H, W, 3].
            contexts: Contexts of the prompts, N of them.
            answers: Answers of the VLM, N of them; "" or [] if it generates none.
            draw: Function that draws the next action of an environment on its frame.
        """
        for row, pictures in enumerate(self._episodes):
            if not self._ended[row]:
                answer = f"VLM: {answers[row]}" if answers and answers[row] else ""
                frame = draw(row, frames[row])
                pictures.append(picture(frame, [self._question(contexts[row]), answer, self._last_step[row]]))

    def step(
        self,
        actions: Sequence[Any] | np.ndarray,
        rewards: np.ndarray,
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Record the actions and rewards that the next pictures show.

        Args:
            actions: Actions of N environments.
            rewards: float32 [N], rewards.
            infos: Infos of the steps, whose text "action" is shown instead of the action; None = no texts.
        """
        for row in range(len(self._episodes)):
            text = infos[row].get("action") if infos else None
            numbers = np.array2string(np.asarray(actions[row]), precision=2)
            action = text if text and isinstance(text, str) else numbers
            self._last_step[row] = f"action {action}, reward {float(rewards[row]):.2f}"

    def end(self, row: int, frame: np.ndarray, context: Context, success: bool) -> None:
        """Add the last frame of an episode.

        Args:
            row: Number of the environment.
            frame: uint8 [H, W, 3].
            context: Context of the prompt.
            success: Whether the episode succeeded.
        """
        if row < len(self._episodes) and not self._ended[row]:
            lines = [self._question(context), "success" if success else "failure", self._last_step[row]]
            self._episodes[row] += [picture(frame, lines)] * REPEATS
            self._ended[row] = True

    def pictures(self) -> list[np.ndarray]:
        """Return all pictures, uint8 [H, W, 3] each, one episode after the other."""
        return [frame for pictures in self._episodes for frame in pictures]
