"""Calls of a function in threads that do not keep the program alive, so that Ctrl-C ends it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int
) -> Iterator[tuple[int, Result]]:
    """Yield (index of the item, result) for each item, as soon as a result is there.

    If a call raises, the error is raised here, and no further calls are started.

    Args:
        function: Function of an item, which may be called in several threads.
        items: The items.
        threads: Number of threads; with 1, or with one item, the calls are made in this thread.
    """
    if threads == 1 or len(items) <= 1:
        yield from ((index, function(item)) for index, item in enumerate(items))
        return
    waiting, results = iter(enumerate(items)), SimpleQueue[tuple[int, Result | None, BaseException | None]]()
    mutex, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with mutex:
                index, item = next(waiting, (-1, None))
            if item is None:
                return
            try:
                results.put((index, function(item), None))
            except BaseException as error:
                results.put((index, None, error))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            index, result, error = results.get()
            if error is not None:
                raise error
            yield index, result  # type: ignore[misc]  # without an error there is a result
    finally:
        stopped.set()
