"""One Chromium process: its flags, its start and its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from ..base import UserError
from .connection import Connection, ConnectionLost, ProtocolError

WATCHER = Path(__file__).with_name("watcher.py")
START_TIME = 60.0  # seconds for a browser to start on a busy machine
END_TIME = 15.0  # seconds for the watcher to end the browser and remove its profile
OPEN_PIPES: set[int] = set()  # descriptors that a forked child must not hold, or the browser would outlive this process

FLAGS = (
    "--remote-debugging-pipe",
    # The same commands give the same pixels.
    "--deterministic-mode",
    "--enable-begin-frame-control",
    "--run-all-compositor-stages-before-draw",
    "--disable-gpu",
    "--disable-threaded-animation",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--disable-lcd-text",
    "--hide-scrollbars",
    "--js-flags=--random-seed=1",  # of Math.random
    "--lang=en-US",
    # No network: no name and no address resolves, and the only proxy is one that does not exist.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=nowhere.invalid:1",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-pings",
    # Pages are local files. They open no windows.
    "--allow-file-access-from-files",
    "--block-new-web-contents",
    "--disable-extensions",
    "--disable-default-apps",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    # Speed, and small /dev/shm in containers.
    "--disable-dev-shm-usage",
    "--disable-ipc-flooding-protection",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-features=Translate,MediaRouter,OptimizationHints,PaintHolding",
)


class BrowserProcess:
    """Chromium, started below the watcher, with a connection to it.

    Args:
        executable: Path of the headless shell.
        scale: Frame pixels per CSS pixel of all its pages. Frames of BeginFrame control ignore the scale of a page.

    Attributes:
        drawing: Lock of the browser's frames: two at a time would kill its GPU process.
    """

    def __init__(self, executable: Path, scale: float = 1.0) -> None:
        self._profile = tempfile.mkdtemp(prefix="pr2l-browser-")
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # Chromium's stderr, as long as it lives
        self._executable = executable
        self.drawing = asyncio.Lock()
        commands, to_browser = _pipe()
        from_browser, answers = _pipe()
        flags = [*FLAGS, f"--user-data-dir={self._profile}", f"--force-device-scale-factor={scale:g}"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's sandbox does not work for root
        watcher = [sys.executable, "-I", "-S", str(WATCHER), self._profile, str(commands), str(answers)]
        try:
            self._process = subprocess.Popen(
                [*watcher, str(executable), *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._messages,
                pass_fds=(commands, answers),
                start_new_session=True,  # Ctrl-C in the terminal is for Python, which then closes the browser
            )
        finally:
            os.close(commands)
            os.close(answers)
        assert self._process.stdin is not None
        self._pipes = {to_browser, from_browser, self._process.stdin.fileno()}
        OPEN_PIPES.update(self._pipes)
        self.connection = Connection(from_browser, to_browser)

    async def start(self) -> None:
        """Wait until the browser answers.

        Raises:
            UserError: If it does not start; with its last messages.
        """
        await self.connection.start()
        try:
            await asyncio.wait_for(self.connection.send("Browser.getVersion"), START_TIME)
        except (ConnectionLost, ProtocolError, asyncio.TimeoutError) as error:
            self.close()
            messages = self.wait()
            raise UserError(f"{self._executable} did not start. Its last messages:\n{messages}") from error

    @property
    def alive(self) -> bool:
        """Whether the browser can be used."""
        return not self.connection.lost.done()

    def close(self) -> None:
        """Let the browser end; the watcher kills it if it does not."""
        OPEN_PIPES.difference_update(self._pipes)
        self.connection.close()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self) -> str:
        """Wait until the browser has ended and its profile folder is removed, and return its last messages."""
        try:
            self._process.wait(END_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._messages as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-8:]) or "(none)"


def _pipe() -> tuple[int, int]:
    """Return a pipe's ends, both numbered 10 or more, so that they are not in the way of descriptors 3 and 4."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends[0], ends[1]


def _replace_pipes() -> None:
    """In a forked child, put /dev/null in the place of the parent's pipes; closing would free their numbers."""
    if OPEN_PIPES:
        nothing = os.open(os.devnull, os.O_RDWR)
        for pipe in OPEN_PIPES:
            os.dup2(nothing, pipe, inheritable=False)
        os.close(nothing)
        OPEN_PIPES.clear()


os.register_at_fork(after_in_child=_replace_pipes)
