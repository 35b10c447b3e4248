"""A file whose changes reach the disk all together or not at all, even if the process is killed or the disk is full.

HDF5 changes a file in place, so a process that is killed while it writes an episode can make the episodes before it
unreadable. h5py writes to an AtomicFile as to any other file object:

    write     changed pages are kept in memory
    commit    1. pages beyond the old end of the file are written there, where nothing refers to them yet
              2. the other changed pages are written to a journal, a file beside the file
              3. the journal is applied to the file, then removed

A process that opens the file applies a journal that it finds. Before step 2 has ended, the file has its old content.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pr2l.core.io import DamagedFile, sync

PAGE = 4096  # bytes


class AtomicFile(io.RawIOBase):
    """File object for h5py whose changes are written by `commit`.

    Args:
        path: An existing file. If it has a journal, the journal is applied first.

    Raises:
        DamagedFile: The journal cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        _recover(path)
        self._path, self._position = path, 0
        self._pages: dict[int, bytearray] = {}
        self.discard()

    @property
    def pending(self) -> int:
        """Number of bytes that `commit` would write."""
        return len(self._pages) * PAGE

    def discard(self) -> None:
        """Forget all changes since the last commit."""
        self._pages.clear()
        self._size = self._committed = self._path.stat().st_size

    def commit(self) -> None:
        """Write all changes to the disk.

        Raises:
            OSError: The disk has too little space. The file has its old content, and the changes are discarded.
        """
        numbers = sorted(self._pages)
        old = [number for number in numbers if number * PAGE < self._committed]
        try:
            with self._path.open("r+b", buffering=0) as file:
                for number in numbers[len(old) :]:
                    _write(file.fileno(), number, self._pages[number])
                os.fsync(file.fileno())
            _write_journal(self._path, old, [self._pages[number] for number in old], self._size)
        except OSError:
            os.truncate(self._path, self._committed)
            self.discard()
            raise
        _recover(self._path)
        self.discard()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        return self._size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        for number, part, place in _parts(self._position, count):
            view[place] = self._page(number)[part]
        self._position += count
        return count

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        for number, part, place in _parts(self._position, len(view)):
            page = self._pages[number] = self._page(number)
            page[part] = view[place]
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def _page(self, number: int) -> bytearray:
        """Return the content of a page, with 0 beyond the end of the file."""
        if number in self._pages:
            return self._pages[number]
        content = b""
        if number * PAGE < self._committed:
            with self._path.open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), PAGE, number * PAGE)
        return bytearray(content.ljust(PAGE, b"\0"))


def _parts(start: int, count: int) -> Iterator[tuple[int, slice, slice]]:
    """Divide the bytes start .. start + count among pages: page number, bytes of the page, bytes of the buffer."""
    position, end = start, start + count
    while position < end:
        number, first = divmod(position, PAGE)
        length = min(PAGE - first, end - position)
        yield number, slice(first, first + length), slice(position - start, position - start + length)
        position += length


def _write(descriptor: int, number: int, page: Any) -> None:
    view, offset = memoryview(page), number * PAGE
    while view:  # a system call may write less, for example on a full disk before it fails
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _journal(path: Path) -> Path:
    return path.with_name(f".journal-{path.name}")


def _write_journal(path: Path, numbers: list[int], pages: list[bytearray], size: int) -> None:
    """Write the pages that replace old ones, and the new size of the file; the journal appears when it is complete."""
    content = np.frombuffer(b"".join(pages), np.uint8).reshape(len(pages), PAGE)
    partial = path.with_name(f".partial-journal-{path.name}")
    try:
        with partial.open("wb") as file:
            np.savez(file, numbers=np.array(numbers, np.int64), pages=content, size=np.array(size, np.int64))
        sync(partial)
        os.replace(partial, _journal(path))
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _recover(path: Path) -> None:
    """Apply the journal of a file, if it has one; applying it twice has the same result."""
    journal = _journal(path)
    if not journal.is_file():
        return
    try:
        with np.load(journal, allow_pickle=False) as stored:  # verifies the CRC-32 of each array
            numbers, pages, size = stored["numbers"], stored["pages"], int(stored["size"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedFile(journal, str(error), f"{path} cannot be repaired; collect it again.") from error
    with path.open("r+b", buffering=0) as file:
        for number, page in zip(numbers.tolist(), pages, strict=True):
            _write(file.fileno(), number, page)
        os.ftruncate(file.fileno(), size)
        os.fsync(file.fileno())
    journal.unlink()
