"""A worker process of `Workers`: it runs environments and executes the commands that come through a pipe.

It ends when the pipe is closed, which covers close(), an exception and the death of the parent alike. Nothing here
imports torch, which would cost each process seconds and hundreds of megabytes.
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
Step = tuple[Rest, float, bool, dict[str, Any], dict[str, Any] | None]  # reward, done, info, info of the reset after

CLOSING_TIME = 10.0  # seconds for the simulators to close, after which their process is ended
DUMP_SIGNAL = getattr(signal, "SIGUSR1", None)  # makes a worker write the stacks of its threads to stderr


def serve(pipe: Connection, memory: MutableSequence[int]) -> None:
    """Run a worker until the pipe is closed.

    Args:
        pipe: Brings (command, arguments). Takes (True, answer), one or more for each command, or (False, (exception,
            its traceback)), after which no more answers to that command come.
        memory: Where the call that is under way is recorded, see CallRecord.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent may want to save first
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL)
        os.set_inheritable(pipe.fileno(), False)  # a simulator's own processes would keep it open beyond our death
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
    """The environments of one worker, by their row in the whole vector; each command is a generator of answers."""

    def __init__(self, stack: ExitStack, calls: CallRecord) -> None:
        self._stack = stack  # closes what is made
        self._calls = calls
        self._envs: dict[int, gym.Env[Any, Any]] = {}

    def make(self, factories: dict[int, EnvFactory]) -> Iterator[tuple[Any, Any]]:
        """Make the environments; answer the spaces of the first."""
        for row, factory in factories.items():
            with self._calls.during("start"):
                self._envs[row] = env = self._stack.enter_context(closing(factory()))
            if isinstance(env, SeededEpisodes):
                env.env.calls = self._calls
        first = next(iter(self._envs.values()))
        yield first.observation_space, first.action_space

    def attach(self, name: str, shape: tuple[int, ...]) -> Iterator[None]:
        """Attach the shared memory for frames, uint8 [N, H, W, 3]."""
        self._memory = SharedMemory(name)
        self._stack.callback(self._detach)
        self._frames: Frames = np.ndarray(shape, np.uint8, self._memory.buf)
        yield None

    def reset(self, arguments: dict[int, dict[str, Any]]) -> Iterator[dict[int, tuple[Rest, dict[str, Any]]]]:
        """Reset all environments; arguments: of `reset`, by row."""
        answers = {}
        for row, env in self._envs.items():
            observation, info = env.reset(**arguments[row])
            answers[row] = self._share(row, observation), info
        yield answers

    def step(self, groups: Sequence[dict[int, Any]]) -> Iterator[list[Step]]:
        """Step the rows of each group with their actions; answer after each group."""
        for actions in groups:
            yield [self._step(row, action) for row, action in actions.items()]

    def apply(self, rows: Sequence[int], function: Callable[..., Any], *arguments: Any) -> Iterator[dict[int, Any]]:
        """Answer function(environment, *arguments) for some rows."""
        yield {row: function(self._envs[row], *arguments) for row in rows}

    def _step(self, row: int, action: Any) -> Step:
        env, after = self._envs[row], None
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, after = env.reset()
        return self._share(row, observation), float(reward), bool(done), info, after

    def _share(self, row: int, observation: Rest) -> Rest:
        """Write the frame to the shared memory; return the rest of the observation."""
        self._frames[row] = observation["frame"]
        return {key: part for key, part in observation.items() if key != "frame"}

    def _detach(self) -> None:
        del self._frames  # memory cannot be closed while an array uses it
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
    """End this process some time after its parent, even if a simulator hangs and the pipe is not read."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(CLOSING_TIME)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The exception itself if it can be pickled, else a RuntimeError with the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exception_only(error)[-1].strip())
    return error
