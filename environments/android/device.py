"""A phone behind android_env: performs screen actions and returns screens; Python >= 3.10, android_env and Pillow.

All touches and screenshots go through `AndroidEnv.step`, so the same code serves an emulator and every other simulator
of android_env. Keys and texts go through adb, because android_env's key events need codes of the host's keyboard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..common.screen_actions import ScreenAction
from .gestures import KEYS, REPEAT, Touch, touches, typing_commands

INTERVAL = 0.25  # seconds between two screenshots, while the screen changes
STILL = 0.001  # share of pixels that may change in a still screen, such as a blinking cursor


class DeviceLost(RuntimeError):
    """Error of a phone that does not answer; it must be started again."""


def load(simulator: Any, task: Any = None) -> Any:
    """Return the AndroidEnv of a simulator.

    Args:
        simulator: A BaseSimulator of android_env.
        task: android_env's Task message; None = no set-up steps, no reward and no end of an episode.
    """
    from android_env import environment
    from android_env.components import (
        config_classes,
        coordinator,
        device_settings,
        task_manager,
    )
    from android_env.proto import task_pb2

    # Nothing is drawn on the screen, and the bars of Android stay.
    screen = config_classes.DeviceSettingsConfig(
        show_touches=False, show_pointer_location=False, show_status_bar=True, show_navigation_bar=True
    )
    manager = task_manager.TaskManager(task if task is not None else task_pb2.Task())
    settings = device_settings.DeviceSettings(simulator)
    config = config_classes.CoordinatorConfig(device_settings=screen)
    parts = coordinator.Coordinator(simulator, manager, device_settings=settings, config=config)
    return environment.AndroidEnv(simulator=simulator, coordinator=parts, task_manager=manager)


class Device:
    """A phone behind an AndroidEnv.

    Args:
        env: The AndroidEnv.
        size: Height and width of the frames in pixels.
        settle: Longest time to wait for a still screen, in seconds; 0 = take the screen as it is.
        wait: Function that lets a number of seconds pass on the phone.
    """

    def __init__(
        self, env: Any, size: tuple[int, int], *, settle: float, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._env, self._size, self._settle, self._wait = env, size, settle, wait

    def reset(self) -> None:
        """Begin an episode of the AndroidEnv.

        Raises:
            DeviceLost: If the phone does not answer.
        """
        if not self._env.reset().observation:
            raise DeviceLost("the phone gave no screen after a reset")

    def perform(self, action: ScreenAction) -> None:
        """Perform a tap, long press, swipe, type, back, home or enter; other actions do nothing.

        Args:
            action: The action.

        Raises:
            DeviceLost: If the phone does not answer.
        """
        for touch in touches(action):
            self._touch(touch)
            self._wait(touch.seconds)
        if action.type in KEYS:
            self.shell("input", "keyevent", KEYS[action.type])
        if action.type == "type":
            for command in typing_commands(action.text or ""):
                self.shell(*command)

    def frame(self) -> np.ndarray:
        """Wait until the screen is still, or for `settle` seconds, and return the screen, uint8 [H, W, 3].

        Raises:
            DeviceLost: If the phone does not answer.
        """
        screen, waited = self._screen(), 0.0
        while waited < self._settle:
            self._wait(INTERVAL)
            before, screen, waited = screen, self._screen(), waited + INTERVAL
            if before.shape == screen.shape and (before != screen).any(axis=2).mean() <= STILL:
                break
        return resize(screen, self._size)

    def shell(self, *arguments: str) -> bytes:
        """Run a command on the phone and return its output.

        Args:
            arguments: The words of the command, quoted for a shell where necessary.

        Raises:
            DeviceLost: If adb fails.
        """
        from android_env.components import errors
        from android_env.proto import adb_pb2

        request = adb_pb2.AdbRequest(generic=adb_pb2.AdbRequest.GenericRequest(args=["shell", *arguments]))
        try:
            response = self._env.execute_adb_call(request)
        except errors.AdbControllerError as error:
            raise DeviceLost(str(error)) from error
        if response.status != adb_pb2.AdbResponse.OK:
            raise DeviceLost(f"adb failed in {' '.join(arguments)[:80]!r}: {response.error_message}")
        return bytes(response.generic.output)

    def load_snapshot(self, name: str) -> None:
        """Restore a snapshot of the emulator.

        Args:
            name: The name of the snapshot.

        Raises:
            DeviceLost: If the emulator has no such snapshot, or cannot load it.
        """
        from android_env.proto import state_pb2

        response = self._env.load_state(state_pb2.LoadStateRequest(args={"snapshot_name": name}))
        status = state_pb2.LoadStateResponse.Status
        if response.status != status.OK:
            raise DeviceLost(f"snapshot {name!r}: {status.Name(response.status)} {response.error_message}")

    def close(self) -> None:
        """Close the AndroidEnv."""
        self._env.close()

    def _screen(self) -> np.ndarray:
        return np.asarray(self._touch(Touch(REPEAT, 0.0, 0.0)))

    def _touch(self, touch: Touch) -> Any:
        """Step the AndroidEnv and return the pixels that it observes."""
        action = {
            "action_type": np.array(touch.type, np.int32),
            "touch_position": np.array([touch.x, touch.y], np.float32),
        }
        step = self._env.step(action)
        if step.last() or not step.observation:
            raise DeviceLost("the phone took no touch, or gave no screen")
        return step.observation["pixels"]


def resize(screen: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return a screen in another size, each pixel the mean of those that it covers.

    Args:
        screen: uint8 [H, W, 3].
        size: The new height and width.
    """
    from PIL import Image

    if screen.shape[:2] == tuple(size):
        return np.array(screen[..., :3])
    image = Image.fromarray(np.ascontiguousarray(screen[..., :3]))
    return np.array(image.resize((size[1], size[0]), Image.Resampling.BOX))
