"""Worker process of `Workers`, which runs environments and executes commands from a pipe.

The process ends when the pipe is closed: after close(), an exception or the death of the parent. This module does not
import torch, which would cost each process seconds and hundreds of megabytes.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import ExitStack, closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import gymnasium as gym
import numpy as np

from pr2l.core.types import Frames
from pr2l.rollout.episodes import SeededEpisodes
from pr2l.rollout.watchdog import CallRecord

EnvFactory = Callable[[], gym.Env[Any, Any]]  # picklable, such as a functools.partial of a function in a module
Rest = dict[str, np.ndarray]  # an observation without its frame
Step = tuple[Rest, float, bool, dict[str, Any], dict[str, Any] | None]  # as `step_and_reset` returns them

CLOSING_TIME = 10.0  # seconds for the simulators to close, after which their process is ended
TERMINAL_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
DUMP_SIGNAL = getattr(signal, "SIGUSR1", None)  # makes a worker write the stacks of its threads to stderr


def serve(pipe: Connection, memory: MutableSequence[int]) -> None:
    """Run a worker until the pipe is closed.

    Args:
        pipe: The worker receives (command, arguments). For each command it sends one or more (True, answer), or
            (False, (exception, traceback)), which is the last answer to that command.
        memory: The memory that records the running call, see `CallRecord`.
    """
    for number in TERMINAL_SIGNALS:  # they reach every process of a terminal; the parent may want to save first
        signal.signal(number, signal.SIG_IGN)
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL)
        os.set_inheritable(pipe.fileno(), False)  # else a simulator's own processes keep it open after our death
    threading.Thread(target=_end_after_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError), ExitStack() as stack:
        envs = WorkerEnvs(stack, CallRecord(memory))
        while True:
            message = pipe.recv_bytes()
            try:
                command, arguments = pickle.loads(message)
                for answer in getattr(envs, command)(*arguments):
                    pipe.send((True, answer))
            except Exception as error:
                pipe.send((False, (_portable(error), traceback.format_exc())))


class WorkerEnvs:
    """The environments of one worker; each method is a command and yields its answers.

    Args:
        stack: Closes the environments and the shared memory.
        calls: The record of the running call.
    """

    def __init__(self, stack: ExitStack, calls: CallRecord) -> None:
        self._stack = stack  # closes the environments and the shared memory
        self._calls = calls
        self._envs: dict[int, gym.Env[Any, Any]] = {}

    def make(self, factories: dict[int, EnvFactory]) -> Iterator[tuple[Any, Any]]:
        """Make the environments and yield the spaces of the first one.

        Args:
            factories: For each row in the whole VecEnv, the function that makes its environment.
        """
        for row, factory in factories.items():
            with self._calls.during("start"):
                self._envs[row] = env = self._stack.enter_context(closing(factory()))
            if isinstance(env, SeededEpisodes):
                env.env.calls = self._calls
        first = next(iter(self._envs.values()))
        yield first.observation_space, first.action_space

    def attach(self, name: str, shape: tuple[int, ...]) -> Iterator[None]:
        """Attach the shared memory for frames.

        Args:
            name: The name of the shared memory.
            shape: The shape of all frames, (N, H, W, 3), uint8.
        """
        self._memory = SharedMemory(name)
        self._stack.callback(self._detach)
        self._frames: Frames = np.ndarray(shape, np.uint8, self._memory.buf)
        yield None

    def reset(self, arguments: dict[int, dict[str, Any]]) -> Iterator[dict[int, tuple[Rest, dict[str, Any]]]]:
        """Reset all environments and yield their observations, without frames, and infos by row.

        Args:
            arguments: For each row, the keyword arguments of `reset`.
        """
        answers = {}
        for row, env in self._envs.items():
            observation, info = env.reset(**arguments[row])
            answers[row] = self._share(row, observation), info
        yield answers

    def step(self, groups: Sequence[dict[int, Any]]) -> Iterator[list[Step]]:
        """Step the environments group by group and yield the steps of each group.

        Args:
            groups: For each group, the action of each row.
        """
        for row, action in (item for actions in groups for item in actions.items()):
            env = self._envs[row]
            if isinstance(env, SeededEpisodes):
                env.begin_step(action)
        for actions in groups:
            yield [self._step(row, action) for row, action in actions.items()]

    def apply(self, rows: Sequence[int], function: Callable[..., Any], *arguments: Any) -> Iterator[dict[int, Any]]:
        """Yield the values of function(environment, *arguments) by row.

        Args:
            rows: The rows of the environments.
            function: A picklable function of an environment.
            arguments: Further arguments of the function.
        """
        yield {row: function(self._envs[row], *arguments) for row in rows}

    def _step(self, row: int, action: Any) -> Step:
        observation, reward, done, info, after = step_and_reset(self._envs[row], action)
        return self._share(row, observation), reward, done, info, after

    def _share(self, row: int, observation: Rest) -> Rest:
        """Write the frame to the shared memory; return the rest of the observation."""
        self._frames[row] = observation["frame"]
        return {key: part for key, part in observation.items() if key != "frame"}

    def _detach(self) -> None:
        del self._frames  # memory cannot be closed while an array uses it
        self._memory.close()


def step_and_reset(env: gym.Env[Any, Any], action: Any) -> Step:
    """Step an environment and, if its episode has ended, reset it.

    Args:
        env: The environment.
        action: The action.

    Returns:
        The observation, of the next episode after a reset; reward; whether the episode has ended; info with the keys
        "TimeLimit.truncated" and, at the end, "terminal_observation", as in a VecEnv; info of the reset, or None.
    """
    after = None
    observation, reward, terminated, truncated, info = env.step(action)
    done = terminated or truncated
    info["TimeLimit.truncated"] = truncated and not terminated
    if done:
        info["terminal_observation"] = observation
        observation, after = env.reset()
    return observation, float(reward), bool(done), info, after


def get(env: gym.Env[Any, Any], name: str) -> Any:
    """Return an attribute of an environment or of one of its wrappers.

    Args:
        env: The environment with its wrappers.
        name: Name of the attribute; the outermost wrapper that has it counts.

    Raises:
        AttributeError: None of them has it.
    """
    return env.get_wrapper_attr(name)


def call(env: gym.Env[Any, Any], name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call a method of an environment or of one of its wrappers.

    Args:
        env: The environment.
        name: The name of the method.
        arguments: Positional arguments.
        named: Keyword arguments.
    """
    return env.get_wrapper_attr(name)(*arguments, **named)


def is_wrapped(env: gym.Env[Any, Any], wrapper: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
    """Return whether an environment has a wrapper of a class.

    Args:
        env: The environment with its wrappers.
        wrapper: The class; an instance of a subclass counts too.
    """
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper):
            return True
        env = env.env
    return False


def _end_after_parent() -> None:
    """End this process some time after its parent, even if a simulator hangs and the pipe is not read."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(CLOSING_TIME)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return the exception itself if it can be pickled, else a RuntimeError with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exception_only(error)[-1].strip())
    return error
