"""A simulator in its own Python interpreter, behind the Gymnasium interface, and replaced when it fails.

The far side, worker.py, is a process that leads a group of its own. A socket to it carries messages (_wire.py), and
memory that both sides have mapped carries the frame. A worker that dies, hangs, grows or errs is killed with all that
it has started; its episode ends there, as truncated, and the next reset starts a fresh worker.
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
LOG_LIMIT = 32 * MEGABYTE  # what a simulator prints between two resets beyond that is thrown away
LAST_LINES = 20  # of its log, in an error
LOOK = 5.0  # seconds at least between two looks at a worker's memory in an episode: each takes milliseconds
GUARD_PATIENCE = 5.0  # seconds for the guard to end once its worker is dead


class Timeouts(BaseModel):
    """How much of what to bear from a worker; times in seconds, fit for Minecraft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: PositiveFloat = 600.0  # the interpreter, its imports and make()
    reset: PositiveFloat = 600.0  # Minecraft starts at the first one
    step: PositiveFloat = 60.0  # and a call of anything else
    close: PositiveFloat = 10.0  # after which its processes are killed
    silence: PositiveFloat = 120.0  # without a heartbeat in a call; loading a scene may hold the interpreter that long
    memory: PositiveInt | None = None  # MB resident, of the worker and all its processes; None = any
    restarts: NonNegativeInt = 3  # in a row without one whole step


class Isolated(gym.Env[Observation, Any]):
    """An environment in another interpreter, with the far environment's spaces, frames, rewards and infos.

    module: a far module, or a Gymnasium environment module of ours: its dotted name, or its file.
    options: JSON values for its make(). python: an interpreter >= 3.9 that has the simulator and NumPy.
    env: environment variables besides our own. name: of the simulator, for messages.
    spaces: what the far side will show and take; the worker then starts at the first reset; None = now, to ask it.
    log: a file that gets what the worker prints; None = one without a name, which errors quote.

    A worker that fails ends its episode: the step returns the last observation, reward 0, truncated, and in info
    success False and "cut", the reason. `restarts` counts the workers that were given up. Raises ValueError for what
    the far make() refuses, RuntimeError for `timeouts.restarts` + 1 failures in a row.
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
        self._failures = 0  # since the last whole step
        self._process = (str(python), env or {}, log)
        # Another interpreter has its own packages; the same one sees all that we see.
        path = sys.path if str(python) == sys.executable else []
        self._make = [path, module, task, options, {"split": split, "labels": labels}]
        self._worker: WorkerProcess | None = None
        self._running = False  # an episode
        if spaces is not None:
            self.observation_space, self.action_space = spaces
            return
        self.observation_space, self.action_space = gymnasium_spaces(self._retry(self._start))

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Observation, Info]:
        """Begins the episode of a seed, 0 or more; None = a seed drawn from the last one's."""
        seed = int(self.np_random.integers(2**63)) if seed is None else seed
        super().reset(seed=seed)
        return self._retry(lambda: self._begin(seed))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        if not self._running:
            raise RuntimeError("no episode is under way: call reset() first")
        plain = int(action) if isinstance(self.action_space, spaces.Discrete) else np.asarray(action)
        try:
            if self._worker is not None and time.monotonic() - self._worker.looked >= LOOK:
                self._check_memory(self._worker)
            in_memory, result = self._ask(self.timeouts.step, "step", plain)
        except WorkerLost as lost:
            return self._cut(lost)
        self._failures = 0
        return self._remember(in_memory, result)

    def call(self, name: str, *arguments: Any) -> Any:
        """Anything else of the far environment, such as "oracle_action"; JSON values and arrays.

        Raises ValueError as the far side does; RuntimeError where the worker fails (the next step is then cut).
        """
        try:
            return self._ask(self.timeouts.step, "call", name, list(arguments))
        except WorkerLost as lost:
            self._give_up(lost)
            raise RuntimeError(f"{self.name}: {name} came to nothing: {lost}") from lost

    def render(self) -> np.ndarray:
        """The frame that was shown last, uint8 [H, W, 3]."""
        return self._observation["frame"].copy()

    def close(self) -> None:
        """Ends the worker; may be called again. A later reset starts a new one."""
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
        """Starts a worker; what its make() answers."""
        self._worker = WorkerProcess(*self._process)
        made: dict[str, Any] = self._ask(self.timeouts.start, "make", *self._make)
        known = getattr(self, "observation_space", None), getattr(self, "action_space", None)
        if known[0] is not None and known != gymnasium_spaces(made):
            raise WorkerLost(f"it shows and takes {gymnasium_spaces(made)}, not {known}")
        self.metadata = {**type(self).metadata, **made["metadata"]}
        self._worker.map(made["observation"]["frame"]["shape"])
        return made

    def _retry(self, attempt: Callable[[], Result]) -> Result:
        """The result of an attempt, with a fresh worker after each failure."""
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
        """Ends the worker, if that has not been done; raises RuntimeError where too many failed in a row."""
        if self._worker is None:
            return
        self.restarts += 1
        self._failures += 1
        said = f"\nThe last lines of its log:\n{self._worker.last_lines()}"
        self._worker.end(0)
        self._worker = None
        if self._failures > self.timeouts.restarts:
            raise RuntimeError(f"{self.name} failed {self._failures} times in a row, now so: {lost}{said}") from lost
        warnings.warn(f"{self.name} is replaced: {lost}{said}", stacklevel=3)

    def _check_memory(self, far: WorkerProcess) -> None:
        limit = self.timeouts.memory
        if limit is not None and (size := far.memory()) > limit:
            raise WorkerLost(f"it takes {size} of {limit} MB")


class WorkerLost(Exception):
    """Why a worker is of no more use."""


class WorkerProcess:
    """One worker, with its guard, the process that we start. Both end with this object at the latest."""

    def __init__(self, python: str, env: dict[str, str], log: Path | None) -> None:
        if os.name != "posix":
            raise ValueError("a simulator in an interpreter of its own needs Linux or macOS")
        self._log = _log(log)
        self._memory = _memory()
        self._talk, theirs = socket.socketpair()
        self._lifeline, guard = socket.socketpair()  # closes when we end, however that happens
        self._number = 0  # of the last call
        self.looked = -math.inf  # at its memory: when, in seconds of time.monotonic()
        self._ours = (self._talk, self._lifeline, self._memory, self._log)
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
                    start_new_session=True,  # Ctrl-C goes to us alone, and all of it can be killed at once
                )
            except OSError as error:
                for each in self._ours:
                    each.close()
                raise ValueError(f"{python} cannot be started: {error}") from error
        self._finalizer = weakref.finalize(self, _end, self.process, self._ours)

    def end(self, seconds: float) -> None:
        """Lets the worker close its simulator, for so many seconds, and kills what is left of it."""
        if self._finalizer.detach():
            _end(self.process, self._ours, seconds)

    def map(self, shape: list[int]) -> None:
        """Maps the memory of the frame [H, W, 3], which the worker has made large enough."""
        self.frame: np.ndarray = np.ndarray(shape, np.uint8, mmap.mmap(self._memory.fileno(), 0))

    def ask(self, seconds: float, silence: float, command: str, arguments: Any) -> tuple[str, Any]:
        """The kind and the value of the answer to a call; WorkerLost if none came in so many seconds."""
        self._trim_log()
        self._number += 1
        try:
            self._talk.settimeout(seconds)
            send(self._talk, [self._number, command, list(arguments)])
            return self._answer(seconds, silence, command)
        except (EOFError, ConnectionError):
            raise WorkerLost(f"its process has died: {self._death()}") from None
        except TimeoutError:
            raise WorkerLost(f"it took no message for {seconds:g} s") from None
        except (WireError, TypeError, ValueError) as error:
            raise WorkerLost(f"it answered nonsense: {error}") from error

    def _answer(self, seconds: float, silence: float, command: str) -> tuple[str, Any]:
        begun = heard = time.monotonic()
        with suppress(TimeoutError):
            while True:
                left = min(begun + seconds, heard + silence) - time.monotonic()
                # What has come is read even if it is late: it may be we who were stopped meanwhile.
                self._talk.settimeout(max(left, 0.01))
                number, kind, value = receive(self._talk)
                heard = time.monotonic()
                if number == self._number and kind != "beat":  # a call that Ctrl-C broke off may still be answered
                    return kind, value
        quiet = time.monotonic() - heard
        beating = quiet < min(silence, 3 * BEAT)
        heart = "its heart went on beating" if beating else f"there was no heartbeat for the last {quiet:.0f} s"
        raise WorkerLost(f"{command} gave no answer in {time.monotonic() - begun:.0f} s; {heart}")

    def memory(self) -> int:
        """MB that the worker and its processes hold."""
        self.looked = time.monotonic()
        whole = 0
        with suppress(psutil.NoSuchProcess):
            for process in _family(self.process.pid):
                with suppress(psutil.NoSuchProcess):
                    whole += process.memory_info().rss
        return whole // MEGABYTE

    def last_lines(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14))).decode(errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])

    def _death(self) -> str:
        try:
            code = self.process.wait(GUARD_PATIENCE)
        except subprocess.TimeoutExpired:
            return "it closed its socket"
        number = -code if code < 0 else code - 128  # of the guard, or of the worker, as the guard says it
        if number <= 0:
            return f"exit code {code}"
        why = " (for want of memory?)" if number == signal.SIGKILL else ""
        return f"killed by {signal.Signals(number).name}{why}"

    def _trim_log(self) -> None:
        if os.fstat(self._log.fileno()).st_size > LOG_LIMIT:
            os.ftruncate(self._log.fileno(), 0)


def _end(process: subprocess.Popen[bytes], ours: Sequence[Any], seconds: float = 10.0) -> None:
    """ours: what we hold open, first the socket whose end tells the worker to close."""
    ours[0].close()
    try:
        if seconds:
            process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            _kill(process)
        elif process.returncode < 0:  # the guard itself was killed, and what it guarded may hang
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for each in ours[1:]:
            each.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills all but the guard, which kills what these have just started and then ends."""
    with suppress(psutil.NoSuchProcess):
        guard, *others = _family(process.pid)
        for each in others:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        guard.resume()  # it may have been stopped with its group
    try:
        process.wait(GUARD_PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _log(path: Path | None) -> IO[bytes]:
    """A file to append to, so that writing goes on at its end after it was cut; None = one without a name."""
    if path is not None:
        return path.open("a+b")
    handle, name = tempfile.mkstemp(prefix="pr2l-")
    os.close(handle)
    file = open(name, "a+b")  # noqa: SIM115  # the caller closes it
    os.unlink(name)
    return file


def _memory() -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("pr2l-frame"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def gymnasium_spaces(made: dict[str, Any]) -> tuple[spaces.Dict, spaces.Space[Any]]:
    """The spaces of a far environment's plain descriptions, {"observation": {key: ...}, "action": ...}."""
    return spaces.Dict({key: _space(each) for key, each in made["observation"].items()}), _space(made["action"])


def _space(described: dict[str, Any]) -> spaces.Space[Any]:
    """The Gymnasium space of a plain description; see worker.plain."""
    if described["type"] == "Discrete":
        return spaces.Discrete(described["n"], start=described.get("start", 0))
    if described["type"] == "MultiDiscrete":
        return spaces.MultiDiscrete(described["nvec"])
    dtype, shape = np.dtype(described["dtype"]), described["shape"]
    low, high = (np.broadcast_to(np.asarray(described[bound], dtype), shape) for bound in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)
