"""Processes, ports and command lines of Android emulators, with tests/fake_emulator.py as the emulator."""

import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from fake_sdk import adb_shell, write_sdk
from processes import TIMEOUT

from pr2l.environments.android import emulator as emulators
from pr2l.environments.android import slots
from pr2l.environments.android.emulator import Emulator, EmulatorFailed, Sdk, emulator_command, find_sdk
from pr2l.environments.android.slots import Slot

FREE = Slot(9)  # away from an emulator that a developer may be running


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def sdk(tmp_path):
    """Folder of an Android SDK with the stand-ins for `emulator` and `adb`."""
    write_sdk(tmp_path)
    return find_sdk(str(tmp_path))


@pytest.fixture
def emulator(sdk, tmp_path, monkeypatch):
    """emulator(*arguments, slot=..., boot=...) -> an Emulator, not started."""
    monkeypatch.setattr(emulators, "POLL", 0.05)
    monkeypatch.setattr(emulators, "GRACE", 1.0)
    started = []

    def create(*arguments, slot=FREE, boot=float(TIMEOUT)):
        command = emulator_command(sdk, "pixel", slot, more=arguments)
        started.append(Emulator(sdk, slot, command, tmp_path / f"{slot.serial}.log", boot))
        return started[-1]

    yield create
    for one in started:
        one.stop()


def ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def wait_until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def healthy(emulator):
    return emulator.running and emulators.has_booted(emulator._sdk, emulator.slot.serial)


def test_command_line_of_an_emulator():
    sdk = Sdk("/sdk/emulator/emulator", "/sdk/platform-tools/adb")
    assert " ".join(emulator_command(sdk, "Pixel_6", Slot(0))) == (
        "/sdk/emulator/emulator -avd Pixel_6 -read-only -no-snapshot-save -no-snapshot-load -port 5554 -grpc 8554 "
        "-no-audio -no-boot-anim -no-window"
    )
    command = emulator_command(sdk, "Pixel_6", Slot(3), snapshot="clean", window=True, more=("-gpu", "host"))
    assert " ".join(command) == (
        "/sdk/emulator/emulator -avd Pixel_6 -read-only -no-snapshot-save -snapshot clean -port 5560 -grpc 8557 "
        "-no-audio -no-boot-anim -gpu host"
    )
    shell = emulators.adb_command(sdk, Slot(3).serial, "shell", "ls")
    assert " ".join(shell) == "/sdk/platform-tools/adb -s emulator-5560 shell ls"


def test_ports_of_all_slots_differ():
    assert slots.Slot(1).ports == (5556, 5557, 8555)
    ports = [port for number in range(slots.MOST) for port in Slot(number).ports]
    assert len(set(ports)) == 3 * slots.MOST == 48
    assert max(Slot(number).adb for number in range(slots.MOST)) == 5585  # the last one at which adb looks


@pytest.mark.parametrize("console", [5553, 5555, 5586, 0])
def test_port_without_a_slot_is_refused(console):
    with pytest.raises(ValueError, match="even numbers from 5554 to 5584"):
        slots.slot_of(console)
    assert slots.slot_of(5584) == Slot(15)


def test_sdk_is_found_in_its_folder_or_refused(sdk, tmp_path, monkeypatch):
    assert sdk == Sdk(str(tmp_path / "emulator/emulator"), str(tmp_path / "platform-tools/adb"))
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert find_sdk() == sdk
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"there is no `emulator` in .*environment_options.sdk"):
        find_sdk(str(tmp_path / "empty"))
    (tmp_path / "emulator/emulator").unlink()
    assert find_sdk(emulator=False) == Sdk("", sdk.adb)


def test_claims_skip_slots_in_use_and_busy_ports(monkeypatch):
    busy = {Slot(1).grpc}
    monkeypatch.setattr(slots, "is_free", lambda port: port not in busy)
    claims = [slots.claim_free() for _ in range(3)]
    assert [slot.number for slot, _ in claims] == [0, 2, 3]
    claims[1][1].release()
    assert slots.claim_free()[0] == Slot(2)
    busy.update(Slot(number).console for number in range(slots.MOST))
    with pytest.raises(ValueError, match="all 16 emulators"):
        slots.claim_free()


def test_running_emulators_are_claimed_once(emulator):
    with pytest.raises(ValueError, match=r"emulator-5572 does not listen on port 5572.*-port 5572 -grpc 8563"):
        slots.claim_running((FREE.console,))
    emulator().start()
    slot, claim = slots.claim_running((FREE.console,))
    assert slot == FREE and claim.serial == "emulator-5572"
    with pytest.raises(ValueError, match="all in use"):
        slots.claim_running((FREE.console,))
    claim.release()
    slots.claim_running((FREE.console,))[1].release()


def test_claim_ends_with_its_process(tmp_path):
    code = (
        f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
        "from pr2l.environments.android import slots\n"
        "claim = slots.try_claim('emulator-5572'); print(claim is not None, flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    assert slots.try_claim(FREE.serial) is None
    holder.kill()
    holder.communicate()
    slots.try_claim(FREE.serial).release()


def test_emulator_boots_and_ends(emulator):
    one = emulator("--boot", "0.5")
    assert not healthy(one)
    began = time.monotonic()
    one.start()
    assert time.monotonic() - began > 0.5
    assert healthy(one)
    assert not any(map(slots.is_free, FREE.ports))
    one.stop()
    assert not healthy(one) and all(map(slots.is_free, FREE.ports))


def test_two_emulators_run_side_by_side(emulator):
    one, two = emulator(slot=Slot(9)), emulator(slot=Slot(10))
    one.start()
    two.start()
    one.stop()
    assert healthy(two) and not healthy(one)


def test_taken_port_is_reported(emulator, monkeypatch):
    emulator().start()
    second, reaches_first = emulator(), emulators.has_booted
    monkeypatch.setattr(emulators, "has_booted", lambda *where: time.sleep(2) or reaches_first(*where))
    with pytest.raises(EmulatorFailed, match=r"(?s)emulator-5572 ended with exit code 1; .*another process uses port"):
        second.start()


def test_emulator_that_does_not_boot_is_ended(emulator):
    slow = emulator("--boot", "1000", boot=1.0)
    with pytest.raises(EmulatorFailed, match=r"has not booted after 1 s; it was started by .*-avd pixel.*\nfake emul"):
        slow.start()
    assert all(map(slots.is_free, FREE.ports))


def test_emulator_that_ends_at_once_is_reported_with_its_message(emulator):
    with pytest.raises(EmulatorFailed, match=r"(?s)ended with exit code 1.*PANIC: Cannot find AVD system path"):
        emulator("--fault", "exit").start()


@pytest.mark.parametrize("fault", ["hang", "crash"])
def test_emulator_that_hangs_or_crashes_is_replaced(fault, emulator, monkeypatch):
    monkeypatch.setattr(emulators, "ASK", 1.0)
    one = emulator()
    one.start()
    assert healthy(one)
    with suppress(subprocess.CalledProcessError):  # the emulator crashes before it answers
        adb_shell(FREE, fault)
    assert wait_until(lambda: not healthy(one))
    one.start()
    assert healthy(one)


def test_nothing_is_left_of_an_emulator_that_ignores_signals(emulator, tmp_path):
    one = emulator("--fault", "stubborn")
    one.start()
    log = tmp_path / f"{FREE.serial}.log"
    assert wait_until(lambda: log.read_text().endswith("ready\n"))
    child = int(log.read_text().split("child")[1].split()[0])
    assert not ended(child)
    one.stop()
    assert wait_until(lambda: ended(child)) and all(map(slots.is_free, FREE.ports))
