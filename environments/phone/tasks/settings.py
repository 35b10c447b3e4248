"""Tasks in the app Settings: switches, brightness and other values, each also as a task to check what is already so."""

from __future__ import annotations

from random import Random
from typing import Any, ClassVar

from .. import words
from ..state import Document
from ..template import Parameters, Template
from ..user import Actions, User

# Setting -> its page in the app Settings, and its control there.
CONTROLS = {
    "wifi": ("Network & internet", "Wi-Fi switch"),
    "bluetooth": ("Connected devices", "Bluetooth switch"),
    "brightness": ("Display", "Brightness slider"),
    "do_not_disturb": ("Sound & vibration", "Do not disturb switch"),
    "location": ("Location", "Location switch"),
}


class SettingsTask(Template):
    """Task that is done when settings have certain values.

    Attributes:
        values: The values at the goal.
    """

    apps = ("Settings",)
    values: ClassVar[dict[str, Any]]

    def prepare(self, state: Document, rng: Random) -> Parameters:
        for name, value in self.values.items():
            if isinstance(value, bool):
                state["settings"][name] = not value
        return {}

    def solve(self, state: Document) -> None:
        state["settings"].update(self.values)

    def script(self, user: User) -> Actions:
        for name, value in self.values.items():
            page, control = CONTROLS[name]
            yield from user.open("Settings")
            yield from user.tap(f"Settings/{page}")
            if isinstance(value, bool):
                yield from user.tap(f"Settings/{control}")
            else:
                yield from user.slide(f"Settings/{control}", value / 100)


class VerifyTask(SettingsTask):
    """Task to check a setting that has the right value already; the episode must end in the app Settings."""

    verify = True

    def prepare(self, state: Document, rng: Random) -> Parameters:
        state["settings"].update(self.values)
        return {}

    def solve(self, state: Document) -> None:
        state["screen"]["app"] = "Settings"

    def reached(self, state: Document) -> bool:
        return bool(state["screen"]["app"] == "Settings")

    def script(self, user: User) -> Actions:
        for name in self.values:
            yield from user.open("Settings")
            yield from user.tap(f"Settings/{CONTROLS[name][0]}")


class SystemWifiTurnOn(SettingsTask):
    """Turn Wi-Fi on."""

    text = "Turn Wi-Fi on"
    values = {"wifi": True}


class SystemWifiTurnOff(SettingsTask):
    """Turn Wi-Fi off."""

    text = "Turn Wi-Fi off"
    values = {"wifi": False}


class SystemWifiTurnOnVerify(VerifyTask):
    """Check that Wi-Fi is on."""

    text = "Make sure in Settings that Wi-Fi is on"
    values = {"wifi": True}


class SystemWifiTurnOffVerify(VerifyTask):
    """Check that Wi-Fi is off."""

    text = "Make sure in Settings that Wi-Fi is off"
    values = {"wifi": False}


class SystemBluetoothTurnOn(SettingsTask):
    """Turn Bluetooth on."""

    text = "Turn Bluetooth on"
    values = {"bluetooth": True}


class SystemBluetoothTurnOff(SettingsTask):
    """Turn Bluetooth off."""

    text = "Turn Bluetooth off"
    values = {"bluetooth": False}


class SystemBluetoothTurnOnVerify(VerifyTask):
    """Check that Bluetooth is on."""

    text = "Make sure in Settings that Bluetooth is on"
    values = {"bluetooth": True}


class SystemBluetoothTurnOffVerify(VerifyTask):
    """Check that Bluetooth is off."""

    text = "Make sure in Settings that Bluetooth is off"
    values = {"bluetooth": False}


class SystemBrightnessMax(SettingsTask):
    """Set the brightness to its maximum."""

    text = "Turn the brightness to the maximum"
    values = {"brightness": 100}
    complexity = 1.2


class SystemBrightnessMin(SettingsTask):
    """Set the brightness to its minimum."""

    text = "Turn the brightness to the minimum"
    values = {"brightness": 0}
    complexity = 1.2


class SystemBrightnessMaxVerify(VerifyTask):
    """Check that the brightness is at its maximum."""

    text = "Make sure in Settings that the brightness is at the maximum"
    values = {"brightness": 100}
    complexity = 1.2


class SystemBrightnessMinVerify(VerifyTask):
    """Check that the brightness is at its minimum."""

    text = "Make sure in Settings that the brightness is at the minimum"
    values = {"brightness": 0}
    complexity = 1.2


class TurnOffWifiAndTurnOnBluetooth(SettingsTask):
    """Switch from Wi-Fi to Bluetooth."""

    text = "Turn off Wi-Fi, then turn on Bluetooth"
    values = {"wifi": False, "bluetooth": True}
    complexity = 1.4


class SystemDoNotDisturbTurnOn(SettingsTask):
    """Turn Do not disturb on."""

    text = "Turn on Do not disturb"
    values = {"do_not_disturb": True}


class SystemLocationTurnOff(SettingsTask):
    """Turn location off."""

    text = "Stop apps from using my location"
    values = {"location": False}


class SystemSetScreenTimeout(Template):
    """Choose after what time the screen turns off."""

    text = "Let the screen turn off after {timeout}"
    apps = ("Settings",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        current = state["settings"]["screen_timeout"]
        return {
            "timeout": rng.choice([time for time in ("15 s", "30 s", "1 min", "5 min", "10 min") if time != current])
        }

    def solve(self, state: Document) -> None:
        state["settings"]["screen_timeout"] = self.params["timeout"]

    def script(self, user: User) -> Actions:
        yield from user.open("Settings")
        yield from user.tap("Settings/Display")
        yield from user.tap("Settings/Screen timeout")
        yield from user.tap(f"Settings/dialog/{self.params['timeout']}")


class SystemRenameDevice(Template):
    """Change the name of the phone."""

    text = "Change the name of this device to {name}"
    apps = ("Settings",)
    complexity = 1.4

    def prepare(self, state: Document, rng: Random) -> Parameters:
        current = state["settings"]["device_name"]
        return {"name": rng.choice([name for name in words.DEVICE_NAMES if name != current])}

    def solve(self, state: Document) -> None:
        state["settings"]["device_name"] = self.params["name"]

    def script(self, user: User) -> Actions:
        yield from user.open("Settings")
        yield from user.tap("Settings/About phone")
        yield from user.tap("Settings/Device name")
        yield from user.replace("Settings/Device name", self.params["name"])
        yield from user.tap("Settings/dialog/Save")
