"""Stand-in for the Android emulator: a process with the ports, the options and the faults of one.

    fake_emulator.py -avd NAME -port N -grpc N ... [--boot SECONDS] [--fault NAME]
    fake_emulator.py -list-avds | -accel-check

It answers tests/fake_adb.py on the console port; `adb shell hang` and `adb shell crash` make it fail. If android_env is
installed, its gRPC port gives screenshots and takes touches, as the emulator's does: the screen has a red target on
grey; a touch of the target turns the screen green.
"""

import argparse
import base64
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

WIDTH, HEIGHT = 90, 160
TARGET = (30, 40, 60, 70)  # left, top, right and bottom in pixels
GREY, RED, GREEN = (128, 128, 128), (255, 0, 0), (0, 255, 0)


class Device:
    """State of the device, and its answers to `adb shell`."""

    def __init__(self, boot):
        self.booted_at = time.monotonic() + boot
        self.hit, self.touches, self.typed, self.keys = False, [], "", []
        self.settings, self.hangs = {}, False

    def wait_if_hanging(self):
        while self.hangs:
            time.sleep(1)

    def restore(self):
        self.hit, self.touches, self.typed, self.keys = False, [], "", []

    def pixels(self):
        """Return the screen, uint8 [H, W, 3]."""
        import numpy as np

        pixels = np.full((HEIGHT, WIDTH, 3), GREEN if self.hit else GREY, np.uint8)
        left, top, right, bottom = TARGET
        pixels[top:bottom, left:right] = RED
        return pixels

    def touch(self, x, y, down):
        self.touches.append((x, y, down))
        left, top, right, bottom = TARGET
        self.hit |= bool(down) and left <= x < right and top <= y < bottom

    def shell(self, line):
        if 'echo "Does not exist"' in line:  # AndroidWorld's check for a file: there are none
            return "Does not exist"
        command = shlex.split(line)
        if command == ["getprop", "sys.boot_completed"]:
            return "1" if time.monotonic() >= self.booted_at else ""
        if command[:2] == ["input", "text"]:
            self.typed += command[2].replace("%s", " ")
        if command[:2] == ["input", "keyevent"]:
            self.keys.append(command[2])
        if command[:2] == ["settings", "put"]:
            self.settings["/".join(command[2:4])] = command[4]
        if command[:2] == ["settings", "get"]:
            return self.settings.get("/".join(command[2:4]), "null")
        if command[:1] == ["svc"]:
            self.settings[f"global/{command[1]}_on"] = str(int(command[2] == "enable"))
        if command[:2] in (["input", "tap"], ["input", "swipe"]):
            x, y, *to = map(int, command[2:])
            self.touch(x, y, 1)
            self.touch(*(to or (x, y))[:2], 0)
        if command[:1] == ["screencap"]:
            return base64.b64encode(png(self.pixels())).decode()
        if command == ["whoami"]:
            return "root"
        if command == ["dumpsys", "input"]:
            return "  SurfaceOrientation: 0"
        if command == ["state"]:  # for tests only
            return json.dumps({"touches": self.touches, "typed": self.typed, "keys": self.keys, "hit": self.hit})
        return ""


def png(pixels):
    """Return uint8 [H, W, 3] as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def listen(port):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
    except OSError:
        sys.exit(f"ERROR: another process uses port {port}")
    server.listen()
    return server


def answer(server, device):
    """Answer one command per connection, unless the device hangs."""
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream:
            command = stream.read()
            device.wait_if_hanging()
            if command == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            device.hangs = command == "hang"
            stream.write(device.shell(command))
            stream.flush()


def serve_grpc(port, device):
    from concurrent import futures

    import grpc
    import numpy as np
    from android_env.proto import (
        emulator_controller_pb2,
        emulator_controller_pb2_grpc,
        snapshot_service_pb2,
        snapshot_service_pb2_grpc,
    )
    from google.protobuf import empty_pb2

    class Controller(emulator_controller_pb2_grpc.EmulatorControllerServicer):
        def getStatus(self, request, context):
            return emulator_controller_pb2.EmulatorStatus(booted=True, uptime=1)

        def getScreenshot(self, request, context):
            device.wait_if_hanging()
            pixels = np.dstack([device.pixels(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
            size = emulator_controller_pb2.ImageFormat(width=WIDTH, height=HEIGHT)
            return emulator_controller_pb2.Image(format=size, image=pixels.tobytes())

        def sendTouch(self, request, context):
            device.wait_if_hanging()
            for touch in request.touches:
                device.touch(touch.x, touch.y, touch.pressure)
            return empty_pb2.Empty()

    class Snapshots(snapshot_service_pb2_grpc.SnapshotServiceServicer):
        def ListSnapshots(self, request, context):
            snapshot = snapshot_service_pb2.SnapshotDetails(snapshot_id="clean")
            return snapshot_service_pb2.SnapshotList(snapshots=[snapshot])

        def LoadSnapshot(self, request, context):
            device.restore()
            return snapshot_service_pb2.SnapshotPackage(success=True)

    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    emulator_controller_pb2_grpc.add_EmulatorControllerServicer_to_server(Controller(), server)
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(Snapshots(), server)
    server.add_secure_port(f"localhost:{port}", grpc.local_server_credentials())
    server.start()
    return server


def main():
    parser = argparse.ArgumentParser(prefix_chars="-", allow_abbrev=False)
    for name in ("-avd", "-snapshot", "--fault"):
        parser.add_argument(name)
    parser.add_argument("-port", type=int)
    parser.add_argument("-grpc", type=int)
    parser.add_argument("--boot", type=float, default=0.0)
    options, others = parser.parse_known_args()
    if others[:1] == ["-list-avds"]:
        print("INFO    | Storing crashdata in: /tmp/android, detection is enabled\npixel\ntablet")
        return
    if others[:1] == ["-accel-check"]:
        print("accel:\n0\nKVM (version 12) is installed and usable.")
        return
    print("fake emulator of", options.avd, "on", options.port, flush=True)
    if options.fault == "exit":
        sys.exit("PANIC: Cannot find AVD system path")
    servers = [listen(options.port), listen(options.port + 1)]
    device = Device(options.boot)
    try:
        servers.append(serve_grpc(options.grpc, device))
    except ImportError:
        servers.append(listen(options.grpc))
    threading.Thread(target=answer, args=(servers[0], device), daemon=True).start()
    if options.fault == "stubborn":  # ignores SIGTERM, and has a child that does
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
        print("child", subprocess.Popen([sys.executable, "-c", code]).pid, "ready", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
