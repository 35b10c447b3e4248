"""`pr2l speed-screens`: steps per second of web pages in headless Chromium, by their size and number.

Every page has a list to scroll and rows that change when they are touched. In a round, all pages perform the same
random touches, as the environments of a run do: all begin a step, then all are waited for. Their frames are decoded.
The variants run in turn, so that other work on the machine slows them all down equally.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from pr2l.core.errors import UserError
from pr2l.core.statistics import Estimate
from pr2l.environments.browser import BrowserOptions, Page, PageSpec, shared_pool
from pr2l.environments.common.screen_actions import ScreenAction
from pr2l.profiling.measure import Measure
from pr2l.profiling.timing import Effort, Variant, rate, time_in_turn

STEPS = 4  # of every page in a round
SWIPES = 8  # one gesture in so many is a swipe, the others are taps
GOALS = {((160, 210), 4): 50.0, ((320, 560), 4): 30.0}  # (size, pages) -> steps per second

PAGE = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; font: 14px sans-serif }
header { background: #6750a4; color: white; padding: 8px; position: sticky; top: 0 }
.row { display: flex; justify-content: space-between; padding: 10px; border-bottom: 1px solid #ccc }
.on { background: #eaddff }
.knob { width: 34px; border-radius: 9px; background: #aaa; transition: background 0.2s }
.on .knob { background: #6750a4 }
</style><header>Settings</header><script>
for (let row = 0; row < 40; row++) {
  document.write(`<div class="row"><span>Option ${row}</span><span class="knob">&nbsp;</span></div>`);
}
for (const row of document.querySelectorAll(".row")) row.onclick = () => row.classList.toggle("on");
</script>"""

Size = tuple[int, int]  # width and height in pixels


def parse_sizes(text: str) -> list[Size]:
    """Return the sizes in a text such as "160x210,320x560".

    Raises:
        UserError: If a size is not two numbers of pixels from 1 to 4096.
    """
    sizes = []
    for word in text.split(","):
        width, cross, height = word.strip().partition("x")
        sides = [int(side) for side in (width, height) if side.isdecimal() and 1 <= int(side) <= 4096]
        if not cross or len(sides) < 2:
            raise UserError(f"{word!r} is not a size in pixels; write WIDTHxHEIGHT, e.g. 160x210,320x560")
        sizes.append((sides[0], sides[1]))
    return sizes


def parse_counts(text: str) -> list[int]:
    """Return the numbers of pages in a text such as "1,2,4".

    Raises:
        UserError: If one is not a number from 1 to 64.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not (word.isdecimal() and 1 <= int(word) <= 64):
            raise UserError(f"{word!r} is not a number of pages from 1 to 64; write e.g. 1,2,4")
    return [int(word) for word in words]


def speed_screens(
    sizes: Sequence[Size], counts: Sequence[int], browsers: int = 1, step_ms: int = 100, effort: Effort | None = None
) -> list[Measure]:
    """Measure the steps per second of all pages together.

    Args:
        sizes: The sizes of the pages.
        counts: The numbers of pages that step at once.
        browsers: The number of Chromium processes.
        step_ms: Virtual milliseconds of a step.
        effort: The number of rounds for a size; None = 10 seconds.

    Raises:
        UserError: If Chromium is not installed or does not start.
    """
    measures = []
    for size in sizes:
        with open_pages(size, max(counts), browsers, step_ms) as pages:
            variants = {str(count): Variant(Steps(pages[:count]), STEPS * count) for count in counts}
            seconds = time_in_turn(variants, effort or Effort())
        measures += [measure(size, count, rate(seconds[str(count)])) for count in counts]
    return measures


def measure(size: Size, count: int, speed: Estimate) -> Measure:
    """Return the speed of a number of pages as a measure with its goal, if there is one."""
    name = f"{size[0]} x {size[1]}, {count} {'page' if count == 1 else 'pages'}"
    return Measure(name, speed, "steps/s", goal=GOALS.get((size, count)))


@contextmanager
def open_pages(size: Size, count: int, browsers: int, step_ms: int) -> Iterator[list[Page]]:
    """Open pages of a size; they and their browsers are closed at the end."""
    pool = shared_pool(BrowserOptions(browsers=browsers, pages=count, spare=0, timeout=60.0))
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "page.html"
            file.write_text(PAGE, encoding="utf-8")
            spec = PageSpec(file.as_uri(), *size, step_ms=step_ms, frame_ms=step_ms)
            yield [pool.take(spec) for _ in range(count)]
    finally:
        pool.close()


class Steps:
    """Function that performs the next steps of a round in some pages.

    Args:
        pages: The pages.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self._random = Random(0)

    def __call__(self) -> None:
        for _ in range(STEPS):
            action = random_gesture(self._random)
            for page in self._pages:
                page.begin(action)
            for page in self._pages:
                page.finish()


def random_gesture(random: Random) -> ScreenAction:
    """Return a tap or, one time in SWIPES, a swipe up or down."""
    x, y = random.random(), random.random()
    if random.randrange(SWIPES):
        return ScreenAction("tap", x, y)
    return ScreenAction("swipe", x, y, x, random.random())
