"""A Gymnasium environment whose simulator runs in its own Python interpreter and is replaced when it fails.

The worker (worker.py) is a process in its own process group. Messages go through a socket (wire.py), frames through
shared memory. A worker fails if it dies, hangs, raises, or exceeds its memory limit. It is then killed with all
processes that it has started, its episode is truncated, and the next reset starts a new worker.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np
import psutil
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from ..base import UserError
from .exit_codes import describe_exit
from .interpreters import variables
from .wire import WireError, receive, send
from .worker import BEAT

Observation: TypeAlias = dict[str, Any]
Info: TypeAlias = dict[str, Any]
Result = TypeVar("Result")

WORKER = Path(__file__).with_name("worker.py")
MEGABYTE = 1 << 20
LOG_LIMIT = 32 * MEGABYTE  # a log that has grown longer is emptied
LAST_LINES = 20  # of the log, quoted in errors
MEMORY_INTERVAL = 5.0  # least seconds between two memory checks in an episode; a check takes milliseconds
GUARD_TIME = 5.0  # seconds for the guard to end once its worker is dead


class Timeouts(BaseModel):
    """Timeouts and restart limits of a worker; times in seconds, with defaults that suit Minecraft."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    start: PositiveFloat = 600.0  # for the interpreter, its imports and make()
    reset: PositiveFloat = 600.0  # for a reset; Minecraft starts in the first one
    step: PositiveFloat = 60.0  # for a step, or a call of another method
    close: PositiveFloat = 10.0  # for closing the simulator; then its processes are killed
    silence: PositiveFloat = 120.0  # without a heartbeat during a call; loading a scene can block for that long
    memory: PositiveInt | None = None  # resident MB of the worker and all its processes; None = no limit
    restarts: NonNegativeInt = 3  # in a row, without a successful step between them


class Isolated(gym.Env[Observation, Any]):
    """Environment that runs in a worker process, with the same spaces, observations, rewards and infos.

    If the worker fails, the episode ends: `step` returns the last observation, reward 0, truncated = True, and an info
    with `success` = False and the reason as "cut".

    Args:
        module: The dotted name or the file of a remote module, or of an environment module of pr2l.
        task: The task, an argument of the module's `make`.
        options: The options, JSON values for the module's `make`.
        split: "train" or "evaluation".
        labels: Whether infos contain the simulator's ground truth.
        name: The simulator's name in messages.
        python: A Python interpreter >= 3.9 that has the simulator and NumPy.
        env: Environment variables in addition to those of this process; None = no others.
        timeouts: Time limits and the limit of restarts; None = the defaults.
        spaces: The environment's observation space and action space, if known; the worker then starts at the first
            reset. None = start the worker now and read its spaces.
        log: The file for the worker's output; None = a temporary file. Errors quote its last lines.

    Attributes:
        restarts: The number of workers that have failed.

    Raises:
        UserError: If the module's `make` raises UserError or ImportError, or a frame does not fit into the memory;
            from the constructor or a reset.
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
        # Another interpreter has its own packages; the same interpreter gets the import path of this process.
        path = sys.path if str(python) == sys.executable else []
        self._make = [path, module, task, options, {"split": split, "labels": labels}]
        self._worker: WorkerProcess | None = None
        self._running = False  # whether an episode is under way
        self._begun: WorkerLost | bool = False  # whether `begin_step` has sent an action, or why it could not
        if spaces is not None:
            self.observation_space, self.action_space = spaces
            return
        self.observation_space, self.action_space = gymnasium_spaces(self._retry(self._start))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        """Begin an episode.

        Args:
            seed: The seed of the episode, 0 or more; None = draw one from the generator of the previous seed.
            options: Not used.
        """
        seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=seed)
        self._begun = False
        return self._retry(lambda: self._begin(seed))

    def begin_step(self, action: Any) -> None:
        """Start the step that `step` with the same action will finish, so that several simulators work at once.

        Args:
            action: The action of the next `step`.
        """
        if self._running:
            try:
                self._send_step(action)
                self._begun = True
            except WorkerLost as lost:
                self._begun = lost

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        if not self._running:
            raise RuntimeError("no episode is running; call reset() first")
        begun, self._begun = self._begun, False
        try:
            if isinstance(begun, WorkerLost):
                raise begun
            if not begun:
                self._send_step(action)
            in_memory, result = self._receive(self.timeouts.step, "step")
        except WorkerLost as lost:
            return self._cut(lost)
        self._failures = 0
        return self._remember(in_memory, result)

    def _send_step(self, action: Any) -> None:
        if self._worker is not None and time.monotonic() - self._worker.memory_checked >= MEMORY_INTERVAL:
            self._check_memory(self._worker)
        self._send(self.timeouts.step, "step", self._plain(action))

    def _plain(self, action: Any) -> Any:
        """Return an action as a value for a message."""
        if isinstance(self.action_space, spaces.Text):
            return str(action)
        return int(action) if isinstance(self.action_space, spaces.Discrete) else np.asarray(action)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the environment in the worker.

        Args:
            name: The name of the method, such as "oracle_action".
            arguments: Arguments of the method, JSON values and arrays.

        Returns:
            The method's result, JSON values and arrays.

        Raises:
            UserError: If the method raises UserError.
            RuntimeError: If the worker fails; the next step then ends the episode.
        """
        try:
            return self._ask(self.timeouts.step, "call", name, list(arguments))
        except WorkerLost as lost:
            self._give_up(lost)
            raise RuntimeError(f"{self.name}: {name} failed: {lost}") from lost

    def render(self) -> np.ndarray:
        """Return the current frame, uint8 [H, W, 3]."""
        return self._observation["frame"].copy()

    def close(self) -> None:
        """End the worker, if there is one; a later reset starts a new one."""
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
        """Start a worker, make the environment, and return its spaces and metadata as JSON values and arrays."""
        self._worker = WorkerProcess(*self._process)
        description: dict[str, Any] = self._ask(self.timeouts.start, "make", *self._make)
        previous = getattr(self, "observation_space", None), getattr(self, "action_space", None)
        if previous[0] is not None and previous != gymnasium_spaces(description):
            raise WorkerLost(f"its spaces are {gymnasium_spaces(description)}, not {previous}")
        self.metadata = {**type(self).metadata, **description["metadata"]}
        self._worker.map(description["observation"]["frame"]["shape"])
        return description

    def _retry(self, attempt: Callable[[], Result]) -> Result:
        """Return the result of an attempt, repeated with a new worker after each failure."""
        while True:
            try:
                return attempt()
            except WorkerLost as lost:
                self._give_up(lost)

    def _ask(self, seconds: float, command: str, *arguments: Any) -> Any:
        self._send(seconds, command, *arguments)
        return self._receive(seconds, command)

    def _send(self, seconds: float, command: str, *arguments: Any) -> None:
        if self._worker is None:
            raise WorkerLost("its worker was lost before this step")
        self._worker.send(seconds, command, arguments)

    def _receive(self, seconds: float, command: str) -> Any:
        if self._worker is None:
            raise WorkerLost("its worker was lost during this step")
        kind, value = self._worker.receive(seconds, self.timeouts.silence, command)
        if kind == "mistake":
            if command == "make":
                self.close()
            raise UserError(value if command == "call" else f"{self.name}: {value}")
        if kind != "answer":
            raise WorkerLost(str(value))
        return value

    def _remember(self, in_memory: bool, result: Any) -> Any:
        """Return the result of reset or step, with the frame if it is in the shared memory.

        Other results are returned unchanged, even if they violate the environment contract: the caller checks that.
        """
        if in_memory:
            assert self._worker is not None
            result = ({"frame": self._worker.frame.copy(), **result[0]}, *result[1:])
            self._observation = {key: np.copy(value) for key, value in result[0].items()}
            self._info = dict(result[-1]) if isinstance(result[-1], dict) else {}
        return result

    def _last_observation(self) -> Observation:
        return {key: np.copy(value) for key, value in self._observation.items()}

    def _cut(self, error: WorkerLost) -> tuple[Observation, float, bool, bool, Info]:
        self._give_up(error)
        self._running = False
        return self._last_observation(), 0.0, False, True, {**self._info, "success": False, "cut": str(error)}

    def _give_up(self, error: WorkerLost) -> None:
        """End the worker, if there is one; raise RuntimeError if too many have failed in a row."""
        if self._worker is None:
            return
        self.restarts += 1
        self._failures += 1
        log = f"\nThe last lines of its log:\n{self._worker.last_lines()}"
        self._worker.end(0)
        self._worker = None
        if self._failures > self.timeouts.restarts:
            raise RuntimeError(f"{self.name} failed {self._failures} times in a row, at last: {error}{log}") from error
        warnings.warn(f"{self.name} is replaced: {error}{log}", stacklevel=3)

    def _check_memory(self, worker: WorkerProcess) -> None:
        limit = self.timeouts.memory
        if limit is not None and (size := worker.memory()) > limit:
            raise WorkerLost(f"it uses {size} MB of memory, more than timeouts.memory={limit}")


class WorkerLost(Exception):
    """Error for a worker that has failed and must be replaced; its text is the reason."""


class WorkerProcess:
    """A worker process and its guard, which end at the latest when this object is deleted.

    The guard is the child of this process, and the worker is the child of the guard.

    Args:
        python: The path of the Python interpreter.
        env: Environment variables in addition to those of this process.
        log: The file for the worker's output; None = a temporary file.

    Attributes:
        process: The guard.
        memory_checked: The time of the last memory check, in seconds of `time.monotonic`; -inf = none yet.

    Raises:
        UserError: If the interpreter cannot be started, or the system is not Linux or macOS.
    """

    def __init__(self, python: str, env: dict[str, str], log: Path | None) -> None:
        if os.name != "posix":
            raise UserError("isolated simulators need Linux or macOS")
        self._log = _log(log)
        self._memory = _memory()
        self._socket, theirs = socket.socketpair()
        self._lifeline, guard = socket.socketpair()  # closes when this process ends, also after SIGKILL
        self._number = 0  # number of the last call
        self.memory_checked = -math.inf
        self._ours = (self._socket, self._lifeline, self._memory, self._log)
        descriptors = [theirs.fileno(), self._memory.fileno(), guard.fileno()]
        with theirs, guard:
            try:
                self.process = subprocess.Popen(
                    [python, "-s", "-X", "faulthandler", str(WORKER), *map(str, descriptors)],
                    env=variables(env),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=descriptors,
                    start_new_session=True,  # Ctrl-C reaches this process alone, and the group can be killed at once
                )
            except OSError as error:
                for resource in self._ours:
                    resource.close()
                raise UserError(f"{python} cannot be started: {error}") from error
        self._finalizer = weakref.finalize(self, _end, self.process, self._ours)

    def end(self, seconds: float) -> None:
        """End the worker and free all resources.

        Args:
            seconds: The time for the worker to close its simulator before all its processes are killed; 0 = kill now.
        """
        if self._finalizer.detach():
            _end(self.process, self._ours, seconds)

    def map(self, shape: list[int]) -> None:
        """Map the shared memory as `frame`, uint8 [H, W, 3].

        Args:
            shape: The shape of the frame. The worker has already set the size of the memory.
        """
        self.frame: np.ndarray = np.ndarray(shape, np.uint8, mmap.mmap(self._memory.fileno(), 0))

    def send(self, seconds: float, command: str, arguments: Any) -> None:
        """Send a command without waiting for its answer.

        Args:
            seconds: The time limit for sending.
            command: The command, a method `do_...` of worker.Worker without that prefix.
            arguments: The arguments of the method.

        Raises:
            WorkerLost: If the worker does not take the command in time.
        """
        self._trim_log()
        self._number += 1
        with self._failures_as_lost(seconds):
            self._socket.settimeout(seconds)
            send(self._socket, [self._number, command, list(arguments)])

    def receive(self, seconds: float, silence: float, command: str) -> tuple[str, Any]:
        """Return the kind and the value of the answer to the last command.

        Args:
            seconds: The time limit of the call, from now on.
            silence: The longest time without a heartbeat, in seconds.
            command: The command, for messages.

        Returns:
            "answer" and the result, or "mistake" or "error" and a text; see worker.Worker.

        Raises:
            WorkerLost: If there is no valid answer in time.
        """
        with self._failures_as_lost(seconds):
            return self._answer(seconds, silence, command)

    @contextmanager
    def _failures_as_lost(self, seconds: float) -> Iterator[None]:
        """Turn failures of the connection into WorkerLost."""
        try:
            yield
        except (EOFError, ConnectionError):
            raise WorkerLost(f"its process has ended: {self._death()}") from None
        except TimeoutError:
            raise WorkerLost(f"it took no message for {seconds:g} s") from None
        except (WireError, TypeError, ValueError) as error:
            raise WorkerLost(f"it sent an invalid message: {error}") from error

    def _answer(self, seconds: float, silence: float, command: str) -> tuple[str, Any]:
        began = heard = time.monotonic()
        with suppress(TimeoutError):
            while True:
                remaining = min(began + seconds, heard + silence) - time.monotonic()
                # A message that has arrived is read even if it is late, because this process may have been stopped.
                self._socket.settimeout(max(remaining, 0.01))
                number, kind, value = receive(self._socket)
                heard = time.monotonic()
                if number == self._number and kind != "beat":  # skip answers to a call that Ctrl-C interrupted
                    return kind, value
        quiet = time.monotonic() - heard
        beating = quiet < min(silence, 3 * BEAT)
        heart = "its heartbeat went on" if beating else f"there was no heartbeat for the last {quiet:.0f} s"
        raise WorkerLost(f"{command} gave no answer in {time.monotonic() - began:.0f} s; {heart}")

    def memory(self) -> int:
        """Return the resident memory of the worker and all its processes in MB."""
        self.memory_checked = time.monotonic()
        total = 0
        with suppress(psutil.NoSuchProcess):
            for process in _family(self.process.pid):
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total // MEGABYTE

    def last_lines(self) -> str:
        """Return the last lines of the worker's log."""
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14))).decode(errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def _death(self) -> str:
        try:
            code = self.process.wait(GUARD_TIME)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        number = -code if code < 0 else code - 128  # its own signal, or 128 + the worker's
        return describe_exit(-number if number > 0 else code)

    def _trim_log(self) -> None:
        if os.fstat(self._log.fileno()).st_size > LOG_LIMIT:
            os.ftruncate(self._log.fileno(), 0)


def _end(process: subprocess.Popen[bytes], ours: Sequence[Any], seconds: float = 10.0) -> None:
    """End a worker and close the resources of this process.

    Args:
        process: The guard of the worker.
        ours: The open resources. The first is the socket; closing it makes the worker close its simulator.
        seconds: The time before all processes are killed.
    """
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
    """Kill all processes except the guard, which kills processes that these have just started, and then ends."""
    with suppress(psutil.NoSuchProcess):
        guard, *processes = _family(process.pid)
        for process_of_worker in processes:
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
    """Open a log for appending, so that writing continues after it was emptied; None = a file without a name."""
    if path is not None:
        return path.open("a+b")
    handle, name = tempfile.mkstemp(prefix="pr2l-")
    os.close(handle)
    file = open(name, "a+b")  # noqa: SIM115  # the caller closes it
    os.unlink(name)
    return file


def _memory() -> IO[bytes]:
    """Open a file without a name, in memory if the system supports that."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pr2l-frame"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def gymnasium_spaces(description: dict[str, Any]) -> tuple[spaces.Dict, spaces.Space[Any]]:
    """Return the observation space and the action space that a worker has described.

    Args:
        description: {"observation": {key: description}, "action": description}, with descriptions as from worker.plain.
    """
    observation = spaces.Dict({key: _space(description) for key, description in description["observation"].items()})
    return observation, _space(description["action"])


def _space(description: dict[str, Any]) -> spaces.Space[Any]:
    if description["type"] == "Discrete":
        return spaces.Discrete(description["n"], start=description.get("start", 0))
    if description["type"] == "MultiDiscrete":
        return spaces.MultiDiscrete(description["nvec"])
    if description["type"] == "MultiBinary":
        return spaces.MultiBinary(description["n"] if len(description["n"]) > 1 else description["n"][0])
    if description["type"] == "Text":
        lengths = {"min_length": description["min_length"], "max_length": description["max_length"]}
        return spaces.Text(**lengths, charset=frozenset(description["characters"]))
    dtype, shape = np.dtype(description["dtype"]), description["shape"]
    low, high = (np.broadcast_to(np.asarray(description[bound], dtype), shape) for bound in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)
