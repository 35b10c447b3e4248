"""Folder of an Android SDK whose programs are tests/fake_emulator.py and tests/fake_adb.py."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

TESTS = Path(__file__).parent


def write_sdk(folder, python=sys.executable):
    """Write the programs `emulator` and `adb` into a folder.

    Args:
        folder: The folder, which gets subfolders.
        python: Interpreter of the emulator; with android_env, it has a gRPC server of its messages.
    """
    for path, script, interpreter in (
        ("emulator/emulator", "fake_emulator.py", python),
        ("platform-tools/adb", "fake_adb.py", sys.executable),
    ):
        program = Path(folder) / path
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {interpreter} {TESTS / script} "$@"\n')
        program.chmod(0o755)


def adb_shell(slot, *words):
    """Return the answer of an emulator to a command of `adb shell`."""
    command = [sys.executable, str(TESTS / "fake_adb.py"), "-s", slot.serial, "shell", *words]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def state_of(slot):
    """Return what an emulator has received: touches, typed, keys and hit."""
    return json.loads(adb_shell(slot, "state"))


def emulators():
    """Return the processes of all emulators."""
    processes = psutil.process_iter(["cmdline"])
    return [one for one in processes if "fake_emulator.py" in " ".join(one.info["cmdline"] or ())]
