"""What an environment asks of the browser: pages, gestures and the size of the pool; and how a page can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ..base import UserError

MIN_SCALE = 0.5


@dataclass(frozen=True)
class BrowserOptions:
    """Size of a pool of pages.

    Args:
        browsers: Number of browser processes for each scale that is in use. Each draws one page at a time, so several
            use more cores.
        pages: Limit of pages in use at a time; reaching it means that pages are not closed.
        spare: Number of pages opened ahead for each PageSpec that is in use; 0 = open pages when they are taken.
        timeout: Seconds for one command of a page. A page that needs longer fails.
    """

    browsers: int = 1
    pages: int = 64
    spare: int = 1
    timeout: float = 10.0


@dataclass(frozen=True)
class PageSpec:
    """What to open, and how time passes in it.

    Args:
        url: Address, in practice `file://...`: a page has no network.
        width: Width of the viewport in CSS pixels.
        height: Height of the viewport in CSS pixels.
        scale: Frame pixels per CSS pixel, at least 0.5; each scale that is in use has browsers of its own.
        step_ms: Milliseconds of virtual time in one step; a long gesture takes longer.
        settle_ms: Milliseconds of virtual time between loading the page and its first frame.
        frame_ms: Most milliseconds of virtual time between two frames. Animations that count frames need small values;
            each frame costs some milliseconds.
        init_scripts: JavaScript that runs before the scripts of the page.
        state: JavaScript expression that is evaluated after every step, for `Page.state`; "" = none.
    """

    url: str
    width: int
    height: int
    scale: float = 1.0
    step_ms: int = 100
    settle_ms: int = 300
    frame_ms: int = 50
    init_scripts: tuple[str, ...] = ()
    state: str = ""

    def __post_init__(self) -> None:
        if self.scale < MIN_SCALE:  # Chromium would draw at this scale without a word
            raise UserError(
                f"scale={self.scale:g} is too small: Chromium draws {MIN_SCALE} pixels per CSS pixel or more"
            )


class Gesture(Protocol):
    """What a step does, such as a ScreenAction. Coordinates are in [0, 1] from the top left corner.

    The driver performs `tap`, `long_press`, `swipe`, `type` and `enter`. For other types only time passes.
    """

    @property
    def type(self) -> str: ...
    @property
    def x(self) -> float | None: ...
    @property
    def y(self) -> float | None: ...
    @property
    def to_x(self) -> float | None: ...
    @property
    def to_y(self) -> float | None: ...
    @property
    def text(self) -> str | None: ...


Reason = Literal["timeout", "crash", "navigation", "browser", "load"]


class PageFailure(Exception):
    """A page cannot go on. Its episode has to end; the next `take` gives a new page.

    Args:
        reason: "timeout" = a command took too long, as in an endless loop; "crash" = its process died; "navigation" =
            it left its address; "browser" = the browser died; "load" = it could not be opened.
        detail: What happened, for the message.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
