"""The far side of `Workers`: simulators in a process of their own, which does what a pipe says until it is closed.

A closed pipe is the only way to say stop, so close(), an exception and the death of the near side are one case.
Nothing here imports torch, which would cost each process seconds and hundreds of megabytes.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import gymnasium as gym
import numpy as np

from pr2l.core.types import Frames

EnvFactory = Callable[[], gym.Env[Any, Any]]  # picklable, such as a functools.partial of a function in a module
Shown = dict[str, np.ndarray]  # an observation without its frame
Step = tuple[Shown, float, bool, dict[str, Any], dict[str, Any] | None]  # reward, done, info, info of the reset after

PATIENCE = 10.0  # seconds for the simulators to close, after which their process ends all the same


def serve(pipe: Connection) -> None:
    """The life of a worker. Of the pipe come (command, arguments); into it go (True, answer), one or more for each
    command, or (False, (exception, its traceback)), after which there are no more of that command.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the near side may want to save first
    if sys.platform != "win32":
        os.set_inheritable(pipe.fileno(), False)  # a simulator's own processes would keep it open beyond our death
    threading.Thread(target=_end_after_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError), ExitStack() as stack:
        share = Share(stack)
        while True:
            message = pipe.recv_bytes()
            try:
                command, arguments = pickle.loads(message)
                for answer in getattr(share, command)(*arguments):
                    pipe.send((True, answer))
            except Exception as error:
                pipe.send((False, (_portable(error), traceback.format_exc())))


class Share:
    """The environments of one worker, by their row in the whole vector. Its commands are generators of answers."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack  # closes what is made
        self._envs: dict[int, gym.Env[Any, Any]] = {}

    def make(self, recipes: dict[int, EnvFactory]) -> Iterator[tuple[Any, Any]]:
        """Makes the environments; answers the spaces of the first."""
        for row, recipe in recipes.items():
            self._envs[row] = self._stack.enter_context(closing(recipe()))
        first = next(iter(self._envs.values()))
        yield first.observation_space, first.action_space

    def attach(self, name: str, shape: tuple[int, ...]) -> Iterator[None]:
        """Takes the shared memory that frames [N, H, W, 3] go to."""
        self._memory = SharedMemory(name)
        self._stack.callback(self._detach)
        self._frames: Frames = np.ndarray(shape, np.uint8, self._memory.buf)
        yield None

    def reset(self, arguments: dict[int, dict[str, Any]]) -> Iterator[dict[int, tuple[Shown, dict[str, Any]]]]:
        answers = {}
        for row, env in self._envs.items():
            observation, info = env.reset(**arguments[row])
            answers[row] = self._show(row, observation), info
        yield answers

    def step(self, groups: Sequence[dict[int, Any]]) -> Iterator[list[Step]]:
        """Steps the rows of each group with their actions; answers after each group."""
        for actions in groups:
            yield [self._step(row, action) for row, action in actions.items()]

    def apply(self, rows: Sequence[int], function: Callable[..., Any], *arguments: Any) -> Iterator[dict[int, Any]]:
        """Answers function(environment, *arguments) of some rows."""
        yield {row: function(self._envs[row], *arguments) for row in rows}

    def _step(self, row: int, action: Any) -> Step:
        env, after = self._envs[row], None
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, after = env.reset()
        return self._show(row, observation), float(reward), bool(done), info, after

    def _show(self, row: int, observation: Shown) -> Shown:
        self._frames[row] = observation["frame"]
        return {key: part for key, part in observation.items() if key != "frame"}

    def _detach(self) -> None:
        del self._frames  # memory that is looked at cannot be closed
        self._memory.close()


def get(env: gym.Env[Any, Any], name: str) -> Any:
    return env.get_wrapper_attr(name)


def call(env: gym.Env[Any, Any], name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return env.get_wrapper_attr(name)(*arguments, **named)


def is_wrapped(env: gym.Env[Any, Any], wrapper: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper):
            return True
        env = env.env
    return False


def _end_after_parent() -> None:
    """A worker between two commands sees that its pipe is closed; this is for one whose simulator hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(PATIENCE)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The exception itself where it can be sent, else a RuntimeError that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exception_only(error)[-1].strip())
    return error
