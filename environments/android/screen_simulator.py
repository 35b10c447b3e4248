"""android_env's simulator for any screen that takes touches: a page of a browser, or a drawing of a test.

android_env has the emulator and a fake simulator, which shows noise and ignores touches. With a screen of one's own the
whole path of an action, from android_env's TOUCH and LIFT to pixels, runs without an emulator. Python >= 3.10 and
android_env.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from android_env.components import adb_controller, config_classes, log_stream
from android_env.components.simulators import base_simulator


class Screen(Protocol):
    """A screen that takes touches, keys and texts, and can be photographed."""

    def screenshot(self) -> np.ndarray:
        """Return the screen, uint8 [H, W, 3], of the same shape at all times."""

    def touch(self, x: int, y: int, down: bool) -> None:
        """Move the finger to a pixel, on the screen or off it.

        Args:
            x: Column of the pixel.
            y: Row of the pixel.
            down: Whether the finger touches the screen.
        """

    def press(self, key: str) -> None:
        """Press a key.

        Args:
            key: Its name in Android, such as "KEYCODE_BACK".
        """

    def type(self, text: str) -> None:
        """Enter a text into the selected field."""


class ScreenSimulator(base_simulator.BaseSimulator):
    """Simulator of android_env for a screen.

    Args:
        screen: The screen.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__(config_classes.SimulatorConfig())
        self._screen = screen

    def adb_device_name(self) -> str:
        return "screen"

    def create_adb_controller(self) -> ScreenAdb:
        return ScreenAdb(self._screen)

    def create_log_stream(self) -> NoLog:
        return NoLog()

    def send_touch(self, touches: list[tuple[int, int, bool, int]]) -> None:
        for x, y, down, _ in touches:
            self._screen.touch(x, y, down)

    def send_key(self, keycode: Any, event_type: str) -> None:
        """Do nothing: these are codes of the host's keyboard; keys of Android come through adb."""

    def _launch_impl(self) -> None:
        """Do nothing: the screen is there."""

    def _get_screenshot_impl(self) -> np.ndarray:
        return self._screen.screenshot()


class ScreenAdb(adb_controller.AdbController):
    """adb of a screen: it types texts, presses keys, and gives the orientation; other commands do nothing.

    Args:
        screen: The screen.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__(config_classes.AdbControllerConfig(adb_path="adb"))
        self._screen = screen

    def execute_command(self, args: list[str], timeout: float | None = None, device_specific: bool = True) -> bytes:
        """Run a command, as android_env's AdbController does.

        Args:
            args: Arguments of adb; after "shell" a command line for the device's shell.
            timeout: Not used.
            device_specific: Not used.

        Returns:
            The output of the command.
        """
        command = shlex.split(" ".join(args[1:])) if args[:1] == ["shell"] else []
        if command[:2] == ["input", "text"]:
            self._screen.type(command[2].replace("%s", " "))
        if command[:2] == ["input", "keyevent"]:
            self._screen.press(command[2])
        return b"  SurfaceOrientation: 0" if command == ["dumpsys", "input"] else b""


class NoLog(log_stream.LogStream):
    """Log of a device that logs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = threading.Event()

    def stop_stream(self) -> None:
        self._stopped.set()

    def _get_stream_output(self) -> Iterator[str]:
        self._stopped.wait()
        return iter(())
