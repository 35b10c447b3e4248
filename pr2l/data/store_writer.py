"""Computation of the missing rows of a store, with its progress on the console."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress

from pr2l.core.console import Console
from pr2l.core.types import Tokens
from pr2l.data.store import Shape, Store, exists, is_complete

FLUSH_EVERY = 10  # seconds between flushes: the most work that is lost when the process is killed


def write_store(
    folder: Path, key: dict[str, Any], shape: Shape, rows: Callable[[int], Iterator[Tokens]], what: str
) -> Store:
    """Compute the missing rows of a store, and open it for reading. The caller holds the lock of the folder.

    Args:
        folder: Folder of the store.
        key: Key of the store.
        shape: (N, T, D).
        rows: Function from the number of a row to an iterator over the tokens of this row and all later ones, in order.
        what: Name of the rows in messages, such as "frames".

    Raises:
        UserError: The folder holds another store.
        DiskFull: The disk has too little space for all rows.
    """
    console = Console()
    if is_complete(folder):
        store = Store.open(folder, key)
    elif exists(folder):
        store = Store.resume(folder, key)
    else:
        store = Store.create(folder, key, shape)
    count, seconds = 0, 0.0
    try:
        if store.done < len(store):
            count, seconds = _fill(store, rows(store.done), console)
    finally:
        console.print(f"{store.done:,} of {len(store):,} {what} are in {folder}", soft_wrap=True, markup=False)
        if store.clipped:
            console.print(f"{store.clipped:,} numbers beyond the range of float16 were clipped", soft_wrap=True)
    if count:
        console.print(f"{count:,} {what} in {seconds:.0f} s, {count / seconds:.0f} {what}/s")
    return Store.open(folder, key)


def _fill(store: Store, rows: Iterator[Tokens], console: Console) -> tuple[int, float]:
    """Append the missing rows to a store, and return the number of these rows and the duration in seconds.

    Args:
        store: Store without these rows.
        rows: Tokens of all missing rows.
        console: Shows the progress.
    """
    before, start = store.done, time.monotonic()
    last_flush = start
    with Progress(console=console) as progress:
        bar = progress.add_task("embedding", total=len(store), completed=before)
        try:
            for tokens in rows:
                store.append(tokens)
                progress.update(bar, completed=store.done)
                if time.monotonic() - last_flush >= FLUSH_EVERY:
                    store.flush()
                    last_flush = time.monotonic()
        finally:
            store.flush()
    return store.done - before, time.monotonic() - start
