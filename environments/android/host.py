"""What runs the phone: an emulator that this process starts and ends, a running emulator, or a phone on a cable.

Python >= 3.10 and android_env.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..base import UserError, did_you_mean
from ..isolation import scratch
from .adb_screen import AdbScreen, check_connected
from .device import load
from .emulator import Emulator, EmulatorFailed, Sdk, emulator_command, find_sdk, has_booted, list_avds
from .slots import SIMULATOR, Claim, Slot, claim_free, claim_running, try_claim


class Host:
    """A phone that runs.

    Args:
        sdk: The programs of the Android SDK.
        claim: The claim of the device.
        emulator: The emulator, started; None = the user runs the phone.

    Attributes:
        env: The AndroidEnv, after `connect`.
        wait: Function that lets a number of seconds pass on the phone.
    """

    def __init__(self, sdk: Sdk, claim: Claim, emulator: Emulator | None = None) -> None:
        self._sdk, self._claim, self._emulator = sdk, claim, emulator
        self.env: Any = None
        self.wait: Callable[[float], None] = time.sleep

    def connect(self, simulator: Any) -> Host:
        """Connect android_env to the phone and return this object; after an error the phone is closed.

        Args:
            simulator: Function that returns android_env's simulator for the phone.
        """
        try:
            self.env = load(simulator())
        except BaseException:
            self.close()
            raise
        return self

    def check(self) -> None:
        """Check that the phone answers.

        Raises:
            EmulatorFailed: If it does not; a new process must start it again.
        """
        ended = self._emulator is not None and not self._emulator.running
        if ended or not has_booted(self._sdk, self._claim.serial):
            raise EmulatorFailed(f"{self._claim.serial} {'has ended' if ended else 'does not answer adb'}")

    def close(self) -> None:
        """End the emulator if it was started here, and let others use the phone."""
        if self._emulator is not None:
            self._emulator.stop()
        self._claim.release()


def start(options: dict[str, Any]) -> Host:
    """Start an emulator, or claim a phone that runs, and connect android_env to it.

    Args:
        options: The options of environment.py's Defaults.

    Raises:
        UserError: If a program, the virtual device or a free phone is missing.
        EmulatorFailed: If the emulator does not start.
    """
    sdk = find_sdk(options["sdk"], emulator=not (options["running"] or options["devices"]))
    if options["devices"]:
        return _on_cable(sdk, options["devices"])
    if options["running"]:
        slot, claim = claim_running(tuple(options["running"]))
        return Host(sdk, claim).connect(lambda: emulator_simulator(sdk, slot))
    _check_avd(sdk, options["avd"])
    slot, claim = claim_free()
    emulator = _emulator(sdk, slot, options)
    try:
        emulator.start()
    except BaseException:
        claim.release()
        raise
    return Host(sdk, claim, emulator).connect(lambda: emulator_simulator(sdk, slot))


def _on_cable(sdk: Sdk, serials: list[str]) -> Host:
    from .screen_simulator import ScreenSimulator

    for serial in serials:
        check_connected(sdk, serial)
        claim = try_claim(serial)
        if claim is not None:
            host, screen = Host(sdk, claim), AdbScreen(sdk, serial)
            host.wait = screen.wait
            return host.connect(lambda screen=screen: ScreenSimulator(screen))
    raise UserError(f"the phones {', '.join(serials)} are all in use; list one per environment (num_envs)")


def _emulator(sdk: Sdk, slot: Slot, options: dict[str, Any]) -> Emulator:
    command = emulator_command(
        sdk,
        options["avd"],
        slot,
        snapshot=options["snapshot"],
        window=options["window"],
        more=options["emulator_arguments"],
    )
    log = scratch.folder(SIMULATOR) / f"{slot.serial}.log"
    return Emulator(sdk, slot, command, log, boot=options["boot"])


def _check_avd(sdk: Sdk, avd: str) -> None:
    avds = list_avds(sdk)
    if avd not in avds:
        hint = did_you_mean(avd, avds)
        raise UserError(
            f"there is no virtual device {avd!r}.{hint} `emulator -list-avds` shows: {', '.join(avds) or 'none'}. Make "
            "one in Android Studio (AndroidWorld: Pixel 6 with API level 33), and set environment_options.avd"
        )


def emulator_simulator(sdk: Sdk, slot: Slot) -> Any:
    """Return android_env's simulator for an emulator that runs.

    Args:
        sdk: The programs of the Android SDK.
        slot: The slot of the emulator.
    """
    from android_env.components import config_classes
    from android_env.components.simulators.emulator import (
        emulator_simulator as simulators,
    )

    ports = config_classes.EmulatorLauncherConfig(
        emulator_console_port=slot.console, adb_port=slot.adb, grpc_port=slot.grpc
    )
    adb = config_classes.AdbControllerConfig(adb_path=sdk.adb)
    return simulators.EmulatorSimulator(config_classes.EmulatorConfig(emulator_launcher=ports, adb_controller=adb))
