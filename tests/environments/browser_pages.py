"""Small web pages and gestures for tests of the browser driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pr2l.environments.base import UserError
from pr2l.environments.browser import PageSpec, executable

WIDTH, HEIGHT = 160, 210


def chromium_is_missing() -> bool:
    try:
        executable.find()
    except UserError:
        return True
    return False


needs_chromium = pytest.mark.skipif(chromium_is_missing(), reason="Chromium's headless shell is not installed")


@dataclass(frozen=True)
class Touch:
    """Gesture as the driver reads it."""

    type: str
    x: float | None = None
    y: float | None = None
    to_x: float | None = None
    to_y: float | None = None
    text: str | None = None


TAP = Touch("tap", 0.5, 0.5)

# A square that moves by CSS, another that moves by a timer, and a count of the frames.
MOVING = """
<style>
@keyframes move { from { left: 0 } to { left: 150px } }
div { position: absolute; width: 10px; height: 10px; background: red }
#css { animation: move 1s linear infinite; top: 20px }
</style>
<div id="css"></div><div id="timer" style="top: 40px"></div><p id="frames"></p>
<script>
let place = 0, count = 0;
setInterval(() => timer.style.left = (place += 3) % 150 + "px", 30);
const draw = time => { frames.textContent = [count++, Math.round(time), Math.random()]; requestAnimationFrame(draw); };
draw(0);
addEventListener("click", event => document.body.style.background = event.isTrusted ? "yellow" : "black");
</script>
"""


def spec(folder: Path, body: str, **options: object) -> PageSpec:
    """Write a page and return what opens it."""
    file = folder / f"page{len(list(folder.iterdir()))}.html"
    file.write_text(f"<!doctype html><body style='margin: 0'>{body}</body>", encoding="utf-8")
    return PageSpec(file.as_uri(), WIDTH, HEIGHT, **options)  # type: ignore[arg-type]
