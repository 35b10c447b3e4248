"""An Android phone in the interpreter of its simulator, which environment.py starts; Python >= 3.10.

The phone is an emulator that this process starts and ends, or one that the user runs (see host.py). Tasks come from a
source of episodes: AndroidWorld (android_world.py) or a list of instructions (instructions.py).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..base import UserError
from ..common.screen_actions import MalformedAction, ScreenAction, find, parse
from . import mobilegym
from .checks import checks
from .device import Device
from .gestures import untypable
from .host import Host, start
from .instructions import Instructions, read, split_lists
from .tasks import INSTRUCTIONS, MOBILEGYM, TASKS

__all__ = ["Phone", "Source", "checks", "make"]

SPLITS = ("train", "evaluation")
ENDS = ("complete", "impossible", "answer")  # actions with which an agent declares the end of an episode
LONGEST_ACTION = 1024  # characters of an action
CHARACTERS = "".join(map(chr, [*range(32, 127), *range(160, 256)]))  # those of samples of the action space


class Control(Protocol):
    """What performs actions on a phone and returns its screens, such as Device."""

    def reset(self) -> None:
        """Prepare the phone for an episode."""

    def perform(self, action: ScreenAction) -> None:
        """Perform an action; those that declare the end may do nothing."""

    def frame(self) -> np.ndarray:
        """Return the screen, uint8 [H, W, 3]."""

    def load_snapshot(self, name: str) -> None:
        """Restore a snapshot of the phone."""

    def close(self) -> None:
        """Release the phone."""


class Source(Protocol):
    """Source of episodes: their instructions and their scores."""

    def begin(self, seed: int) -> tuple[str, int]:
        """Begin the episode of a seed and return its instruction and its step limit."""

    def score(self, end: ScreenAction | None) -> float:
        """Return the score in 0..1 after a step; more than 0 ends the episode.

        Args:
            end: The action of ENDS with which the agent has declared the end; None = it has not.
        """

    def end(self) -> None:
        """Clean up after the episode, if there is one."""


def make(task: str, options: dict[str, Any], *, split: str, labels: bool) -> Phone:
    """Make the environment of a task, and start its phone.

    Args:
        task: A key of TASKS.
        options: The options of environment.py's Defaults.
        split: "train" or "evaluation".
        labels: Whether `info` has the elements of the screen.

    Raises:
        UserError: If the split or an option is wrong, or a program of the Android SDK is missing.
        ImportError: If the task needs AndroidWorld, which is not installed.
    """
    if split not in SPLITS:
        raise UserError(f"{split!r} is not a split: {' or '.join(SPLITS)}")
    size = (int(options["frame_size"][0]), int(options["frame_size"][1]))
    if task == MOBILEGYM:
        mobilegym.find(options["mobilegym"])
        gym = mobilegym.MobileGym(options["server"], options["task_id"], split, size, options["horizon"])
        return Phone(gym, gym, size)
    if task != INSTRUCTIONS:
        import android_world  # noqa: F401  # fail before the phone is started
    lists = _lists(options) if task == INSTRUCTIONS else {}
    host = start(options)
    try:
        device = Device(host.env, size, settle=options["settle"], wait=host.wait)
        source = _source(task, host, options, split, lists)
        return Phone(device, source, size, host=host, labels=labels, snapshot=options["snapshot"] if lists else "")
    except BaseException:
        host.close()
        raise


def _lists(options: dict[str, Any]) -> dict[str, list[str]]:
    """Return the instructions by split."""
    evaluation = read(options["evaluation_instructions"]) if options["evaluation_instructions"] else None
    return split_lists(read(options["instructions"]), evaluation, overlap=options["overlap"])


def _source(task: str, host: Host, options: dict[str, Any], split: str, lists: dict[str, list[str]]) -> Source:
    if task == INSTRUCTIONS:
        return Instructions(lists[split], options["horizon"] or TASKS[task].horizon)
    from .android_world import AndroidWorld, connect

    return AndroidWorld(task, split, options["horizon"], connect(host.env, options["elements"]))


class Phone:
    """Environment with one phone, whose actions are texts (see common/screen_actions.py).

    `info` has `context` ("goal", the instruction), `success`, `measures` and, with labels=True, `labels`. The measures
    are malformed_actions (texts that could not be read and did nothing) and untypable_characters (those that Android's
    `input text` cannot type). The reward is the score of the source. It is read within each step, so it cannot arrive
    in a later step or episode, as rewards in Android's log can.

    Args:
        device: The phone.
        source: The source of the episodes.
        size: Height and width of the frames in pixels.
        host: What runs the phone, to check and close it; None = nothing.
        labels: Whether `info` has `labels`; the source then has `labels()`.
        snapshot: Name of the emulator's snapshot to restore before each episode; "" = go to the home screen instead.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}

    def __init__(
        self,
        device: Control,
        source: Source,
        size: tuple[int, int],
        *,
        host: Host | None = None,
        labels: bool = False,
        snapshot: str = "",
    ) -> None:
        self._device, self._source, self._host = device, source, host
        self._labels, self._size, self._snapshot = labels, size, snapshot
        self.observation_space = {
            "frame": {"type": "Box", "low": 0, "high": 255, "shape": [*size, 3], "dtype": "uint8"}
        }
        lengths = {"min_length": 0, "max_length": LONGEST_ACTION}
        self.action_space = {"type": "Text", **lengths, "characters": CHARACTERS}

    def reset(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode of a seed.

        Args:
            seed: The seed of the episode; it determines the instruction, but not everything that Android does.

        Returns:
            The observation, {"frame": uint8 [H, W, 3]}, and the info.

        Raises:
            RuntimeError: If the phone does not answer; it must be started again.
        """
        if self._host is not None:
            self._host.check()
        self._source.end()
        if self._snapshot:
            self._device.load_snapshot(self._snapshot)
        self._device.reset()
        self._device.perform(ScreenAction("home"))
        self._goal, self._limit = self._source.begin(seed)
        self._steps, self._score = 0, 0.0
        self._measures = {"malformed_actions": 0, "untypable_characters": 0}
        return self._observation(), self._info()

    def step(self, action: str) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Perform an action.

        Args:
            action: A text whose last action is performed; a text without one does nothing.

        Returns:
            Observation, reward, terminated, truncated and info. The episode terminates when the agent declares the end
            or the source gives a score, and is truncated at the step limit.

        Raises:
            RuntimeError: If the phone does not answer; it must be started again.
        """
        self._steps += 1
        end = self._perform(action)
        observation = self._observation()  # waits for a still screen, so that apps have stored what was entered
        self._score = self._source.score(end)
        terminated = end is not None or self._score > 0
        truncated = self._steps >= self._limit and not terminated
        return observation, self._score, terminated, truncated, self._info()

    def call(self, name: str, *arguments: Any) -> Any:
        """Refuse every call, because this environment has no other methods.

        Args:
            name: Name of the method, for the error message.
            arguments: Not used.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{name!r} is not a method of an Android phone, which has no oracle")

    def close(self) -> None:
        """Clean up after the last episode, and end the phone if it was started here."""
        try:
            self._source.end()
            self._device.close()
        finally:
            if self._host is not None:
                self._host.close()

    def _perform(self, text: str) -> ScreenAction | None:
        """Perform an action, and return it if it declares the end of the episode."""
        try:
            action = parse(find(text))
        except MalformedAction:
            self._measures["malformed_actions"] += 1
            return None
        if action.type == "type":
            self._measures["untypable_characters"] += untypable(action.text or "")
        self._device.perform(action)
        return action if action.type in ENDS else None

    def _observation(self) -> dict[str, np.ndarray]:
        return {"frame": self._device.frame()}

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "context": {"goal": self._goal},
            "success": self._score > 0.5,  # as AndroidWorld reports tasks of several parts
            "measures": {name: float(value) for name, value in self._measures.items()},
        }
        return {**info, "labels": self._elements()} if self._labels else info

    def _elements(self) -> list[dict[str, Any]]:
        """Return the labels with boxes in pixels of the frame, as integers."""
        height, width = self._size
        elements: list[dict[str, Any]] = self._source.labels()  # type: ignore[attr-defined]
        sides = (width, height, width, height)
        for element in elements:
            element["box"] = tuple(round(part * side) for part, side in zip(element["box"], sides, strict=True))
        return elements
