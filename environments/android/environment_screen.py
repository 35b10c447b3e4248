"""The screen of another environment of pr2l, such as the web phone, for android_env's ScreenSimulator.

So the web phone's pixels, touches and rewards pass through the real API of android_env. Touches become gestures again:
a finger that moves is a swipe, one that stays for long is a long press. Python >= 3.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..common.screen_actions import ScreenAction, format
from .finger import Finger
from .gestures import KEYS

ACTIONS = {key: ScreenAction(action) for action, key in KEYS.items()}  # type: ignore[arg-type]


class EnvironmentScreen:
    """Screen of an environment whose actions are texts.

    Args:
        env: The environment.

    Attributes:
        reward: The rewards of the environment since they were last set to 0.
    """

    def __init__(self, env: Any) -> None:
        self._env, self.reward = env, 0.0
        self._finger, self._running = Finger(), False
        self._frame = np.zeros(env.observation_space["frame"].shape, np.uint8)

    def begin(self, seed: int) -> dict[str, Any]:
        """Begin an episode of the environment and return its info.

        Args:
            seed: The seed of the episode.
        """
        observation, info = self._env.reset(seed=seed)
        self._frame, self._finger, self.reward, self._running = observation["frame"], Finger(), 0.0, True
        return dict(info)

    def act(self, action: ScreenAction) -> None:
        """Take an action in the environment; nothing happens after the end of an episode.

        Args:
            action: The action.
        """
        if self._running:
            observation, reward, terminated, truncated, _ = self._env.step(format(action))
            self._frame, self._running = observation["frame"], not (terminated or truncated)
            self.reward += reward

    def screenshot(self) -> np.ndarray:
        """Return the last frame of the environment."""
        return self._frame

    def touch(self, x: int, y: int, down: bool) -> None:
        """Move the finger; when it leaves the screen, take the action of its gesture.

        Args:
            x: Column of the pixel.
            y: Row of the pixel.
            down: Whether the finger touches the screen.
        """
        action = self._finger.move(x, y, down, self._frame.shape[1], self._frame.shape[0])
        if action is not None:
            self.act(action)

    def wait(self, seconds: float) -> None:
        """Let time pass for a finger that touches the screen; the time of the environment passes in its steps.

        Args:
            seconds: The time.
        """
        self._finger.wait(seconds)

    def press(self, key: str) -> None:
        """Press the back, home or enter key; other keys do nothing.

        Args:
            key: Its name in Android.
        """
        if key in ACTIONS:
            self.act(ACTIONS[key])

    def type(self, text: str) -> None:
        """Type a text."""
        self.act(ScreenAction("type", text=text))


class EnvironmentTask:
    """Source of episodes of an environment behind an EnvironmentScreen.

    Args:
        screen: The screen.
        limit: Function that returns the step limit of the episode that has begun.
    """

    def __init__(self, screen: EnvironmentScreen, limit: Callable[[], int]) -> None:
        self._screen, self._limit = screen, limit

    def begin(self, seed: int) -> tuple[str, int]:
        """Begin the environment's episode of a seed and return its instruction and its step limit.

        Args:
            seed: The seed of the episode.
        """
        return self._screen.begin(seed)["context"]["goal"], self._limit()

    def score(self, end: ScreenAction | None) -> float:
        """Return the environment's reward for the step.

        Args:
            end: The action with which the agent has declared the end; None = it has not.
        """
        if end is not None:
            self._screen.act(end)
        reward, self._screen.reward = self._screen.reward, 0.0
        return reward

    def end(self) -> None:
        """Do nothing: the next episode begins anew."""
