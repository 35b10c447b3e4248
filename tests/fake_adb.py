"""Stand-in for adb, which asks tests/fake_emulator.py on the console port of the device."""

import argparse
import socket
import sys
import time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("-P")
parser.add_argument("-s", default="")
parser.add_argument("command")
parser.add_argument("arguments", nargs=argparse.REMAINDER)
options = parser.parse_args()

if options.command in ("devices", "start-server", "kill-server", "version"):
    print("fake adb")
elif options.command == "logcat":
    time.sleep(1000)
elif options.command == "shell":
    try:
        with socket.create_connection(("127.0.0.1", int(options.s.partition("-")[2]))) as connection:
            connection.sendall(" ".join(options.arguments).encode())
            connection.shutdown(socket.SHUT_WR)
            sys.stdout.write(connection.makefile().read())
    except OSError:
        sys.exit(f"error: device '{options.s}' not found")
