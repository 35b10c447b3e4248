"""Remote environment with simple frames and rewards, which can fail in several ways.

The pixels of a frame are seed + step, the reward is action (or the length of a text) + step / 10, and the episode ends
at step `horizon`. The failure `fail` happens at step `at` of episodes with the seed `on` (None = all).
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np

from environments.base import UserError

HERE = os.path.dirname(os.path.abspath(__file__))


def make(task, options, *, split, labels):
    if task == "absent":
        raise ImportError("No module named 'simulator'")
    if task != "count":
        raise UserError(f"{task!r} is not a task of remote_world: count")
    if options.get("fail") == "make":
        raise RuntimeError("no engine")
    if options.get("fail") == "make_value":
        raise ValueError("no value")
    return Count(labels=labels, split=split, **options)


def checks(options):
    yield "numbers", True, "0 to 9", ""
    print("output of a simulator")
    yield "engine", options.get("engine", False), "none", "build the engine"


class Count:
    def __init__(
        self, *, split, labels, size=8, horizon=5, fail=None, at=3, on=None, kinds=1, words=False, meet=(), engine=True
    ):
        self.labels, self.split, self.horizon = labels, split, horizon
        self.fail, self.at, self.on = fail, at, on
        self.size, self.memory, self.child, self.meet = size, [], None, meet
        self.metadata = {"render_fps": 7}
        self.observation_space = {
            "frame": {"type": "Box", "low": 0, "high": 255, "shape": [size, size, 3], "dtype": "uint8"},
            "proprio": {"type": "Box", "low": 0.0, "high": 1.0, "shape": [2], "dtype": "float32"},
        }
        several = {"type": "MultiDiscrete", "nvec": [4] * kinds}
        self.action_space = {"type": "Discrete", "n": 4} if kinds == 1 else several
        if words:
            self.action_space = {"type": "Text", "min_length": 0, "max_length": 80, "characters": "abc"}

    def reset(self, seed):
        self.seed, self.steps = seed, 0
        if self.fail == "reset":
            os._exit(3)
        return self._observation(), self._info()

    def step(self, action):
        self.steps += 1
        if self.meet and self.steps == 1:
            self.call("wait", *self.meet)
        if self.steps == self.at and self.on in (None, self.seed):
            getattr(self, f"fail_{self.fail}", int)()
        value = len(action) if isinstance(action, str) else float(np.sum(action))
        reward = value + self.steps / 10
        return self._observation(), reward, self.steps == self.horizon, False, self._info()

    def call(self, name, *arguments):
        if name == "pids":
            return [os.getpid(), os.getppid()]
        if name == "spawn":  # as MineDojo starts Minecraft
            command = [sys.executable, "-c", "import time; time.sleep(1000)"]
            self.child = subprocess.Popen(command, start_new_session=True)
            return self.child.pid
        if name == "path":
            return sys.path, sys.version_info[:2], os.environ.get("FAR_WORLD")
        if name == "oracle_action":
            return self.seed % 4
        if name == "wait":  # creates the first file and waits for the second
            called, resume = arguments
            open(called, "w").close()
            while not os.path.exists(resume):
                time.sleep(0.02)
            return "waited"
        if name == "fail":
            return getattr(self, f"fail_{arguments[0]}")()
        raise UserError(f"remote_world has no {name!r}")

    def close(self):
        print("closed")

    def fail_kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def fail_error(self):
        print("output of the engine", file=sys.stderr)
        raise RuntimeError("the engine has failed")

    def fail_value(self):
        raise ValueError("the engine's value is wrong")

    def fail_stop(self):
        os.kill(os.getpid(), signal.SIGSTOP)

    def fail_loop(self):
        while True:
            pass

    def fail_sleep(self):
        time.sleep(1000)

    def fail_shape(self):
        self.size += 1

    def fail_nonsense(self):
        os.write(int(sys.argv[1]), b"Segmentation fault\n")  # into the socket

    def fail_grow(self):
        self.memory.append(np.ones(200 << 20, np.uint8))

    def _observation(self):
        frame = np.full((self.size, self.size, 3), (self.seed + self.steps) % 256, np.uint8)
        return {"frame": frame, "proprio": np.array([self.steps / 10, self.split == "train"], np.float32)}

    def _info(self):
        info = {"context": {"target": "one"}, "success": self.steps == self.horizon}
        if self.labels:
            segmentation = np.arange(self.size**2, dtype=np.uint8).reshape(self.size, self.size)
            info["labels"] = [{"name": "one", "box": (0, 0, 1, 1), "distance": 0.1}]
            info["segmentation"] = segmentation
        return info
