"""Remote module for tests: android_env with a drawn screen as its phone, whose red target is to be touched.

The seed of the episode places the target. A touch of the target that ends there is a success; the reward is 1.
"""

import numpy as np

import __main__

__main__.make_packages("environments.android.remote")  # of worker.py, which does that for pr2l's own modules

from environments.android.checks import checks  # noqa: E402
from environments.android.device import Device, load  # noqa: E402
from environments.android.remote import Phone  # noqa: E402
from environments.android.screen_simulator import ScreenSimulator  # noqa: E402

__all__ = ["checks", "make"]

WIDTH, HEIGHT, SIDE = 90, 160, 20


class TargetScreen:
    """Screen with a target, a text that was typed, and the keys that were pressed."""

    def __init__(self):
        self.left = self.top = 0
        self.events, self.down_inside, self.hits, self.typed, self.keys = [], False, 0, "", []

    def place(self, seed):
        self.left, self.top = np.random.default_rng(seed).integers(0, [WIDTH - SIDE, HEIGHT - SIDE]).tolist()
        self.events, self.down_inside, self.hits, self.typed, self.keys = [], False, 0, "", []

    def screenshot(self):
        screen = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        screen[self.top : self.top + SIDE, self.left : self.left + SIDE] = (255, 0, 0)
        screen[:5, : len(self.typed)] = (0, 0, 255)
        return screen

    def touch(self, x, y, down):
        self.events.append((int(x), int(y), bool(down)))
        inside = self.left <= x < self.left + SIDE and self.top <= y < self.top + SIDE
        self.hits += self.down_inside and inside and not down
        self.down_inside = inside and bool(down)

    def press(self, key):
        self.keys.append(key)

    def type(self, text):
        self.typed += text


class TargetTask:
    """Source of episodes for a TargetScreen."""

    def __init__(self, screen, limit):
        self._screen, self._limit, self._seen = screen, limit, 0

    def begin(self, seed):
        self._screen.place(seed)
        self._seen = 0
        return f"touch the target {seed}", self._limit

    def score(self, end):
        new, self._seen = self._screen.hits - self._seen, self._screen.hits
        return float(new > 0)

    def end(self):
        pass


class TargetPhone(Phone):
    def __init__(self, screen, size, limit):
        self._screen = screen
        device = Device(load(ScreenSimulator(screen)), size, settle=0.0, wait=lambda seconds: None)
        super().__init__(device, TargetTask(screen, limit), size)

    def call(self, name, *arguments):
        if name == "screenshot":
            return self._screen.screenshot()
        return {"events": self._screen.events, "typed": self._screen.typed, "keys": self._screen.keys}


def make(task, options, *, split, labels):
    return TargetPhone(TargetScreen(), tuple(options.get("frame_size", (HEIGHT, WIDTH))), options.get("limit", 10))
