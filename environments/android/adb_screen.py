"""The screen of a phone that only adb reaches, such as one on a USB cable, for android_env's ScreenSimulator.

android_env touches an emulator through the emulator's own server. A phone has none, so gestures go through
`adb shell input` and screenshots through `screencap`, which takes about a second each. Python >= 3.10 and Pillow.
"""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Sequence

import numpy as np

from ..base import UserError
from ..common.screen_actions import ScreenAction, pixel
from .device import DeviceLost
from .emulator import Sdk, adb_command
from .finger import Finger
from .gestures import PRESS, SWIPE, typing_commands

ANSWER = 30.0  # seconds for one command of adb
PNG = b"\x89PNG"  # begin of a screenshot; some phones print a warning before it


class AdbScreen:
    """Screen of a phone, through adb.

    Args:
        sdk: The programs of the Android SDK.
        serial: The phone's name in `adb devices`.
    """

    def __init__(self, sdk: Sdk, serial: str) -> None:
        self._sdk, self._serial, self._finger = sdk, serial, Finger()
        self._size = (1, 1)  # width and height of the last screenshot

    def screenshot(self) -> np.ndarray:
        """Return the screen, uint8 [H, W, 3].

        Raises:
            DeviceLost: If the phone does not answer.
        """
        from PIL import Image

        output = self._run("exec-out", "screencap", "-p")
        start = output.find(PNG)
        if start < 0:
            raise DeviceLost(f"{self._serial} gave no screenshot but {output[:200]!r}")
        image = np.array(Image.open(io.BytesIO(output[start:])).convert("RGB"))
        self._size = (image.shape[1], image.shape[0])
        return image

    def touch(self, x: int, y: int, down: bool) -> None:
        """Move the finger; when it leaves the screen, perform the gesture.

        Args:
            x: Column of the pixel.
            y: Row of the pixel.
            down: Whether the finger touches the screen.
        """
        action = self._finger.move(x, y, down, *self._size)
        if action is not None:
            self._run("shell", *input_command(action, self._size))

    def press(self, key: str) -> None:
        """Press a key.

        Args:
            key: Its name in Android.
        """
        self._run("shell", "input", "keyevent", key)

    def type(self, text: str) -> None:
        """Enter a text into the selected field."""
        for command in typing_commands(text):
            self._run("shell", *command)

    def wait(self, seconds: float) -> None:
        """Let time pass; a gesture takes its own time, when it is performed.

        Args:
            seconds: The time.
        """
        if self._finger.down:
            self._finger.wait(seconds)
        else:
            time.sleep(seconds)

    def _run(self, *arguments: str) -> bytes:
        command = adb_command(self._sdk, self._serial, *arguments)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER, check=True)
        except subprocess.SubprocessError as error:
            reason = getattr(error, "stderr", None) or b""
            raise DeviceLost(f"{self._serial}: {error} {reason.decode(errors='replace')}".strip()) from error
        return done.stdout


def input_command(action: ScreenAction, size: tuple[int, int]) -> list[str]:
    """Return the arguments of `adb shell` for a tap, long press or swipe.

    Args:
        action: The gesture.
        size: Width and height of the screen in pixels.
    """
    width, height = size
    start = [str(pixel(action.x or 0.0, width)), str(pixel(action.y or 0.0, height))]
    if action.type == "tap":
        return ["input", "tap", *start]
    if action.type == "long_press":  # a swipe to the same place, as in AndroidWorld
        return ["input", "swipe", *start, *start, str(round(1000 * PRESS))]
    end = [str(pixel(action.to_x or 0.0, width)), str(pixel(action.to_y or 0.0, height))]
    return ["input", "swipe", *start, *end, str(round(1000 * SWIPE))]


def check_connected(sdk: Sdk, serial: str) -> None:
    """Check that a phone is connected and lets this computer in.

    Args:
        sdk: The programs of the Android SDK.
        serial: The phone's name in `adb devices`.

    Raises:
        UserError: If not; the message lists the phones that are.
    """
    try:
        done = subprocess.run([sdk.adb, "devices"], capture_output=True, text=True, timeout=ANSWER, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"`{sdk.adb} devices` failed: {error}") from error
    states = connected(done.stdout.splitlines())
    if states.get(serial) != "device":
        found = ", ".join(f"{name} ({state})" for name, state in states.items()) or "none"
        raise UserError(
            f"the phone {serial!r} is not ready; `adb devices` shows: {found}. Connect it, turn on USB debugging in "
            "its developer options, and allow this computer on its screen"
        )


def connected(lines: Sequence[str]) -> dict[str, str]:
    """Return the phones in the output of `adb devices` and their states, such as "device" or "unauthorized".

    Args:
        lines: The lines of the output.
    """
    rows = (line.split("\t") for line in lines)
    return {row[0]: row[1] for row in rows if len(row) == 2}
