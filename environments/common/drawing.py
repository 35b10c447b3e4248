"""Drawings of screen actions on frames, for videos and for people who watch an agent.

A tap is a ring, a long press two rings, a swipe an arrow from the touch to its end; every other action is a label at
the bottom of the frame. The drawing scales with the frame and is legible on light and dark screens.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .screen_actions import MalformedAction, ScreenAction, parse

Frame = npt.NDArray[np.uint8]
Colour = tuple[int, int, int, int]

OVERSAMPLING = 4  # the overlay is drawn at this scale and reduced, for smooth edges
TOUCH: Colour = (255, 45, 110, 255)
HALO: Colour = (255, 255, 255, 235)  # around the touch, so that it is visible on any colour
FILL: Colour = (255, 45, 110, 80)
PANEL: Colour = (24, 26, 32, 225)
TEXT: Colour = (255, 255, 255, 255)
BORDER: Colour = (255, 255, 255, 120)  # of a panel, so that it is visible on a dark screen
# Panel of a label by type of action, where it differs from PANEL
PANELS: dict[str, Colour] = {
    "complete": (14, 122, 68, 230),
    "impossible": (176, 88, 0, 230),
    "answer": (28, 84, 176, 230),
    "malformed": (186, 26, 38, 230),
}


def draw(frame: Frame, action: ScreenAction | str | None) -> Frame:
    """Draw an action on a copy of a frame.

    Args:
        frame: uint8 [H, W, 3], the screen on which the action is taken.
        action: The action, or its text form; a malformed text is drawn as a red label. None = no action.

    Returns:
        uint8 [H, W, 3].
    """
    if action is None:
        return frame.copy()
    height, width = frame.shape[:2]
    overlay = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING), (0, 0, 0, 0))
    draw_overlay(ImageDraw.Draw(overlay), action, overlay.size)
    small = overlay.resize((width, height), Image.Resampling.BOX)
    result = Image.alpha_composite(Image.fromarray(frame).convert("RGBA"), small)
    return np.array(result.convert("RGB"))


def draw_overlay(canvas: ImageDraw.ImageDraw, action: ScreenAction | str, size: tuple[int, int]) -> None:
    """Draw an action on an empty canvas of a size in pixels."""
    if isinstance(action, str):
        try:
            action = parse(action)
        except MalformedAction:
            draw_label(canvas, f"malformed: {' '.join(str(action).split())}", PANELS["malformed"], size)
            return
    touch, end = point(action.x, action.y, size), point(action.to_x, action.to_y, size)
    radius = max(0.05 * min(size), 5.0 * OVERSAMPLING)
    if touch and end:
        draw_swipe(canvas, touch, end, radius)
    elif touch:
        draw_touch(canvas, touch, radius, rings=2 if action.type == "long_press" else 1)
    else:
        text = action.type if action.text is None else f"{action.type}: {' '.join(action.text.split())}"
        draw_label(canvas, text, PANELS.get(action.type, PANEL), size)


def point(x: float | None, y: float | None, size: tuple[int, int]) -> tuple[float, float] | None:
    """Return a point in pixels of the canvas; None = the action has none."""
    return None if x is None or y is None else (x * size[0], y * size[1])


def draw_touch(canvas: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, rings: int) -> None:
    """Draw a filled circle with rings around it, each between two white ones, and a dot at the exact point."""
    line = radius / 4
    canvas.ellipse(square(centre, radius), fill=FILL)
    for ring in range(rings):
        outer = radius + 2.6 * line * ring
        draw_ring(canvas, centre, outer + line / 2, 2 * line, HALO)
        draw_ring(canvas, centre, outer, line, TOUCH)
    canvas.ellipse(square(centre, 1.4 * line), fill=HALO)
    canvas.ellipse(square(centre, 0.9 * line), fill=TOUCH)


def draw_ring(
    canvas: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, width: float, colour: Colour
) -> None:
    """Draw a ring with its outer radius and its width."""
    canvas.ellipse(square(centre, radius), outline=colour, width=round(width))


def square(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    """Return the box around a circle."""
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def draw_swipe(
    canvas: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], radius: float
) -> None:
    """Draw a ring at the start and an arrow to the end, with a white border."""
    for grow, colour in ((0.14 * radius, HALO), (0.0, TOUCH)):
        canvas.polygon(arrow(start, end, radius, grow), fill=colour)
    draw_touch(canvas, start, 0.7 * radius, rings=1)


def arrow(
    start: tuple[float, float], end: tuple[float, float], radius: float, grow: float
) -> list[tuple[float, float]]:
    """Return the corners of an arrow whose shaft widens towards its head.

    Args:
        start: Where it starts.
        end: Where its tip is.
        radius: Size of the arrow's head.
        grow: Width of the border around it.
    """
    length = max(math.dist(start, end), 1e-6)
    along = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    head = min(1.3 * radius, 0.7 * length)
    # (distance along the arrow, distance beside it), one side of the arrow from the start to the tip
    side = [
        (-grow, 0.08 * radius + grow),
        (length - head, 0.2 * radius + grow),
        (length - head - grow, 0.8 * radius + 1.6 * grow),
        (length + 1.6 * grow, 0.0),
    ]
    corners = [*side, *((distance, -beside) for distance, beside in reversed(side[:-1]))]
    return [
        (start[0] + d * along[0] - beside * along[1], start[1] + d * along[1] + beside * along[0])
        for d, beside in corners
    ]


def draw_label(canvas: ImageDraw.ImageDraw, text: str, panel: Colour, size: tuple[int, int]) -> None:
    """Draw a text in a rounded panel at the bottom; what does not fit becomes an ellipsis."""
    width, height = size
    letters = font(max(round(0.052 * width), 9 * OVERSAMPLING))
    padding = letters.size * 0.6
    text = fitting(text, letters, 0.94 * width - 2 * padding)
    half = letters.getlength(text) / 2 + padding
    middle, bottom = width / 2, height - 0.035 * height
    top = bottom - 1.9 * letters.size
    box = (middle - half, top, middle + half, bottom)
    canvas.rounded_rectangle(box, 0.95 * letters.size, fill=panel, outline=BORDER, width=OVERSAMPLING)
    canvas.text((middle, (top + bottom) / 2), text, fill=TEXT, font=letters, anchor="mm")


@lru_cache(maxsize=16)
def font(size: float) -> Any:
    """Return DejaVu Sans from matplotlib, which has accents, Greek and Cyrillic; without matplotlib, Pillow's font."""
    spec = find_spec("matplotlib")
    file = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    return ImageFont.truetype(file, size) if file and file.is_file() else ImageFont.load_default(size)


def fitting(text: str, letters: Any, width: float) -> str:
    """Return a text, cut and with an ellipsis if it is wider than `width` pixels."""
    text = text[:200]  # longer than any line, and measuring takes time
    if letters.getlength(text) <= width:
        return text
    lengths = range(len(text) - 1, 0, -1)
    return next((f"{text[:n]}..." for n in lengths if letters.getlength(f"{text[:n]}...") <= width), "...")
