"""Pools of pages: fresh pages, opened ahead, in browsers that are replaced when they die."""

from __future__ import annotations

import asyncio
import atexit
import base64
import os
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..base import UserError
from . import executable, gestures, loop
from .options import BrowserOptions, Gesture, PageFailure, PageSpec
from .process import BrowserProcess
from .tab import Tab

Result = TypeVar("Result")

ATTEMPTS = 3  # to open or to start a page, each in another browser if the browser has died
SPECS = 16  # specs with spare pages; those of the others are closed, since nobody uses them any more


class Page:
    """A page for one episode.

    Its time stands still except in `advance`, and between `begin` and `finish`. Each method raises PageFailure if the
    page cannot go on.

    Args:
        pool: The pool of the page.
        tab: The page in the event loop.
    """

    def __init__(self, pool: Pool, tab: Tab) -> None:
        self._pool, self._tab = pool, tab
        self._step: Future[None] | None = None
        self._decoded: tuple[str, NDArray[np.uint8]] | None = None
        self._closed = False

    @property
    def frame(self) -> NDArray[np.uint8]:
        """The last frame, uint8 [height * scale, width * scale, 3] RGB."""
        picture = self._tab.picture
        if self._decoded is None or self._decoded[0] is not picture:
            self._decoded = picture, decode(picture)
        return self._decoded[1].copy()

    @property
    def state(self) -> Any:
        """The value of `PageSpec.state` at the last frame."""
        return self._tab.state

    def evaluate(self, script: str) -> Any:
        """Return the JSON value of a JavaScript expression.

        Raises:
            ScriptError: If the script throws.
        """
        return loop.run(self._tab.evaluate(script))

    def advance(self, milliseconds: int) -> NDArray[np.uint8]:
        """Let virtual time pass, and return the frame after it."""
        loop.run(self._tab.step(None, milliseconds))
        return self.frame

    def press(self, name: str, code: int, milliseconds: int = 0) -> NDArray[np.uint8]:
        """Press and release a key.

        Args:
            name: Its name in JavaScript's `event.key`, such as "Escape".
            code: Its number in JavaScript's `event.keyCode`, such as 27.
            milliseconds: The virtual time to pass.
        """
        loop.run(self._tab.press(gestures.key(name, code), milliseconds))
        return self.frame

    def begin(self, gesture: Gesture | None) -> None:
        """Start a step of `PageSpec.step_ms` without waiting for it; None = only time passes."""
        if self._step is not None:
            raise RuntimeError("a step is running: call finish first")
        self._step = loop.begin(self._tab.step(gesture, self._tab.spec.step_ms))

    def finish(self) -> NDArray[np.uint8]:
        """Wait for the step that `begin` has started, and return the frame after it."""
        if self._step is None:
            raise RuntimeError("no step is running: call begin first")
        step, self._step = self._step, None
        step.result()
        return self.frame

    def close(self) -> None:
        """Close the page without waiting for it. A second call has no effect."""
        if not self._closed:
            self._closed = True
            loop.begin(self._pool.give_back(self._tab))


@dataclass
class Slot:
    """Place of a browser, which starts with its first page; `tabs` counts the pages in it.

    All its pages have the same `scale`, the frame pixels per CSS pixel: Chromium has it for a whole process.
    """

    scale: float
    start: asyncio.Task[BrowserProcess] | None = None
    tabs: int = 0


class Pool:
    """Pages of this process that share browsers. Make it with `shared_pool`, in the process that uses it.

    Args:
        options: The size of the pool.

    Attributes:
        counts: Numbers of pages `opened` and `taken`, and those of them that were opened `ahead`; of pages that failed,
            by reason (`timeout`, `crash`, `navigation`, `browser`, `load`); of `browsers` started; and of `dialogs`,
            `windows` and `downloads` that pages have tried to open.

    Raises:
        UserError: If Chromium is not installed.
    """

    def __init__(self, options: BrowserOptions) -> None:
        self._executable = executable.find()
        self.options = options
        self.users = 1
        self.counts: Counter[str] = Counter()
        self._slots: list[Slot] = []  # options.browsers of each scale
        self._places: dict[Tab, Slot] = {}
        self._spares: dict[PageSpec, deque[asyncio.Task[Tab]]] = {}  # the most recently used spec is the last
        self._lent = 0  # pages that are in use or being opened for somebody
        self._processes: list[BrowserProcess] = []

    def take(self, spec: PageSpec) -> Page:
        """Return a fresh page, and open the next one of its kind in the background.

        Raises:
            UserError: If `options.pages` pages are in use.
            PageFailure: If the page cannot be opened.
        """
        return Page(self, loop.run(self._take(spec)))

    def start(self, spec: PageSpec, begin: Callable[[Page], Result]) -> tuple[Page, Result]:
        """Take a page and begin something in it; do so in another page if the first one fails, up to 3 times.

        Args:
            spec: What to open.
            begin: Function that puts a fresh page into its first state; it may be called several times.

        Returns:
            The page, and what `begin` has returned.

        Raises:
            UserError: If `options.pages` pages are in use.
            PageFailure: If the last page fails too. After any exception the page is closed.
        """
        for attempt in range(ATTEMPTS):
            page = self.take(spec)
            try:
                return page, begin(page)
            except BaseException as error:
                page.close()
                if not isinstance(error, PageFailure) or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    def close(self) -> None:
        """Give up the pool; its last user closes the browsers."""
        self.users -= 1
        if self.users == 0:
            _POOLS.pop(self.options, None)
            self.shut_down()

    def shut_down(self) -> None:
        """Close all browsers, whoever uses them."""
        loop.run(self._shut_down())
        for process in self._processes:
            process.wait()
        self._processes.clear()

    async def give_back(self, tab: Tab) -> None:
        """Close a page."""
        self._lent -= 1
        if tab.failure is not None:
            self.counts[tab.failure.reason] += 1
        await self._close(tab)

    async def _take(self, spec: PageSpec) -> Tab:
        if self._lent >= self.options.pages:
            raise UserError(f"all {self.options.pages} pages are in use; close pages, or raise `pages`")
        self._lent += 1
        try:
            tab = await self._spare(spec) or await self._open(spec)
        except BaseException:
            self._lent -= 1
            raise
        self.counts["taken"] += 1
        await self._open_ahead(spec)
        return tab

    async def _spare(self, spec: PageSpec) -> Tab | None:
        """Return a page that was opened ahead, if there is a working one."""
        spares = self._spares.get(spec, deque())
        while spares:
            try:
                tab = await spares.popleft()
            except (PageFailure, UserError):
                continue
            if tab.failure is None and tab.browser.alive:
                self.counts["ahead"] += 1
                return tab
            await self._close(tab)
        return None

    async def _open_ahead(self, spec: PageSpec) -> None:
        spares = self._spares.pop(spec, deque())
        self._spares[spec] = spares
        while len(spares) < self.options.spare:
            spares.append(asyncio.create_task(self._open(spec)))
        while len(self._spares) > SPECS:
            await self._drop(self._spares.pop(next(iter(self._spares))))

    async def _drop(self, spares: deque[asyncio.Task[Tab]]) -> None:
        for result in await asyncio.gather(*spares, return_exceptions=True):
            if isinstance(result, Tab):
                await self._close(result)

    async def _open(self, spec: PageSpec) -> Tab:
        for attempt in range(ATTEMPTS):
            slot = self._slot(spec.scale)
            slot.tabs += 1
            try:
                tab = Tab(await self._browser(slot), spec, self.options.timeout, self.counts)
                await tab.open()
            except BaseException as error:
                slot.tabs -= 1
                if not isinstance(error, PageFailure) or error.reason == "load" or attempt == ATTEMPTS - 1:
                    raise
                self.counts[error.reason] += 1
                continue
            self.counts["opened"] += 1
            self._places[tab] = slot
            return tab
        raise AssertionError

    def _slot(self, scale: float) -> Slot:
        """Return the slot of a scale that has the fewest pages."""
        slots = [slot for slot in self._slots if slot.scale == scale]
        if not slots:
            slots = [Slot(scale) for _ in range(self.options.browsers)]
            self._slots += slots
        return min(slots, key=lambda slot: slot.tabs)

    async def _browser(self, slot: Slot) -> BrowserProcess:
        """Return the browser of a slot; start one if there is none, or if it has died."""
        if slot.start is not None and slot.start.done():
            failed = slot.start.cancelled() or slot.start.exception() is not None
            if failed or not slot.start.result().alive:
                slot.start = None
        if slot.start is None:
            slot.start = asyncio.create_task(self._start(slot.scale))
        return await asyncio.shield(slot.start)  # which serves other pages too, if this one is cancelled

    async def _start(self, scale: float) -> BrowserProcess:
        process = BrowserProcess(self._executable, scale)
        await process.start()
        self.counts["browsers"] += 1
        self._processes.append(process)
        return process

    async def _close(self, tab: Tab) -> None:
        await tab.close()
        slot = self._places.pop(tab, None)
        if slot is not None:
            slot.tabs -= 1

    async def _shut_down(self) -> None:
        """Stop opening pages, wait for browsers that are starting, and close all of them."""
        opening = [task for spares in self._spares.values() for task in spares]
        self._spares.clear()
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        starting = [slot.start for slot in self._slots if slot.start is not None]
        await asyncio.gather(*starting, return_exceptions=True)
        for process in self._processes:
            process.close()


def decode(picture: str) -> NDArray[np.uint8]:
    """Return a PNG in base64 as uint8 [H, W, 3] RGB."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(image, np.uint8)


def shared_pool(options: BrowserOptions | None = None) -> Pool:
    """Return the pool of this process for these options; each caller has to close it.

    Args:
        options: The size of the pool; None = BrowserOptions().

    Raises:
        UserError: If Chromium is not installed.
    """
    options = options or BrowserOptions()
    pool = _POOLS.get(options)
    if pool is None:
        pool = _POOLS[options] = Pool(options)
    else:
        pool.users += 1
    return pool


def _shut_down_all() -> None:
    for pool in list(_POOLS.values()):
        pool.shut_down()
    _POOLS.clear()


_POOLS: dict[BrowserOptions, Pool] = {}
atexit.register(_shut_down_all)
os.register_at_fork(after_in_child=_POOLS.clear)
