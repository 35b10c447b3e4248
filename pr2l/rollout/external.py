"""Adapter from any Gymnasium environment to the environment contract, for environments outside the registry.

    environment=my_module:MyEnv      in a config: a class, or a function that makes an environment
    environment_options={...}        its keyword arguments, and the options of `Defaults`

Such an environment has one task, "default". Its class may have an attribute `contexts`, the list of all contexts that
can occur; without it the contexts are unknown in advance.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict

from pr2l.core.cameras import side_by_side
from pr2l.core.errors import UserError, code_of, did_you_mean
from pr2l.rollout.contract import Info, Observation

Context: TypeAlias = dict[str, str]
ContextOf: TypeAlias = Callable[[Any, Info], Context]  # of the environment's own observation and info

TASK = "default"
MODULE_AND_CLASS = "Write module:Class, such as my_module:MyEnv for the class MyEnv of my_module.py"  # in errors


@dataclass(frozen=True)
class Arrangement:
    """Mapping from an environment's own observations and infos to those of the contract.

    Args:
        space: The environment's observation space, a Box or a Dict.
        frame: The key of the frame in a Dict; several keys = the frame has these images side by side, see
            `pr2l.core.cameras`; None = "frame", or else the only image.
        proprio: The key of a vector of numbers; None = "proprio" if there is one.
        context: The context of every episode, or a function that returns it from the environment's own observation and
            info; None = `info["context"]` if there is one, else an empty context.
    """

    space: spaces.Space[Any]
    frame: str | Sequence[str] | None = None
    proprio: str | None = None
    context: Context | ContextOf | None = None

    def frame_keys(self) -> list[str]:
        """Return the keys of the images in the frame; an empty list if the observation itself is the frame.

        Raises:
            UserError: If the observations have no such key, or several images and no `frame` to choose them.
        """
        if not isinstance(self.space, spaces.Dict):
            if self.frame:
                raise UserError(f"frame={self.frame!r} needs observations that are a Dict; these are {self.space}")
            return []
        if self.frame is not None or "frame" in self.space.spaces:
            keys = [self.frame] if isinstance(self.frame, str) else list(self.frame or ["frame"])
            return [self._key(key, "frame") for key in keys]
        images = [key for key, part in self.space.spaces.items() if len(part.shape or ()) == 3]
        if len(images) != 1:
            raise UserError(
                f"the observations are a Dict; name its frame with frame=KEY, or several cameras with frame=[KEY, KEY];"
                f" it has {', '.join(self.space.spaces)}"
            )
        return images

    def proprio_key(self) -> str | None:
        """Return the key of the vector; None if there is none.

        Raises:
            UserError: If the observations have no such key, or it is not a Box or a MultiBinary.
        """
        parts = self.space.spaces if isinstance(self.space, spaces.Dict) else {}
        if self.proprio is None:
            return "proprio" if "proprio" in parts else None
        key = self._key(self.proprio, "proprio")
        if not isinstance(parts[key], spaces.Box | spaces.MultiBinary):
            raise UserError(f"proprio={key!r} must be a Box of numbers, not {parts[key]}")
        return key

    def observation_space(self) -> spaces.Dict:
        """Return the observation space of the contract, Dict(frame, proprio float32 [P] if there is a vector)."""
        proprio = self.proprio_key()
        parts: dict[str, spaces.Space[Any]] = {"frame": self._frame_space()}
        if proprio is not None:
            box = self.space[proprio]  # type: ignore[index]
            low, high = getattr(box, "low", 0), getattr(box, "high", 1)
            size = int(np.prod(box.shape))
            low, high = (np.broadcast_to(bound, box.shape).astype(np.float32).reshape(size) for bound in (low, high))
            parts["proprio"] = spaces.Box(low, high, dtype=np.float32)
        return spaces.Dict(parts)

    def observation(self, observation: Any, batch: tuple[int, ...] = ()) -> Observation:
        """Return the observation of the contract.

        Args:
            observation: The environment's own observation.
            batch: The leading axes; () = one environment, (N,) = a batch of N environments.
        """
        keys, proprio = self.frame_keys(), self.proprio_key()
        parts: Observation = {"frame": side_by_side([observation[key] for key in keys] or [observation])}
        if proprio is not None:
            parts["proprio"] = np.asarray(observation[proprio], np.float32).reshape(*batch, -1)
        return parts

    def _frame_space(self) -> spaces.Space[Any]:
        keys = self.frame_keys()
        images: list[Any] = [self.space[key] for key in keys] or [self.space]  # type: ignore[index]
        if len(images) == 1:
            return images[0]
        height, width, *others = images[0].shape or (0, 0)
        if others != [3] or any((image.dtype, image.shape) != (np.uint8, images[0].shape) for image in images):
            kinds = ", ".join(f"{key} {image.dtype} {image.shape}" for key, image in zip(keys, images, strict=True))
            raise UserError(
                f"frame={keys} must be images uint8 [H, W, 3] of equal size, but they are {kinds}; resize them in the"
                " environment, for example with a gymnasium.ObservationWrapper and cv2.resize."
            )
        return spaces.Box(0, 255, (height, len(images) * width, 3), np.uint8)

    def info(self, observation: Any, info: Info) -> Info:
        """Return the info of the contract, with "context" and "success".

        "success" defaults to Stable-Baselines3's "is_success", and without that to False.

        Args:
            observation: The environment's own observation, for a `context` that is a function.
            info: The environment's own info.
        """
        context: Any = info.get("context", {}) if self.context is None else self.context
        context = context(observation, info) if callable(context) else context
        return {"success": info.get("is_success", False), **info, "context": context}

    def _key(self, key: str, option: str) -> str:
        assert isinstance(self.space, spaces.Dict)
        if key not in self.space.spaces:
            keys = ", ".join(self.space.spaces)
            hint = did_you_mean(key, self.space.spaces)
            raise UserError(f"{option}={key!r} is not a key of the observations.{hint} They have {keys}")
        return key


class Arranged(gym.Wrapper[Observation, Any, Any, Any]):
    """Wrapper that converts observations and infos of an environment to those of the contract.

    Args:
        env: A Gymnasium environment with a frame in its observations.
        frame: The key of the frame, or several, see `Arrangement`.
        proprio: The key of a vector of numbers, see `Arrangement`.
        context: The context of every episode, or a function that returns it, see `Arrangement`.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        frame: str | Sequence[str] | None = None,
        proprio: str | None = None,
        context: Context | ContextOf | None = None,
    ) -> None:
        super().__init__(env)
        self._arrangement = Arrangement(env.observation_space, frame, proprio, context)
        self.observation_space = self._arrangement.observation_space()  # type: ignore[assignment]  # Dict is invariant

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        result: Any = self.env.reset(seed=seed, options=options)
        return self._arrange(result) if isinstance(result, tuple | list) and len(result) == 2 else result

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, Info]:
        result: Any = self.env.step(action)
        return self._arrange(result) if isinstance(result, tuple | list) and len(result) == 5 else result

    def _arrange(self, result: Any) -> Any:
        """Convert the result of reset or step; an invalid result is unchanged, and the contract check reports it."""
        observation, *between, info = result
        arrangement, space = self._arrangement, self._arrangement.space
        incomplete = isinstance(space, spaces.Dict) and not (
            isinstance(observation, Mapping) and observation.keys() >= space.keys()
        )
        if incomplete or not isinstance(info, Mapping):
            return result
        return (arrangement.observation(observation), *between, arrangement.info(observation, dict(info)))


class Defaults(BaseModel):
    """Options of "module:Class" environments; all other options are keyword arguments of the class."""

    model_config = ConfigDict(frozen=True, extra="allow")

    # the key of the frame in observations, or of several cameras, whose images are then side by side in the frame;
    # null = "frame", or the only image
    frame: str | tuple[str, ...] | None = None
    proprio: str | None = None  # the key of a vector of numbers; null = "proprio" if there is one


@dataclass(frozen=True)
class Task:
    """Row of TASKS for a "module:Class" environment."""

    contexts: tuple[Context, ...] | None
    prompt: str | None = None
    horizon: int | None = None  # unknown: the environment sets it
    reward: str = "the environment's own"
    success: str = "info['success'] or info['is_success'] of the environment"


class ExternalModule(ModuleType):
    """Environment module for one class, with the interface of the modules in the registry.

    Args:
        name: "module:Class".
        make_env: The class, or a function that makes an environment.
    """

    TASKS: dict[str, Task]

    def __init__(self, name: str, make_env: Callable[..., gym.Env[Any, Any]]) -> None:
        super().__init__(name, make_env.__doc__)
        self.Defaults = Defaults
        self._make_env = make_env
        contexts = getattr(make_env, "contexts", None)
        self.TASKS = {TASK: Task(None if contexts is None else tuple(contexts))}

    def __reduce__(self) -> Any:
        return load, (self.__name__,)  # for worker processes

    def kinds(self, task: str) -> tuple[str, ...]:
        """Return no object names, since such environments have no labels.

        Args:
            task: Not used.
        """
        return ()

    def make(
        self, task: str = TASK, options: Defaults | None = None, *, split: str = "train", labels: bool = False
    ) -> Arranged:
        """Make the environment.

        Args:
            task: Not used; there is one task.
            options: Keyword arguments of the class, and `Defaults`; None = no arguments.
            split: Not used; both splits are the same.
            labels: Not used; such environments have no labels.

        Raises:
            UserError: If the class rejects the arguments, or the result is not a Gymnasium environment.
        """
        options = options or Defaults()
        arguments = dict(options.model_extra or {})
        try:
            with code_of(f"the environment {self.__name__}"):
                env = self._make_env(**arguments)
        except TypeError as error:
            text = f"{self.__name__} cannot be made with the environment_options {arguments}: {error}"
            raise UserError(text) from error
        if not isinstance(env, gym.Env):
            raise UserError(f"{self.__name__} returns a {type(env).__name__}; it must return a gymnasium.Env")
        return Arranged(env, options.frame, options.proprio)


@cache
def load(name: str) -> ExternalModule:
    """Return the environment module for a class, or for a function that makes an environment.

    Args:
        name: "module:Class". The module may also be in the working folder.

    Raises:
        UserError: If there is no such module or class. Errors that the module itself raises on import are not caught.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"environment {name!r}: {module_name!r} is not the name of a module. {MODULE_AND_CLASS}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with code_of(f"the environment {name}"):
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"environment {name!r}: there is no module {module_name!r} in the working folder or among the installed "
            f"ones. {MODULE_AND_CLASS}"
        ) from error
    if not callable(make_env := getattr(module, attribute, None)):
        hint = did_you_mean(attribute, vars(module))
        raise UserError(f"environment {name!r}: {module_name} has no class {attribute!r}.{hint}")
    return ExternalModule(name, make_env)


def make(task: str, options: Defaults, *, split: str, labels: bool) -> Arranged:
    """Make an isolated "module:Class" environment; the worker process calls this.

    Args:
        task: "module:Class".
        options: Keyword arguments of the class, and `Defaults`.
        split: Not used; both splits are the same.
        labels: Not used; such environments have no labels.
    """
    return load(task).make(options=options, split=split, labels=labels)
