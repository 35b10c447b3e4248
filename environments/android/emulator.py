"""One Android emulator as a process: its command line, its start, its health and its end.

Several emulators run the same virtual device (AVD) with `-read-only`: each writes to a temporary copy, which ends with
it. Python >= 3.10, standard library only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..base import UserError
from .slots import Slot

SDK = "~/Android/Sdk"  # where Android Studio installs it
POLL = 0.5  # seconds between two questions whether the device has booted
ASK = 10.0  # seconds for one answer of adb
GRACE = 10.0  # seconds for the emulator to end by itself
LAST_LINES = 20  # of the emulator's output, in an error


class EmulatorFailed(RuntimeError):
    """Error of an emulator that did not start, has ended, or does not answer."""


@dataclass(frozen=True)
class Sdk:
    """Programs of the Android SDK.

    Args:
        emulator: Path of `emulator`; "" = not installed.
        adb: Path of `adb`.
    """

    emulator: str
    adb: str


def find_sdk(folder: str | None = None, *, emulator: bool = True) -> Sdk:
    """Find `emulator` and `adb`.

    Args:
        folder: The folder of the Android SDK; None = $ANDROID_HOME, $ANDROID_SDK_ROOT, or ~/Android/Sdk. A program that
            is not there is looked for on the PATH.
        emulator: Whether the emulator is needed.

    Raises:
        UserError: If a program is missing.
    """
    variables = (os.environ.get(name) for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"))
    root = Path(folder or next(filter(None, variables), SDK)).expanduser()
    found = {
        "emulator": shutil.which(str(root / "emulator" / "emulator")) or shutil.which("emulator"),
        "adb": shutil.which(str(root / "platform-tools" / "adb")) or shutil.which("adb"),
    }
    for name in ("emulator", "adb") if emulator else ("adb",):
        if not found[name]:
            raise UserError(
                f"there is no `{name}` in {root} or on the PATH; install Android Studio or the command line tools "
                "(developer.android.com/studio), or set environment_options.sdk to the folder of the SDK"
            )
    return Sdk(found["emulator"] or "", found["adb"] or "")


def emulator_command(
    sdk: Sdk, avd: str, slot: Slot, *, snapshot: str = "", window: bool = False, more: Sequence[str] = ()
) -> list[str]:
    """Return the command line of an emulator.

    Args:
        sdk: The programs.
        avd: Name of the virtual device, as `emulator -list-avds` shows it.
        slot: The number of the emulator, which determines its ports.
        snapshot: Name of the snapshot to start from; "" = boot.
        window: Whether to show the screen in a window.
        more: Further arguments.
    """
    start = ["-snapshot", snapshot] if snapshot else ["-no-snapshot-load"]
    display = [] if window else ["-no-window"]
    return [
        sdk.emulator,
        *("-avd", avd, "-read-only", "-no-snapshot-save", *start),
        *("-port", str(slot.console), "-grpc", str(slot.grpc)),  # the adb port is the next one
        *("-no-audio", "-no-boot-anim", *display, *more),
    ]


def adb_command(sdk: Sdk, serial: str, *arguments: str) -> list[str]:
    """Return the command line of adb for one device.

    Args:
        sdk: The programs.
        serial: The device's name in adb.
        arguments: The command for adb, such as "shell", "getprop".
    """
    return [sdk.adb, "-s", serial, *arguments]


def list_avds(sdk: Sdk) -> list[str]:
    """Return the names of the virtual devices.

    Args:
        sdk: The programs.

    Raises:
        EmulatorFailed: If the emulator's program fails.
    """
    try:
        done = subprocess.run([sdk.emulator, "-list-avds"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmulatorFailed(f"{sdk.emulator} -list-avds failed: {error}") from error
    return [line for line in done.stdout.split("\n") if line and " " not in line]  # names have no spaces, messages do


def has_booted(sdk: Sdk, serial: str) -> bool:
    """Return whether Android runs on a device and answers adb.

    Args:
        sdk: The programs.
        serial: The device's name in adb.
    """
    command = adb_command(sdk, serial, "shell", "getprop", "sys.boot_completed")
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and done.stdout.strip() == b"1"


class Emulator:
    """The process of an emulator, which ends at the latest with this process's guard (see isolation/worker.py).

    Args:
        sdk: The programs.
        slot: The number of the emulator; the caller has claimed it.
        command: The command line, from `emulator_command`.
        log: File for the emulator's output.
        boot: Seconds until Android must have booted.
    """

    def __init__(self, sdk: Sdk, slot: Slot, command: Sequence[str], log: Path, boot: float) -> None:
        self.slot = slot
        self._sdk, self._command, self._log, self._boot = sdk, list(command), log, boot
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the emulator, after ending it if it runs, and wait until Android has booted.

        Raises:
            EmulatorFailed: If it ends, or does not boot in time; it is then not running.
        """
        self.stop()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, to end the emulator with the processes it starts
            )
        try:
            self._wait_until_booted(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_until_booted(self, process: subprocess.Popen[bytes]) -> None:
        deadline, booted = time.monotonic() + self._boot, False
        while not booted:
            booted = has_booted(self._sdk, self.slot.serial)
            if process.poll() is not None:  # also if adb has reached another emulator on its port
                raise EmulatorFailed(f"{self._name} ended with exit code {process.returncode}{self._last_lines()}")
            if not booted and time.monotonic() > deadline:
                raise EmulatorFailed(f"{self._name} has not booted after {self._boot:g} s{self._last_lines()}")
            time.sleep(0 if booted else POLL)

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the emulator and all processes that it has started in its group."""
        if self._process is None:
            return
        for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self._process = None

    @property
    def _name(self) -> str:
        return f"the emulator {self.slot.serial}"

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"; it was started by {shlex.join(self._command)}", *lines])
