"""One page in virtual time, on the side of the event loop.

Time stands still in a page except in `step`, which lets an exact number of milliseconds pass and draws frames at exact
times. So the page's pixels depend on its gestures and not on how long the agent thinks or how busy the machine is. The
order of a step is: deliver the events of the gesture, each with a frame; pass the rest of the time, with a frame every
`frame_ms`; take the picture with the last frame.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from .connection import ConnectionLost, Params, ProtocolError
from .gestures import Event, events
from .options import Gesture, PageFailure, PageSpec
from .process import BrowserProcess
from .scripts import INIT_SCRIPTS

Result = TypeVar("Result")

EPOCH = 1_700_000_000.0  # what Date shows when a page begins to load, seconds since 1970
CLOSE_TIME = 5.0  # seconds for a page to close, also one in an endless loop; then the browser is killed
ANSWER_TIME = 1.0  # seconds for a page to handle an event; then it gets one more frame
INSTANT = 0.001  # ms, the resolution of Chromium's clock
FIRST_FRAMES = 2  # all at the time at which the page has loaded
LOAD_STEP = 20  # virtual ms between two looks at whether a page has loaded
LOAD_STEPS = 500


class ScriptError(Exception):
    """JavaScript that was evaluated in a page has thrown an exception."""


class Tab:
    """A page in a browser context of its own: it shares no storage and no process with others.

    Args:
        browser: The browser that has started.
        spec: What to open.
        timeout: Seconds for one command.
        counts: Counter of dialogs, windows and downloads.

    Attributes:
        failure: Why the page cannot go on; None = it can.
        picture: The last frame, a PNG in base64.
        state: The value of `spec.state` at the last frame.
    """

    def __init__(self, browser: BrowserProcess, spec: PageSpec, timeout: float, counts: Counter[str]) -> None:
        self.browser, self.spec, self._timeout, self._counts = browser, spec, timeout, counts
        self.failure: PageFailure | None = None
        self.picture = ""
        self.state: Any = None
        self._context = self._session = ""
        self._now = self._drawn = 0  # virtual ms since the page began to load, now and at the last frame
        self._frame_time = 0.0  # of the last frame, in the same unit
        self._unanswered: set[Any] = set()  # events that the page has not handled
        self._closed = self._drawing = False

    async def open(self) -> None:
        """Load the page, let `settle_ms` pass and draw it.

        Raises:
            PageFailure: If that fails.
        """
        await self._guarded(self._open())

    async def step(self, gesture: Gesture | None, milliseconds: int) -> None:
        """Perform a gesture and let time pass; longer than `milliseconds` if the gesture is.

        Raises:
            PageFailure: If the page cannot go on.
        """
        timeline = [] if gesture is None else events(gesture, self.spec.width, self.spec.height)
        await self._guarded(self._perform(timeline, milliseconds))

    async def press(self, key_events: Sequence[Event], milliseconds: int) -> None:
        """Send key events and let time pass."""
        await self._guarded(self._perform(key_events, milliseconds))

    async def evaluate(self, script: str) -> Any:
        """Return the JSON value of a JavaScript expression; a promise is not awaited, since time stands still.

        Raises:
            ScriptError: If the script throws.
            PageFailure: If the page cannot go on.
        """
        return await self._guarded(self._evaluate(script))

    async def close(self) -> None:
        """Close the page, in whatever state it is; kill the browser if it cannot."""
        if self._closed:
            return
        self._closed = True
        self.failure = self.failure or PageFailure("browser", "the page was closed")
        if self._drawing:
            await self._dispose()
        else:  # another page that was drawn at the same time would show an older frame
            async with self.browser.drawing:
                await self._dispose()
        self._end(self.failure)
        self.browser.connection.lost.remove_done_callback(self._lose_browser)

    async def _dispose(self) -> None:
        params = {"browserContextId": self._context}
        try:
            if self._context:
                await asyncio.wait_for(self.browser.connection.send("Target.disposeBrowserContext", params), CLOSE_TIME)
        except (asyncio.TimeoutError, ProtocolError):
            self.browser.close()
        except ConnectionLost:
            pass

    async def _open(self) -> None:
        spec, size = self.spec, {"width": self.spec.width, "height": self.spec.height}
        self._context = (await self._ask("Target.createBrowserContext", {"disposeOnDetach": True}))["browserContextId"]
        context = {"browserContextId": self._context}
        await self._ask("Browser.setDownloadBehavior", {**context, "behavior": "deny", "eventsEnabled": True})
        create = {"url": "about:blank", "enableBeginFrameControl": True, **size, **context}
        target = (await self._ask("Target.createTarget", create))["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = (await self._ask("Target.attachToTarget", attach))["sessionId"]
        self._listen()
        commands: list[tuple[str, Params]] = [
            ("Page.enable", {}),
            ("Inspector.enable", {}),
            ("HeadlessExperimental.enable", {}),
            ("Emulation.setDeviceMetricsOverride", {**size, "deviceScaleFactor": 0, "mobile": False}),
            ("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1}),
        ]
        for script in (*INIT_SCRIPTS, *spec.init_scripts):
            commands.append(("Page.addScriptToEvaluateOnNewDocument", {"source": script}))
        commands.append(("Emulation.setVirtualTimePolicy", {"policy": "pause", "initialVirtualTime": EPOCH}))
        answers = await asyncio.gather(*(self._ask(method, params, page=True) for method, params in commands))
        self._ticks = answers[-1]["virtualTimeTicksBase"]
        await self._load()

    async def _load(self) -> None:
        navigation = await self._ask("Page.navigate", {"url": self.spec.url}, page=True)
        if navigation.get("errorText"):
            raise PageFailure("load", f"{self.spec.url}: {navigation['errorText']}")
        await asyncio.wait_for(self._committed, self._timeout)
        # Time waits for files, so that the page is as far after settle_ms whatever the disk's speed. No frame is drawn
        # before the page has loaded, since a frame may or may not include what is being loaded.
        for _ in range(LOAD_STEPS):
            await self._advance(LOAD_STEP, "pauseIfNetworkFetchesPending")
            if self._loaded:
                await self._begin_drawing()
                await self._pass(self.spec.settle_ms - self._now)
                return await self._finish()
        raise PageFailure("load", f"{self.spec.url} was not loaded after {self._now} ms")

    async def _begin_drawing(self) -> None:
        """Draw until the page has had its first frames, in which animations start; it can miss one after loading."""
        for _ in range(LOAD_STEPS):
            await self._draw()
            if await self._evaluate("framesDrawn") >= FIRST_FRAMES:
                return
        raise PageFailure("load", "the page draws no frames")

    def _listen(self) -> None:
        """React to the events of the page."""
        self._loaded = False
        self._committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._budget: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        handlers: dict[str, Callable[[Params], None]] = {
            "Page.loadEventFired": self._load_event,
            "Page.javascriptDialogOpening": self._accept_dialog,
            "Page.windowOpen": lambda params: self._counts.update(["windows"]),
            "Page.frameNavigated": self._check_navigation,
            "Page.downloadWillBegin": lambda params: self._counts.update(["downloads"]),
            "Inspector.targetCrashed": lambda params: self._end(PageFailure("crash")),
            "Emulation.virtualTimeBudgetExpired": self._end_of_budget,
        }
        for event, handler in handlers.items():
            self.browser.connection.on(self._session, event, handler)
        self.browser.connection.lost.add_done_callback(self._lose_browser)

    def _lose_browser(self, lost: asyncio.Future[None]) -> None:
        """End the page, which may be waiting for an event rather than for an answer."""
        self._end(PageFailure("browser", "it has exited"))

    def _load_event(self, params: Params) -> None:
        self._loaded = True

    def _end_of_budget(self, params: Params) -> None:
        if not self._budget.done():
            self._budget.set_result(None)

    def _accept_dialog(self, params: Params) -> None:
        self._counts["dialogs"] += 1
        answer = {"accept": True, "promptText": params.get("defaultPrompt", "")}
        self.browser.connection.send("Page.handleJavaScriptDialog", answer, self._session)

    def _check_navigation(self, params: Params) -> None:
        """Note that the main frame has its document; end the page if it gets a second one."""
        if "parentId" in params["frame"]:
            return
        if self._committed.done():
            self._end(PageFailure("navigation", params["frame"]["url"]))
        else:
            self._committed.set_result(None)

    def _end(self, failure: PageFailure) -> None:
        """Fail all running and later commands of the page."""
        self.failure = self.failure or failure
        if not self._session:
            return
        for future in (self._committed, self._budget):
            if not future.done():
                future.set_exception(self.failure)
                future.exception()  # so that asyncio does not warn if nobody waits for it
        self.browser.connection.end_session(self._session, self.failure)

    async def _guarded(self, work: Awaitable[Result]) -> Result:
        """Await work; after an error that ends the page, close it and raise PageFailure."""
        try:
            if self.failure:
                raise self.failure
            return await work
        except (asyncio.TimeoutError, ProtocolError, ConnectionLost, PageFailure) as error:
            if isinstance(error, ConnectionLost):
                self._end(PageFailure("browser", "it has exited"))
            elif isinstance(error, asyncio.TimeoutError):
                self._end(PageFailure("timeout", f"no answer within {self._timeout:g} s"))
            else:
                self._end(error if isinstance(error, PageFailure) else PageFailure("crash", str(error)))
            assert self.failure is not None
            await self.close()
            raise self.failure from error
        finally:
            if asyncio.iscoroutine(work):
                work.close()

    async def _ask(self, method: str, params: Params, page: bool = False) -> Params:
        """Return the answer to a command of the browser or of this page."""
        command = self.browser.connection.send(method, params, self._session if page else None)
        return await asyncio.wait_for(command, self._timeout)

    async def _perform(self, timeline: Sequence[Event], milliseconds: int) -> None:
        start, last = self._now, 0
        for last, group in groupby(timeline, key=lambda event: event.at):
            await self._pass(start + last - self._now)
            await self._deliver(list(group))
        rest = last + self.spec.frame_ms if timeline else 0  # for the page to react to the last event
        await self._pass(start + max(milliseconds, rest) - self._now)
        await self._finish()

    async def _deliver(self, group: Sequence[Event]) -> None:
        """Send events and draw a frame, since a page handles touches before it draws."""
        for event in group:
            self._unanswered.add(self.browser.connection.send(event.method, event.params, self._session))
        await self._advance(1)
        await self._draw()
        if group[-1].params.get("type") != "touchMove":  # the first moves wait for further frames
            await self._answers()

    async def _answers(self) -> None:
        """Wait until the page has handled all events; if it takes long, draw more frames."""
        deadline = time.monotonic() + self._timeout
        while self._unanswered:
            done, self._unanswered = await asyncio.wait(self._unanswered, timeout=ANSWER_TIME)
            for command in done:
                command.result()
            if not self._unanswered:
                return
            if time.monotonic() > deadline:
                raise asyncio.TimeoutError
            await self._advance(1)
            await self._draw()

    async def _pass(self, milliseconds: int) -> None:
        """Let time pass, and draw a frame whenever the last one is `frame_ms` old, but none at the end."""
        end = self._now + milliseconds
        while self._now < end:
            if self._now - self._drawn >= self.spec.frame_ms:
                await self._draw()
            await self._advance(min(end, self._drawn + self.spec.frame_ms) - self._now)

    async def _advance(self, milliseconds: int, policy: str = "advance") -> None:
        self._budget = asyncio.get_running_loop().create_future()
        budget = {"policy": policy, "budget": milliseconds}
        await self._ask("Emulation.setVirtualTimePolicy", budget, page=True)
        await asyncio.wait_for(self._budget, self._timeout)
        self._now += milliseconds

    async def _finish(self) -> None:
        """Draw the last frame of a step, and read the picture and the state.

        A screenshot shows its own frame or, while other pages are busy, the frame before. So both are of the same time.
        """
        await self._draw()
        answer = await self._draw(screenshot={"format": "png", "optimizeForSpeed": True})
        self.picture = answer.get("screenshotData", self.picture)
        if self.spec.state:
            self.state = await self._evaluate(self.spec.state)

    async def _draw(self, **params: Any) -> Params:
        """Draw a frame at the present virtual time, or an instant later if one was drawn at it."""
        # After two frames of exactly the same time Chromium would hang at the next touch.
        self._frame_time = max(float(self._now), self._frame_time + INSTANT)
        frame = {"frameTimeTicks": self._ticks + self._frame_time, "interval": 16.0, **params}
        async with self.browser.drawing:
            self._drawing = True
            try:
                answer = await self._ask("HeadlessExperimental.beginFrame", frame, page=True)
            except asyncio.TimeoutError:
                # The frame has to end before another page draws, and a hanging page ends it only by closing.
                self._end(PageFailure("timeout", f"no frame within {self._timeout:g} s"))
                await self.close()
                raise
            finally:
                self._drawing = False
        self._drawn = self._now
        return answer

    async def _evaluate(self, script: str) -> Any:
        answer = await self._ask("Runtime.evaluate", {"expression": script, "returnByValue": True}, page=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise ScriptError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")
