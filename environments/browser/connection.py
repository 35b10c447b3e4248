"""The DevTools protocol over a pipe: JSON messages that end with a zero byte."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

LIMIT = 1 << 27  # bytes of one message, far above a screenshot

Params = dict[str, Any]


class ProtocolError(Exception):
    """Error that the browser has returned for a command."""


class ConnectionLost(Exception):
    """The browser has closed its pipe, because it has exited or was killed."""


class Connection:
    """Connection to one browser, used in one event loop.

    Args:
        read: File descriptor from which to read the browser's messages.
        write: File descriptor to which to write commands.

    Attributes:
        lost: Future that is done once the browser has gone.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._commands: dict[int, tuple[str | None, asyncio.Future[Params]]] = {}
        self._handlers: dict[tuple[str | None, str], Callable[[Params], None]] = {}
        self._number = 0

    async def start(self) -> None:
        """Begin to read messages."""
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self._reader = asyncio.StreamReader(limit=LIMIT)
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._input, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(self._read, "rb", 0))
        self._output, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(self._write, "wb", 0))
        self._task = loop.create_task(self._receive())

    def send(self, method: str, params: Mapping[str, Any] | None = None, session: str | None = None) -> Any:
        """Send a command at once, and return a future of its result, so that commands can be pipelined.

        Args:
            method: Name of the command, such as "Page.navigate".
            params: Its parameters.
            session: The session of a page; None = the browser itself.

        Raises:
            ConnectionLost: If the browser has gone.
        """
        if self.lost.done():
            raise ConnectionLost
        self._number += 1
        message = {"id": self._number, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = session
        future: asyncio.Future[Params] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_ignore_error)  # an abandoned command may fail later
        self._commands[self._number] = session, future
        self._output.write(json.dumps(message).encode() + b"\0")
        return future

    def on(self, session: str | None, event: str, handler: Callable[[Params], None]) -> None:
        """Call a function with the parameters of each such event."""
        self._handlers[session, event] = handler

    def end_session(self, session: str, error: Exception) -> None:
        """Forget the handlers of a session and fail all commands that it has not answered."""
        self._handlers = {key: handler for key, handler in self._handlers.items() if key[0] != session}
        for number, (owner, future) in list(self._commands.items()):
            if owner == session:
                del self._commands[number]
                if not future.done():
                    future.set_exception(error)

    def close(self) -> None:
        """Close the pipe, upon which the browser exits."""
        self._output.close()
        self._input.close()

    async def _receive(self) -> None:
        try:
            while True:
                self._dispatch(json.loads((await self._reader.readuntil(b"\0"))[:-1]))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            if not self.lost.done():
                self.lost.set_result(None)
            for _, future in self._commands.values():
                if not future.done():
                    future.set_exception(ConnectionLost())
            self._commands.clear()

    def _dispatch(self, message: Params) -> None:
        if "id" not in message:
            handler = self._handlers.get((message.get("sessionId"), message["method"]))
            if handler is not None:
                handler(message["params"])
            return
        _, future = self._commands.pop(message["id"], (None, None))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(ProtocolError(message["error"].get("message", "")))
        else:
            future.set_result(message["result"])


def _ignore_error(future: asyncio.Future[Params]) -> None:
    if not future.cancelled():
        future.exception()
