"""Checks of what an Android phone needs, for `pr2l sim check`; Python >= 3.10."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..base import UserError
from .emulator import EmulatorFailed, Sdk, find_sdk, list_avds

Link = tuple[str, bool, str, str]  # (part, whether it works, what was found, the next step if it does not work)

ANDROID_WORLD = "git+https://github.com/google-research/android_world@d9c569f764b3a5629321858de03ff653d0f24056"
KVM = "/dev/kvm"
TASKS = 116  # of AndroidWorld


def checks(options: dict[str, Any]) -> Iterator[Link]:
    """Yield the parts in the order of their dependencies; the later ones are left out if a part is missing.

    Args:
        options: The options of the recipe; android_world = whether AndroidWorld is needed; with "mobilegym", only what
            MobileGym needs is checked.
    """
    if "mobilegym" in options:
        yield _playwright()
        return
    for check in (_android_env, _android_world, _sdk, _devices, _acceleration):
        link = check(options)
        if link is not None:
            yield link
            if not link[1]:
                return


def _android_env(options: dict[str, Any]) -> Link:
    """Check that android_env runs, with its fake simulator."""
    reinstall = f"run `pr2l sim install {'android-world' if options.get('android_world') else 'android'}` again"
    try:
        from android_env.components import config_classes
        from android_env.components.simulators.fake import fake_simulator

        from .device import Device, load

        config = config_classes.FakeSimulatorConfig(screen_dimensions=(64, 36))
        device = Device(load(fake_simulator.FakeSimulator(config)), (64, 36), settle=0.0)
        device.reset()
        shape = device.frame().shape
        device.close()
    except Exception as error:  # whatever the imports of grpc and protobuf may raise
        return "android_env", False, f"{type(error).__name__}: {error}", reinstall
    return "android_env", True, f"{version('android-env')}, screens {shape} from its fake simulator", ""


def _playwright() -> Link:
    """Check that Playwright has its browser, which MobileGym's package uses."""
    playwright = Path(sys.executable).with_name("playwright")
    try:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as driver:
            browser = Path(driver.chromium.executable_path)
    except Exception as error:
        return "Playwright", False, f"{type(error).__name__}: {error}", "run `pr2l sim install mobilegym` again"
    return "Playwright with Chromium", browser.exists(), str(browser), f"run `{playwright} install chromium`"


def _android_world(options: dict[str, Any]) -> Link | None:
    if not options.get("android_world"):
        return None
    step = f"with a connection to github.com, run `{sys.executable} -m pip install {ANDROID_WORLD}`"
    try:
        from android_world import registry

        count = len(registry.TaskRegistry().get_registry("android_world"))
    except Exception as error:
        return "AndroidWorld", False, f"{type(error).__name__}: {error}", step
    return "AndroidWorld", count == TASKS, f"{count} tasks", step


def _sdk(options: dict[str, Any]) -> Link:
    try:
        sdk = find_sdk(options.get("sdk"))
    except UserError as error:
        return "Android SDK", False, "no", str(error)
    return "Android SDK", True, f"{sdk.emulator}, {sdk.adb}", ""


def _devices(options: dict[str, Any]) -> Link:
    """Check that there is a virtual device."""
    sdk: Sdk = find_sdk(options.get("sdk"))
    step = (
        "make a virtual device in Android Studio, or with `avdmanager create avd`; AndroidWorld needs a Pixel 6 with "
        "API level 33, with its apps set up (docs/android.md)"
    )
    try:
        avds = list_avds(sdk)
    except EmulatorFailed as error:
        return "virtual devices", False, str(error), f"repair {sdk.emulator}"
    return "virtual devices", bool(avds), ", ".join(avds) or "none", step


def _acceleration(options: dict[str, Any]) -> Link:
    """Check that the processor can run the virtual device; without that Android takes minutes to boot."""
    sdk: Sdk = find_sdk(options.get("sdk"))
    try:
        done = subprocess.run([sdk.emulator, "-accel-check"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return "acceleration", False, str(error), f"repair {sdk.emulator}"
    found = " ".join((done.stdout + done.stderr).split())[-200:]
    step = "turn on virtualisation in the firmware of this machine"
    if sys.platform == "linux" and not os.access(KVM, os.R_OK | os.W_OK):
        step += f", and give this user access to {KVM} (`sudo adduser $USER kvm`)"
    return "acceleration", done.returncode == 0, found, step
