"""A Gymnasium environment whose simulator runs in its own Python interpreter and is replaced when it fails.

The worker (worker.py) is a process in a process group of its own. Messages go through a socket (wire.py), the frame
through shared memory. A worker that dies, hangs, exceeds its memory limit or raises is killed with all processes that
it has started. Its episode ends there, as truncated, and the next reset starts a new worker.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
import psutil
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from .interpreters import variables
from .wire import WireError, receive, send
from .worker import BEAT

Observation: TypeAlias = dict[str, Any]
Info: TypeAlias = dict[str, Any]
Result = TypeVar("Result")

WORKER = Path(__file__).with_name("worker.py")
MEGABYTE = 1 << 20
LOG_LIMIT = 32 * MEGABYTE  # a log that has grown longer is emptied
LAST_LINES = 20  # of the log, in an error
MEMORY_INTERVAL = 5.0  # seconds at least between two checks of a worker's memory in an episode; one takes milliseconds
GUARD_TIME = 5.0  # seconds for the guard to end once its worker is dead


class Timeouts(BaseModel):
    """Timeouts and restart limits of a worker; times in seconds, with defaults that suit Minecraft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: PositiveFloat = 600.0  # the interpreter, its imports and make()
    reset: PositiveFloat = 600.0  # Minecraft starts at the first one
    step: PositiveFloat = 60.0  # and a call of anything else
    close: PositiveFloat = 10.0  # then its processes are killed
    silence: PositiveFloat = 120.0  # without a heartbeat during a call; loading a scene can block for that long
    memory: PositiveInt | None = None  # resident MB of the worker and all its processes; None = no limit
    restarts: NonNegativeInt = 3  # in a row, without a successful step between them


class Isolated(gym.Env[Observation, Any]):
    """An environment in a worker process, with that environment's spaces, observations, rewards and infos.

    A worker that fails ends its episode: `step` returns the last observation, reward 0, truncated, and an info with
    `success` False and the reason as "cut".

    Args:
        module: The remote module, or an environment module of ours: its dotted name, or its file.
        task: What its `make` makes.
        options: JSON values for its `make`.
        split: "train" or "evaluation".
        labels: Whether infos hold the simulator's ground truth.
        name: Of the simulator, for messages.
        python: An interpreter, Python >= 3.9, that has the simulator and NumPy.
        env: Environment variables besides this process's own.
        timeouts: None = the defaults.
        spaces: The environment's observation and action space, if they are known: the worker then starts at the first
            reset. None = it starts now, to tell them.
        log: A file for what the worker prints; None = a temporary one, whose last lines errors quote.

    Attributes:
        restarts: How many workers have failed.

    Raises:
        ValueError: From the constructor or the first reset: what the module's `make` refuses.
        RuntimeError: After `timeouts.restarts` + 1 failures in a row.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self,
        module: str,
        task: str,
        options: dict[str, Any],
        *,
        split: str,
        labels: bool,
        name: str,
        python: str | Path = sys.executable,
        env: dict[str, str] | None = None,
        timeouts: Timeouts | None = None,
        spaces: tuple[spaces.Dict, spaces.Space[Any]] | None = None,
        log: Path | None = None,
    ) -> None:
        self.name, self.timeouts = name, timeouts or Timeouts()
        self.restarts = 0
        self._failures = 0  # since the last successful step
        self._process = (str(python), env or {}, log)
        # Another interpreter has packages of its own; the same one gets the import path of this process.
        path = sys.path if str(python) == sys.executable else []
        self._make = [path, module, task, options, {"split": split, "labels": labels}]
        self._worker: WorkerProcess | None = None
        self._running = False  # whether an episode is under way
        if spaces is not None:
            self.observation_space, self.action_space = spaces
            return
        self.observation_space, self.action_space = gymnasium_spaces(self._retry(self._start))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        """Begin the episode that a seed determines (0 or more); None = a seed drawn from the previous one."""
        seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=seed)
        return self._retry(lambda: self._begin(seed))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        if not self._running:
            raise RuntimeError("no episode is running: call reset() first")
        plain = int(action) if isinstance(self.action_space, spaces.Discrete) else np.asarray(action)
        try:
            if self._worker is not None and time.monotonic() - self._worker.memory_checked >= MEMORY_INTERVAL:
                self._check_memory(self._worker)
            in_memory, result = self._ask(self.timeouts.step, "step", plain)
        except WorkerLost as lost:
            return self._cut(lost)
        self._failures = 0
        return self._remember(in_memory, result)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the environment in the worker, such as "oracle_action".

        Args:
            name: The method.
            arguments: JSON values and arrays; so is the result.

        Raises:
            ValueError: Raised by the method.
            RuntimeError: The worker failed; the next step then ends the episode.
        """
        try:
            return self._ask(self.timeouts.step, "call", name, list(arguments))
        except WorkerLost as lost:
            self._give_up(lost)
            raise RuntimeError(f"{self.name}: {name} failed: {lost}") from lost

    def render(self) -> np.ndarray:
        """The current frame, uint8 [H, W, 3]."""
        return self._observation["frame"].copy()

    def close(self) -> None:
        """End the worker; may be called again. A later reset starts a new one."""
        self._running = False
        if self._worker is not None:
            self._worker.end(self.timeouts.close)
            self._worker = None

    def _begin(self, seed: int) -> tuple[Observation, Info]:
        if self._worker is None:
            self._start()
        else:
            self._check_memory(self._worker)
        in_memory, result = self._ask(self.timeouts.reset, "reset", seed)
        self._running = True
        return self._remember(in_memory, result)

    def _start(self) -> dict[str, Any]:
        """Start a worker; return what its make answered."""
        self._worker = WorkerProcess(*self._process)
        made: dict[str, Any] = self._ask(self.timeouts.start, "make", *self._make)
        known = getattr(self, "observation_space", None), getattr(self, "action_space", None)
        if known[0] is not None and known != gymnasium_spaces(made):
            raise WorkerLost(f"its spaces are {gymnasium_spaces(made)}, not {known}")
        self.metadata = {**type(self).metadata, **made["metadata"]}
        self._worker.map(made["observation"]["frame"]["shape"])
        return made

    def _retry(self, attempt: Callable[[], Result]) -> Result:
        """The result of an attempt, repeated with a new worker after each failure."""
        while True:
            try:
                return attempt()
            except WorkerLost as lost:
                self._give_up(lost)

    def _ask(self, seconds: float, command: str, *arguments: Any) -> Any:
        if self._worker is None:
            raise WorkerLost("its worker was lost before this step")
        kind, value = self._worker.ask(seconds, self.timeouts.silence, command, arguments)
        if kind == "mistake":
            if command == "make":
                self.close()
            raise ValueError(value if command == "call" else f"{self.name}: {value}")
        if kind != "answer":
            raise WorkerLost(str(value))
        return value

    def _remember(self, in_memory: bool, result: Any) -> Any:
        """What reset or step returned, with the frame where that came through the shared memory.

        Anything else is passed on as it came, even if it breaks the environment contract: the caller checks that.
        """
        if in_memory:
            assert self._worker is not None
            result = ({"frame": self._worker.frame.copy(), **result[0]}, *result[1:])
            self._observation = {key: np.copy(part) for key, part in result[0].items()}
            self._info = dict(result[-1]) if isinstance(result[-1], dict) else {}
        return result

    def _last_observation(self) -> Observation:
        return {key: np.copy(part) for key, part in self._observation.items()}

    def _cut(self, lost: WorkerLost) -> tuple[Observation, float, bool, bool, Info]:
        self._give_up(lost)
        self._running = False
        return self._last_observation(), 0.0, False, True, {**self._info, "success": False, "cut": str(lost)}

    def _give_up(self, lost: WorkerLost) -> None:
        """End the worker, if there is one; raise RuntimeError if too many have failed in a row."""
        if self._worker is None:
            return
        self.restarts += 1
        self._failures += 1
        log = f"\nThe last lines of its log:\n{self._worker.last_lines()}"
        self._worker.end(0)
        self._worker = None
        if self._failures > self.timeouts.restarts:
            raise RuntimeError(f"{self.name} failed {self._failures} times in a row, at last: {lost}{log}") from lost
        warnings.warn(f"{self.name} is replaced: {lost}{log}", stacklevel=3)

    def _check_memory(self, worker: WorkerProcess) -> None:
        limit = self.timeouts.memory
        if limit is not None and (size := worker.memory()) > limit:
            raise WorkerLost(f"it uses {size} MB, more than timeouts.memory={limit}")


class WorkerLost(Exception):
    """Why a worker has to be given up."""


class WorkerProcess:
    """One worker and its guard, the process that is started here. Both end with this object at the latest.

    Args:
        python: The interpreter.
        env: Environment variables besides this process's own.
        log: As of `Isolated`.
    """

    def __init__(self, python: str, env: dict[str, str], log: Path | None) -> None:
        if os.name != "posix":
            raise ValueError("a simulator in an interpreter of its own needs Linux or macOS")
        self._log = _log(log)
        self._memory = _memory()
        self._socket, theirs = socket.socketpair()
        self._lifeline, guard = socket.socketpair()  # closes when this process ends, however that happens
        self._number = 0  # of the last call
        self.memory_checked = -math.inf  # when, in seconds of time.monotonic()
        self._ours = (self._socket, self._lifeline, self._memory, self._log)
        inherited = [theirs.fileno(), self._memory.fileno(), guard.fileno()]
        with theirs, guard:
            try:
                self.process = subprocess.Popen(
                    [python, "-s", "-X", "faulthandler", str(WORKER), *map(str, inherited)],
                    env=variables(env),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=inherited,
                    start_new_session=True,  # Ctrl-C reaches this process alone, and the group can be killed at once
                )
            except OSError as error:
                for resource in self._ours:
                    resource.close()
                raise ValueError(f"{python} cannot be started: {error}") from error
        self._finalizer = weakref.finalize(self, _end, self.process, self._ours)

    def end(self, seconds: float) -> None:
        """Give the worker some seconds to close its simulator, and kill what is left of it."""
        if self._finalizer.detach():
            _end(self.process, self._ours, seconds)

    def map(self, shape: list[int]) -> None:
        """Map the shared memory of the frame, uint8 [H, W, 3], which the worker has made large enough."""
        self.frame: np.ndarray = np.ndarray(shape, np.uint8, mmap.mmap(self._memory.fileno(), 0))

    def ask(self, seconds: float, silence: float, command: str, arguments: Any) -> tuple[str, Any]:
        """The kind and the value of the answer to a call.

        Args:
            seconds: Its time limit.
            silence: How long the heartbeat may be missing.
            command: A method `do_...` of worker.Worker.
            arguments: Of that method.

        Raises:
            WorkerLost: There is no answer, or it makes no sense.
        """
        self._trim_log()
        self._number += 1
        try:
            self._socket.settimeout(seconds)
            send(self._socket, [self._number, command, list(arguments)])
            return self._answer(seconds, silence, command)
        except (EOFError, ConnectionError):
            raise WorkerLost(f"its process has died: {self._death()}") from None
        except TimeoutError:
            raise WorkerLost(f"it took no message for {seconds:g} s") from None
        except (WireError, TypeError, ValueError) as error:
            raise WorkerLost(f"it answered nonsense: {error}") from error

    def _answer(self, seconds: float, silence: float, command: str) -> tuple[str, Any]:
        began = heard = time.monotonic()
        with suppress(TimeoutError):
            while True:
                left = min(began + seconds, heard + silence) - time.monotonic()
                # A message that is there is read even if it is late: this process may have been stopped meanwhile.
                self._socket.settimeout(max(left, 0.01))
                number, kind, value = receive(self._socket)
                heard = time.monotonic()
                if number == self._number and kind != "beat":  # not of a call that Ctrl-C interrupted
                    return kind, value
        quiet = time.monotonic() - heard
        beating = quiet < min(silence, 3 * BEAT)
        heart = "its heartbeat went on" if beating else f"there was no heartbeat for the last {quiet:.0f} s"
        raise WorkerLost(f"{command} gave no answer in {time.monotonic() - began:.0f} s; {heart}")

    def memory(self) -> int:
        """Resident MB of the worker and its processes."""
        self.memory_checked = time.monotonic()
        total = 0
        with suppress(psutil.NoSuchProcess):
            for process in _family(self.process.pid):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total // MEGABYTE

    def last_lines(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14))).decode(errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def _death(self) -> str:
        try:
            code = self.process.wait(GUARD_TIME)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        number = -code if code < 0 else code - 128  # its own signal, or 128 + the worker's
        if number <= 0:
            return f"exit code {code}"
        why = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"killed by {signal.Signals(number).name}{why}"

    def _trim_log(self) -> None:
        if os.fstat(self._log.fileno()).st_size > LOG_LIMIT:
            os.ftruncate(self._log.fileno(), 0)


def _end(process: subprocess.Popen[bytes], ours: Sequence[Any], seconds: float = 10.0) -> None:
    """End a worker; ours: what this process holds open, first the socket, whose end tells the worker to close."""
    ours[0].close()
    try:
        if seconds:
            process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            _kill(process)
        elif process.returncode < 0:  # the guard itself was killed, and its worker may hang
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for resource in ours[1:]:
            resource.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes but the guard, which kills what these have just started and then ends."""
    with suppress(psutil.NoSuchProcess):
        guard, *others = _family(process.pid)
        for process_of_worker in others:
            with suppress(psutil.NoSuchProcess):
                process_of_worker.kill()
        guard.resume()  # it may have been stopped with its group
    try:
        process.wait(GUARD_TIME)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _log(path: Path | None) -> IO[bytes]:
    """Open a log for appending, so that writing goes on after it was emptied; None = a file without a name."""
    if path is not None:
        return path.open("a+b")
    handle, name = tempfile.mkstemp(prefix="pr2l-")
    os.close(handle)
    file = open(name, "a+b")  # noqa: SIM115  # the caller closes it
    os.unlink(name)
    return file


def _memory() -> IO[bytes]:
    """Open a file without a name, in memory if the system can do that."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pr2l-frame"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def gymnasium_spaces(made: dict[str, Any]) -> tuple[spaces.Dict, spaces.Space[Any]]:
    """Gymnasium spaces of a worker's descriptions, {"observation": {key: ...}, "action": ...}; see worker.plain."""
    observation = spaces.Dict({key: _space(described) for key, described in made["observation"].items()})
    return observation, _space(made["action"])


def _space(described: dict[str, Any]) -> spaces.Space[Any]:
    if described["type"] == "Discrete":
        return spaces.Discrete(described["n"], start=described.get("start", 0))
    if described["type"] == "MultiDiscrete":
        return spaces.MultiDiscrete(described["nvec"])
    if described["type"] == "MultiBinary":
        return spaces.MultiBinary(described["n"] if len(described["n"]) > 1 else described["n"][0])
    dtype, shape = np.dtype(described["dtype"]), described["shape"]
    low, high = (np.broadcast_to(np.asarray(described[bound], dtype), shape) for bound in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)
