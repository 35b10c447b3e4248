"""Numbers of the emulators on one machine, each with its own ports, shared by all processes of a user.

An emulator with the number i has the console port 5554 + 2 i, the adb port 5555 + 2 i and the gRPC port 8554 + i. adb
finds emulators with these console and adb ports by itself, and calls them emulator-5554, emulator-5556 and so on.
"""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass

from ..base import UserError
from ..isolation import scratch

SIMULATOR = "android"  # name of the scratch folder
CONSOLE, GRPC = 5554, 8554  # ports of the first emulator
MOST = 16  # emulators that adb finds: it looks at the ports 5555 to 5585


@dataclass(frozen=True)
class Slot:
    """Number and ports of one emulator.

    Args:
        number: The number, 0 to MOST - 1.
    """

    number: int

    @property
    def console(self) -> int:
        """The port of the emulator's console."""
        return CONSOLE + 2 * self.number

    @property
    def adb(self) -> int:
        """The port at which adb reaches the device."""
        return self.console + 1

    @property
    def grpc(self) -> int:
        """The port for android_env's screenshots and touches."""
        return GRPC + self.number

    @property
    def serial(self) -> str:
        """The device's name in adb."""
        return f"emulator-{self.console}"

    @property
    def ports(self) -> tuple[int, int, int]:
        """All ports of the emulator."""
        return self.console, self.adb, self.grpc


def slot_of(console: int) -> Slot:
    """Return the slot with a console port.

    Args:
        console: The console port of a running emulator.

    Raises:
        UserError: If no emulator has this port.
    """
    number, odd = divmod(console - CONSOLE, 2)
    if odd or not 0 <= number < MOST:
        raise UserError(
            f"{console} is not the console port of an emulator; they are even numbers from {CONSOLE} to "
            f"{CONSOLE + 2 * (MOST - 1)}, as `adb devices` shows them"
        )
    return Slot(number)


class Claim:
    """A device that belongs to this process until `release`, or until the process ends.

    Args:
        serial: The device's name in adb.
        lock: The open lock file.
    """

    def __init__(self, serial: str, lock: int) -> None:
        self.serial, self._lock = serial, lock

    def release(self) -> None:
        """Let other environments use the device."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def claim_free() -> tuple[Slot, Claim]:
    """Claim the first slot that no environment uses and whose ports are free.

    Raises:
        UserError: If there is none.
    """
    for slot in map(Slot, range(MOST)):
        claim = try_claim(slot.serial)
        if claim is None:
            continue
        if all(map(is_free, slot.ports)):
            return slot, claim
        claim.release()
    raise UserError(
        f"all {MOST} emulators that adb can find are in use; use fewer environments (num_envs), or end emulators that "
        "`adb devices` shows"
    )


def claim_running(consoles: tuple[int, ...]) -> tuple[Slot, Claim]:
    """Claim the first of several running emulators that no other environment uses.

    Args:
        consoles: The console ports of the emulators.

    Raises:
        UserError: If a port has no emulator, or all are in use.
    """
    for slot in map(slot_of, consoles):
        for port in (slot.console, slot.grpc):
            if is_free(port):
                raise UserError(
                    f"the emulator {slot.serial} does not listen on port {port}; start it with `emulator -port "
                    f"{slot.console} -grpc {slot.grpc} -avd NAME`"
                )
        claim = try_claim(slot.serial)
        if claim is not None:
            return slot, claim
    raise UserError(f"the running emulators {list(consoles)} are all in use; list one per environment (num_envs)")


def try_claim(serial: str) -> Claim | None:
    """Claim a device, or return None if another environment has it.

    Args:
        serial: The device's name in adb.
    """
    lock = scratch.open_lock(SIMULATOR, serial.replace("/", "-"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return Claim(serial, lock)


def is_free(port: int) -> bool:
    """Return whether no process of this machine listens on a port.

    Args:
        port: The port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port of an ended process is free at once
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
