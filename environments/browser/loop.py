"""The event loop of this process's browsers, in a daemon thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in the event loop and return its result."""
    return begin(work).result()


def begin(work: Coroutine[Any, Any, Result]) -> Future[Result]:
    """Start a coroutine in the event loop."""
    return asyncio.run_coroutine_threadsafe(work, _loop())


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="browsers", daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_loop.cache_clear)  # threads do not survive a fork
