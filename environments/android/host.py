"""What runs the phone: an emulator that this process starts and ends, or one that the user has started.

Python >= 3.10 and android_env.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from ..base import UserError
from ..isolation import scratch
from .device import load
from .emulator import Emulator, EmulatorFailed, Sdk, emulator_command, find_sdk, has_booted, list_avds
from .slots import SIMULATOR, Claim, Slot, claim_free, claim_running


class Host:
    """A phone that runs, and its AndroidEnv.

    Args:
        sdk: The programs of the Android SDK.
        claim: The claim of its slot.
        emulator: The emulator, started; None = the user runs it.

    Attributes:
        env: The AndroidEnv.
    """

    def __init__(self, sdk: Sdk, claim: Claim, emulator: Emulator | None) -> None:
        self._sdk, self._claim, self._emulator = sdk, claim, emulator
        self.env: Any = load(simulator(sdk, claim.slot))

    def check(self) -> None:
        """Check that the phone answers.

        Raises:
            EmulatorFailed: If it does not; a new process must start it again.
        """
        ended = self._emulator is not None and not self._emulator.running
        if ended or not has_booted(self._sdk, self._claim.slot):
            state = "has ended" if ended else "does not answer adb"
            raise EmulatorFailed(f"the emulator {self._claim.slot.serial} {state}")

    def close(self) -> None:
        """End the emulator if it was started here, and free its slot."""
        if self._emulator is not None:
            self._emulator.stop()
        self._claim.release()


def start(options: dict[str, Any]) -> Host:
    """Start an emulator, or claim a running one, and connect android_env to it.

    Args:
        options: The options of environment.py's Defaults.

    Raises:
        UserError: If a program, the virtual device or a free emulator is missing.
        EmulatorFailed: If the emulator does not start.
    """
    sdk = find_sdk(options["sdk"], emulator=not options["running"])
    if options["running"]:
        return _connect(sdk, claim_running(tuple(options["running"])), None)
    _check_avd(sdk, options["avd"])
    claim = claim_free()
    emulator = Emulator(
        sdk,
        claim.slot,
        emulator_command(
            sdk,
            options["avd"],
            claim.slot,
            snapshot=options["snapshot"],
            window=options["window"],
            more=options["emulator_arguments"],
        ),
        scratch.folder(SIMULATOR) / f"{claim.slot.serial}.log",
        boot=options["boot"],
    )
    try:
        emulator.start()
    except BaseException:
        claim.release()
        raise
    return _connect(sdk, claim, emulator)


def _connect(sdk: Sdk, claim: Claim, emulator: Emulator | None) -> Host:
    try:
        return Host(sdk, claim, emulator)
    except BaseException:
        if emulator is not None:
            emulator.stop()
        claim.release()
        raise


def _check_avd(sdk: Sdk, avd: str) -> None:
    avds = list_avds(sdk)
    if avd not in avds:
        close = get_close_matches(avd, avds, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"there is no virtual device {avd!r}.{hint} `emulator -list-avds` shows: {', '.join(avds) or 'none'}. Make "
            "one in Android Studio (AndroidWorld: Pixel 6 with API level 33), and set environment_options.avd"
        )


def simulator(sdk: Sdk, slot: Slot) -> Any:
    """Return android_env's simulator for an emulator that runs.

    Args:
        sdk: The programs of the Android SDK.
        slot: The slot of the emulator.
    """
    from android_env.components import config_classes  # type: ignore[import-not-found]
    from android_env.components.simulators.emulator import emulator_simulator  # type: ignore[import-not-found]

    ports = config_classes.EmulatorLauncherConfig(
        emulator_console_port=slot.console, adb_port=slot.adb, grpc_port=slot.grpc
    )
    adb = config_classes.AdbControllerConfig(adb_path=sdk.adb)
    return emulator_simulator.EmulatorSimulator(
        config_classes.EmulatorConfig(emulator_launcher=ports, adb_controller=adb)
    )
