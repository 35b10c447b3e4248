"""Stand-in for adb, which asks tests/fake_emulator.py on the console port of the device."""

import argparse
import base64
import socket
import sys
import time
from contextlib import suppress

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("-P")
parser.add_argument("-s", default="")
parser.add_argument("command")
parser.add_argument("arguments", nargs=argparse.REMAINDER)
options = parser.parse_args()


def ask(serial, command):
    """Return the answer of a device."""
    with socket.create_connection(("127.0.0.1", int(serial.partition("-")[2]))) as connection:
        connection.sendall(command.encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read()


if options.command == "devices":
    print("List of devices attached")
    for port in range(5554, 5586, 2):
        with suppress(OSError):
            booted = ask(f"emulator-{port}", "getprop sys.boot_completed")
            print(f"emulator-{port}", "device" if booted else "offline", sep="\t")
elif options.command in ("start-server", "kill-server", "version"):
    print("fake adb")
elif options.command == "logcat":
    time.sleep(1000)
elif options.command in ("shell", "exec-out"):
    try:
        answer = ask(options.s, " ".join(options.arguments))
        if options.command == "exec-out":  # a picture
            sys.stdout.buffer.write(b"[Warning] Multiple displays were found\n" + base64.b64decode(answer))
        else:
            sys.stdout.write(answer)
    except OSError:
        sys.exit(f"error: device '{options.s}' not found")
