"""The environment contract, checked at the boundary between an environment and everything that learns from it.

    observation   Dict(frame uint8 [H, W, 3], proprio float32 [P] (optional), ...), of the space's shapes, finite
    step          observation, reward (a finite real number), terminated, truncated (bools), info
    info          "success" (a bool, after every step), "context" (dict of str to str, optional where no prompt slot
                  needs it), "measures" (dict of numbers, optional; NaN = undefined), "action" (the last action as a
                  text for people, optional), "labels" (a list of {name, box, distance}, if they were requested;
                  finite)
    draw_action   a method, optional: a frame and an action -> the frame with the action drawn on it, for videos

The checks take a few microseconds, so they run at every step. Observations and infos are copied after the checks, so
that an environment may reuse its arrays and its info.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any, Literal, NoReturn, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pr2l.core.errors import UserError, code_of, owner_of_object
from pr2l.core.frame_history import FrameHistory
from pr2l.core.types import Frame
from pr2l.environments.isolation.isolated import Isolated
from pr2l.rollout.watchdog import CallRecord

Observation = dict[str, np.ndarray]
Info = dict[str, Any]
BadValue = Literal["stop", "truncate"]

NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Spaces(Protocol):
    """Object with the spaces of an environment: an environment or a VecEnv."""

    @property
    def observation_space(self) -> spaces.Space[Any]: ...
    @property
    def action_space(self) -> spaces.Space[Any]: ...


class ContractError(UserError):
    """Violation of the contract by an environment.

    The message names the environment, the episode's seed, the step, the wrong value and the required one.
    """


class BadValueError(ContractError):
    """Violation by a NaN or an infinity in the reward, in a float part of the observation, or in a label's distance."""


class ContractCheck(gym.Wrapper[Observation, Any, Observation, Any]):
    """Wrapper that checks all values that an environment returns, and returns copies with plain Python numbers.

    Exceptions that the environment raises are not caught; they get a record of whose code it is.

    Args:
        env: The environment. The constructor checks its spaces.
        name: The environment's name in error messages; None = the name of its class.
        slots: Keys that `info["context"]` must have, such as the slots of a prompt.
        labels: Whether `info["labels"]` must be a list.
        success: Whether every step must return `info["success"]`.
        on_bad_value: How to handle a NaN or an infinity in a step. "stop" raises BadValueError; "truncate" ends the
            episode with the last valid observation, reward 0, truncated = True, `success` = False and the reason in
            `info["cut"]`.

    Attributes:
        cuts: The number of episodes that were ended by "truncate".
        calls: The record of the running call, for time limits. It is unused if the environment is `Isolated`, which
            has its own time limits.

    Raises:
        ContractError: If spaces, observation, reward or info violate the contract; from the constructor, `reset` or
            `step`.
    """

    def __init__(
        self,
        env: gym.Env[Observation, Any],
        name: str | None = None,
        *,
        slots: Collection[str] = (),
        labels: bool = False,
        success: bool = True,
        on_bad_value: BadValue = "stop",
    ) -> None:
        super().__init__(env)
        self.name = name or type(env.unwrapped).__name__
        self.cuts = 0
        self.calls = CallRecord()
        self._timed = not isinstance(env.unwrapped, Isolated)  # Isolated has its own time limits
        self._owner = owner_of_object(env.unwrapped, "environment")
        if isinstance(env.unwrapped, Isolated):
            self._owner = f"the simulator {env.unwrapped.name}"
        self._slots, self._labels, self._success, self._on_bad_value = tuple(slots), labels, success, on_bad_value
        self._seed: int | None = None
        self._step = 0  # number of the step in the episode; 0 = reset
        self._history = FrameHistory(1)
        check_spaces(env, self.name)
        assert isinstance(env.observation_space, spaces.Dict)
        self._kinds: dict[str, tuple[Any, Any]] = {
            key: (space.dtype, space.shape) for key, space in env.observation_space.spaces.items()
        }

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        self._seed, self._step = seed, 0
        timed = self.calls.during("reset", seed or 0) if self._timed else nullcontext()
        with code_of(self._owner), timed:
            result: Any = self.env.reset(seed=seed, options=options)
        if not _is_sequence_of(2, result):
            self._fail(f"reset returned {_of_length(result)}", "two values, (observation, info)")
        self._observation, info = self._check_observation(result[0]), self._check_info(result[1])
        self._info = dict(info)  # a copy, because callers add keys to theirs
        self._history.clear()
        self._add_history(self._observation, info)
        return self._observation, info

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish, if the environment offers `begin_step`.

        A wrapper between, which may change the action, has none; then the environment does all its work in `step`.

        Args:
            action: The action of the next `step`.
        """
        begin = getattr(self.env, "begin_step", None)
        if begin is not None:
            with code_of(self._owner):
                begin(action)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        self._step += 1
        timed = self.calls.during("step", self._seed or 0, self._step) if self._timed else nullcontext()
        with code_of(self._owner), timed:
            result: Any = self.env.step(action)
        if not _is_sequence_of(5, result):
            need = "five values, (observation, reward, terminated, truncated, info)"
            self._fail(f"step returned {_of_length(result)}", need)
        observation, reward, terminated, truncated, info = result
        try:
            observation, reward = self._check_observation(observation), self._check_reward(reward)
            info = self._check_info(info)
        except BadValueError as error:
            if self._on_bad_value == "stop":
                raise
            observation, reward, terminated, truncated, info = self._cut(str(error))
            self._add_history(observation, info)
            return observation, reward, terminated, truncated, info
        for key, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool | np.bool_):
                self._fail(f"{key} is {describe(value)}", "True or False", f"bool({key})")
        self._observation, self._info = observation, dict(info)
        self._add_history(observation, info)
        return observation, reward, bool(terminated), bool(truncated), info

    def keep_frames(self, count: int) -> None:
        """Add the last frames of the episode to each info, for encoders of several frames.

        From the next reset on, `info["frame_history"]` is uint8 [count, H, W, 3], the oldest frame first. At the start
        of an episode the first frame is repeated.

        Args:
            count: The number of frames; 1 = add no history.
        """
        self._history = FrameHistory(count)

    def draw_action(self, frame: Frame, action: Any) -> Frame:
        """Draw an action on the frame on which it is taken, with the environment's `draw_action` if it has one.

        Args:
            frame: uint8 [H, W, 3].
            action: An element of the action space.

        Returns:
            uint8 [H, W, 3]; the frame itself if the environment has no `draw_action`.

        Raises:
            ContractError: If the environment returns something else.
        """
        if not self.env.has_wrapper_attr("draw_action"):
            return frame
        with code_of(self._owner):
            drawn = self.env.get_wrapper_attr("draw_action")(frame.copy(), action)
        if not isinstance(drawn, np.ndarray) or drawn.dtype != np.uint8 or drawn.shape != frame.shape:
            self._fail(f"draw_action returned {describe(drawn)}", f"uint8 {list(frame.shape)}, as the frame")
        return np.array(drawn)

    def _add_history(self, observation: Observation, info: Info) -> None:
        if self._history.count > 1:
            info["frame_history"] = self._history.add(observation["frame"])

    def _check_observation(self, observation: Any) -> Observation:
        """Return a copy of a valid observation."""
        if not isinstance(observation, Mapping) or observation.keys() != self._kinds.keys():
            came = f"a dict of {sorted(observation)}" if isinstance(observation, Mapping) else describe(observation)
            self._fail(f"the observation is {came}", f"a dict with the keys {sorted(self._kinds)}")
        for key, (dtype, shape) in self._kinds.items():
            value = observation[key]
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
                self._fail(*_mismatch(key, value, np.dtype(dtype), shape or ()))
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                self._fail(f"{key} is {describe(value)}", "finite", error=BadValueError)
        return {key: np.array(observation[key]) for key in self._kinds}

    def _check_reward(self, reward: Any) -> float:
        number = reward[()] if isinstance(reward, np.ndarray) and reward.ndim == 0 else reward
        if not isinstance(number, NUMBERS):
            convert = "float(reward.item())" if hasattr(reward, "item") else "float(reward)"
            self._fail(f"the reward is {describe(reward)}", "a real number", convert)
        if not math.isfinite(number):
            self._fail(f"the reward is {number}", "finite", error=BadValueError)
        return float(number)

    def _check_info(self, info: Any) -> Info:
        """Return a copy of a valid info, with a context, and with `success` and measures as plain Python values."""
        if not isinstance(info, Mapping):
            self._fail(f"info is {describe(info)}", "a dict")
        copied = {key: _copied(value) for key, value in info.items()}
        copied["context"] = self._check_context(copied.get("context", {}))
        if "success" in copied:
            if not isinstance(copied["success"], bool | np.bool_):
                need = "True or False"
                self._fail(f"info['success'] is {describe(copied['success'])}", need, "bool(...) of your own condition")
            copied["success"] = bool(copied["success"])
        elif self._success and self._step:
            self._fail("info has no 'success'", "a bool in info['success'], after every step")
        if "measures" in copied:
            copied["measures"] = self._check_measures(copied["measures"])
        if self._labels:
            self._check_labels(copied)
        return copied

    def _check_labels(self, info: Info) -> None:
        if not isinstance(info.get("labels"), list):
            came = describe(info["labels"]) if "labels" in info else "missing"
            self._fail(f"info['labels'] is {came}", "a list of {name, box, distance}, which make(labels=True) asks for")
        for label in info["labels"]:
            distance = label.get("distance") if isinstance(label, Mapping) else None
            if isinstance(distance, NUMBERS) and not math.isfinite(distance):
                self._fail(
                    f"the distance of the label {label.get('name')!r} is {distance}", "finite", error=BadValueError
                )

    def _check_context(self, context: Any) -> dict[str, str]:
        texts = isinstance(context, dict) and all(isinstance(text, str) for pair in context.items() for text in pair)
        if not texts:
            need = "a dict of strings to strings, such as {'target': 'door'}"
            self._fail(f"info['context'] is {describe(context)}", need)
        missing = [slot for slot in self._slots if slot not in context]
        if missing:
            came = f"info['context'] has {', '.join(map(repr, context)) or 'nothing'}"
            self._fail(came, f"a string for {', '.join(map(repr, missing))}, which the prompt or `instruction` needs")
        return context

    def _check_measures(self, measures: Any) -> dict[str, float]:
        if not isinstance(measures, Mapping):
            self._fail(f"info['measures'] is {describe(measures)}", "a dict of numbers")
        for name, value in measures.items():
            number = value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
            if not isinstance(number, NUMBERS):
                self._fail(f"info['measures'][{name!r}] is {describe(value)}", "a number")
        return {str(name): float(value) for name, value in measures.items()}

    def _cut(self, reason: str) -> tuple[Observation, float, bool, bool, Info]:
        self.cuts += 1
        warnings.warn(f"the episode is cut: {reason}", stacklevel=3)
        observation = {key: value.copy() for key, value in self._observation.items()}
        return observation, 0.0, False, True, {**self._info, "success": False, "cut": reason}

    def _fail(self, came: str, need: str, convert: str = "", error: type[ContractError] = ContractError) -> NoReturn:
        moment = f"step {self._step}" if self._step else "reset"
        hint = f" Convert it in the environment: {convert}" if convert else ""
        raise error(f"{self.name}, episode seed {self._seed}, {moment}: {came}; it must be {need}.{hint}")


def check_spaces(env: Spaces, name: str) -> None:
    """Check that the spaces of an environment satisfy the contract.

    Args:
        env: The environment, or a VecEnv.
        name: The environment's name in error messages.

    Raises:
        ContractError: If the frame is not uint8 [H, W, 3], the proprio is not float32 [P], or a part of the action
            space has a nonzero `start`.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or "frame" not in space.spaces:
        raise ContractError(
            f"{name}: its observation space is {space}; it must be Dict(frame=Box(0, 255, (H, W, 3), np.uint8)), "
            "optionally with proprio=Box(..., (P,), np.float32). For environments with other observations, use "
            "pr2l.rollout.embed_env"
        )
    frame = space["frame"]
    if not isinstance(frame, spaces.Box) or frame.dtype != np.uint8 or len(frame.shape) != 3 or frame.shape[2] != 3:
        convert = _conversion(frame.dtype, frame.shape, _height_and_width(frame.shape)) if frame.shape else ""
        hint = f" Convert frames in the environment: {convert}" if convert else ""
        raise ContractError(
            f"{name}: observation_space['frame'] is {frame}; it must be Box(0, 255, (H, W, 3), np.uint8).{hint}"
        )
    proprio = space.spaces.get("proprio")
    if proprio is not None and (
        not isinstance(proprio, spaces.Box) or proprio.dtype != np.float32 or len(proprio.shape) != 1
    ):
        hint = "proprio.astype(np.float32).ravel()"
        raise ContractError(
            f"{name}: observation_space['proprio'] is {proprio}; it must be Box(..., (P,), np.float32). Convert it in "
            f"the environment: {hint}"
        )
    _check_action_space(env.action_space, name)


def _check_action_space(space: spaces.Space[Any], name: str) -> None:
    for part in _parts(space):
        start = np.asarray(getattr(part, "start", 0))
        if start.any():
            raise ContractError(
                f"{name}: its action space {part} has start={start.tolist()}, but algorithms send numbers from 0 on. "
                "Declare the space without `start`, and add it to the action in the environment's step"
            )


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [part for subspace in inner for part in _parts(subspace)]
    return [space]


def describe(value: Any) -> str:
    """Describe a value for an error message.

    Args:
        value: Any object; an array's range is left out if it is empty, boolean or not numeric.

    Returns:
        The dtype, shape and range of an array; the `repr` of any other value, or its type if that is too long.
    """
    if not isinstance(value, np.ndarray):
        text = repr(value)
        return text if len(text) <= 60 else f"a {type(value).__name__}"
    about = f"{value.dtype} {list(value.shape)}"
    if not value.size or value.dtype.kind not in "buif":
        return about
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        return f"{about} with {np.isnan(value).sum()} NaN and {np.isinf(value).sum()} infinite values"
    return f"{about} with values from {value.min():g} to {value.max():g}" if value.dtype.kind != "b" else about


def _mismatch(key: str, value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, str, str]:
    """Return the actual value, the required value and the conversion, for an error about a part of an observation."""
    need = f"{dtype} {list(shape)}, as observation_space[{key!r}] says"
    if not isinstance(value, np.ndarray):
        convert = f"np.asarray({key}, np.{dtype})" if isinstance(value, list | tuple) or hasattr(value, "numpy") else ""
        return f"{key} is {describe(value)}", need, convert
    if key != "frame":
        convert = f"{key}.astype(np.{dtype})" if value.shape == shape else ""
        return f"{key} is {describe(value)}", need, convert
    return f"{key} is {describe(value)}", need, _conversion(value.dtype, value.shape, shape[:2], value)


def _conversion(dtype: Any, shape: tuple[int, ...], size: tuple[int, ...], value: np.ndarray | None = None) -> str:
    """Return a NumPy expression that converts a frame to uint8 [H, W, 3]; "" = no conversion is known.

    Args:
        dtype: The dtype of the frame.
        shape: The shape of the frame.
        size: The required height and width.
        value: The frame; None = only its dtype and shape are known.
    """
    kind, expression = np.dtype(dtype).kind, "frame"
    if len(shape) == 2:
        shape, expression = (*shape, 3), "np.repeat(frame[..., None], 3, axis=2)"
    elif len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        shape, expression = (*shape[1:], shape[0]), "frame.transpose(1, 2, 0)"
    elif len(shape) != 3:
        return ""
    if shape[2] == 1:
        expression = f"np.repeat({expression}, 3, axis=2)"
    elif shape[2] == 4:
        expression += "[..., :3]"
    elif shape[2] != 3:
        return ""
    if kind == "f" and (value is None or (np.isfinite(value).all() and value.max(initial=0.0) <= 1)):
        expression = f"({expression}.clip(0, 1) * 255).round().astype(np.uint8)"
    elif kind == "b":
        expression += ".astype(np.uint8) * 255"
    elif kind in "fiu" and np.dtype(dtype) != np.uint8:
        expression = f"{expression}.clip(0, 255).astype(np.uint8)"
    elif kind not in "fiu":
        return ""
    if shape[:2] != size:
        expression = f"cv2.resize({expression}, ({size[1]}, {size[0]}), interpolation=cv2.INTER_AREA)"
    return expression if expression != "frame" else ""


def _height_and_width(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = len(shape) == 3 and shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4)
    return shape[1:3] if first else shape[:2]


def _is_sequence_of(length: int, value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == length


def _of_length(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple | list) else describe(value)


def _copied(value: Any) -> Any:
    """Copy a value of an info: arrays, and lists and dicts recursively."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value
