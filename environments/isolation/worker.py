"""Worker process of `Isolated`: a simulator in its own Python environment (Python >= 3.9, NumPy and the simulator).

    worker.py SOCKET MEMORY LIFELINE    file descriptors that it inherits from isolated.py
    worker.py --check MODULE [OPTIONS]  the results of a remote module's checks(), a JSON list on each line of stdout

A remote module is a name (environments.minecraft.remote) or a file. It has make(task, options, *, split, labels), which
returns an environment of the contract without gymnasium, and checks(options). The worker can also serve a Gymnasium
environment module of pr2l, with Defaults and make().

Ending: between two calls, a closed socket ends the worker. During a call, the guard ends it. The guard is the process
that the parent has started. It forks the worker and waits until the worker or the parent has ended. Then it kills all
processes that the simulator has started. On Linux this includes processes that have left the process group (as
MineDojo's Minecraft does), because the guard adopts them. If the guard itself is killed, the worker kills these
processes and ends.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
from contextlib import suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ENVIRONMENTS = os.path.dirname(HERE)
BEAT = 1.0  # seconds between two heartbeats during a call
PR_SET_CHILD_SUBREAPER = 36
CLOSING_TIME = 10.0  # seconds for the simulator to close after the parent has died
UNSUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # file systems that cannot reserve space
USER_ERRORS = ("environments.base", "pr2l.environments.base", "pr2l.policies.base", "pr2l.core.errors")


def main(arguments: list[str]) -> None:
    """Run the command line.

    Args:
        arguments: The command-line arguments, see the top of this file.
    """
    make_packages("environments.isolation.wire")
    if arguments[:1] == ["--check"]:
        check(*arguments[1:])
    else:
        serve(*map(int, arguments))


def make_packages(module: str) -> None:
    """Make the packages of a module of `environments` importable without running their __init__.py.

    The __init__.py files import gymnasium and pydantic, which a simulator's interpreter may lack.

    Args:
        module: The dotted name of the module.
    """
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != HERE]
    parents = module.split(".")[:-1]
    for depth in range(1, len(parents) + 1):
        name = ".".join(parents[:depth])
        if parents[0] == "environments" and name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [os.path.join(ENVIRONMENTS, *parents[1:depth])]
            sys.modules[name] = package


def load(module: str) -> Any:
    """Import a remote module by its dotted name or its file.

    Args:
        module: Dotted name, or the path of a file that ends in ".py".

    Raises:
        ImportError: There is no such module, or one of its own imports fails.
    """
    if not module.endswith(".py"):
        make_packages(module)
        return import_module(module)
    spec = spec_from_file_location(os.path.basename(module)[:-3], module)
    assert spec is not None and spec.loader is not None
    python_module = module_from_spec(spec)
    spec.loader.exec_module(python_module)
    return python_module


def is_user_error(error: Exception) -> bool:
    """Return whether an exception is a UserError, of any of USER_ERRORS: one file may be imported by two names.

    Args:
        error: The exception that a simulator or an environment raised.
    """
    modules = (sys.modules[name] for name in USER_ERRORS if name in sys.modules)
    return isinstance(error, tuple(module.UserError for module in modules))


def reserve(memory: int, size: int) -> None:
    """Set the size of the shared memory and reserve its space.

    Without that, a write to the mapped memory would kill this process with SIGBUS if the system has no space.

    Args:
        memory: The file descriptor of the shared memory.
        size: The size in bytes.

    Raises:
        UserError: If there is too little space.
    """
    from environments.base import UserError

    try:
        os.ftruncate(memory, size)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(memory, 0, size)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise UserError(
                f"its frames need {size / 1000:.1f} kB of shared memory, which the system refuses ({error.strerror}); "
                "use fewer environments (num_envs), or free memory"
            ) from error


def check(module: str, options: str = "{}") -> None:
    """Print the results of a remote module's checks, one JSON list per line.

    Args:
        module: The dotted name or the file of the module.
        options: The options of the checks, as JSON.
    """
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a simulator's own output goes to stderr
    for link in load(module).checks(json.loads(options)):
        print(json.dumps(link), file=lines, flush=True)


def serve(talk: int, memory: int, lifeline: int) -> None:
    """Run a worker and its guard; this does not return.

    Args:
        talk: The file descriptor of the socket for messages.
        memory: The file descriptor of the shared memory for the frame.
        lifeline: The file descriptor of a socket that is closed when the parent ends.
    """
    guard(lifeline)
    for descriptor in (talk, memory):
        os.set_inheritable(descriptor, False)  # else the simulator's own processes keep them open after our death
    worker = Worker(socket.socket(fileno=talk), memory)
    try:
        worker.run()
    except BaseException:  # also SystemExit: after any exception of a simulator the parent must see the socket close
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def guard(lifeline: int) -> None:
    """Fork the worker and return in it; this process becomes the guard and does not return.

    The fork comes before all imports of the simulator. The guard ends with the worker, or CLOSING_TIME after the
    lifeline was closed. It also holds the socket open, so that the parent sees the worker's end only after all
    processes of the worker have ended.

    Args:
        lifeline: The file descriptor of a socket that is closed when the parent ends.
    """
    adopt()
    read_end, write_end = os.pipe()  # closes when the guard ends, which alone holds its other end
    worker = os.fork()
    if not worker:
        os.close(lifeline)
        os.close(write_end)
        threading.Thread(target=end_after_guard, args=(read_end,), daemon=True).start()
        return
    status, deadline = None, math.inf
    while status is None and time.monotonic() < deadline:
        ended, _, _ = select.select([lifeline] if deadline == math.inf else [], [], [], 0.05)
        if ended:
            deadline = time.monotonic() + CLOSING_TIME
        status = reap(worker)
    kill_children()
    code = os.WTERMSIG(status) + 128 if status and os.WIFSIGNALED(status) else (status or 0) >> 8
    os._exit(code)


def end_after_guard(read_end: int) -> None:
    """Wait until the guard has ended, then kill all child processes of the worker and end it.

    Args:
        read_end: The file descriptor of a pipe that is closed when the guard ends.
    """
    os.read(read_end, 1)
    adopt()
    kill_children()
    os._exit(1)


def adopt() -> None:
    """Become the parent of descendants whose parents have died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap(worker: int) -> int | None:
    """Collect all children that have ended.

    Args:
        worker: The process id of the worker.

    Returns:
        The worker's wait status if it has ended, else None.
    """
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in (0, worker):
                return status if pid else None
    return None


def kill_children() -> None:
    """Kill all children repeatedly, because this process adopts the children of each killed one."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> list[int]:
    """Return the process ids of this process's children, including ended ones that were not collected."""
    pids = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                pids.append(int(name))
    return pids


class Worker:
    """Server for the calls of the parent process.

    A call is [number, command, arguments]. The answer is [number, "answer", value], [number, "mistake", text] for an
    error that the user has to fix, or [number, "error", text] for a failure of the simulator. During a call the worker
    sends heartbeats, [number, "beat", None].

    Args:
        connection: The socket for messages.
        memory: The file descriptor of the shared memory for the frame.
    """

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self._connection, self._memory = connection, memory
        self._number = 0  # of the current call, 0 between calls
        self._sending = threading.Lock()
        self._env: Any = None

    def run(self) -> None:
        """Answer calls until the parent closes the socket, then close the environment."""
        from environments.isolation import wire

        self._wire = wire
        threading.Thread(target=self._beat, daemon=True).start()
        with suppress(EOFError, ConnectionError):
            while True:
                number, command, arguments = wire.receive(self._connection)
                self._number = number
                answer = self._answer(command, arguments)
                with self._sending:
                    self._number = 0
                    self._connection.sendall(answer)
        if self._env is not None:
            self._env.close()

    def _beat(self) -> None:
        with suppress(OSError):  # the parent has ended
            while True:
                time.sleep(BEAT)
                with self._sending:
                    if self._number:
                        self._wire.send(self._connection, [self._number, "beat", None])

    def _answer(self, command: str, arguments: list[Any]) -> bytes:
        """Execute the current call and return its answer as an encoded message."""
        number = self._number
        try:
            return self._wire.encode([number, "answer", getattr(self, "do_" + command)(*arguments)])
        except Exception as error:
            traceback.print_exc()
            text = traceback.format_exception_only(type(error), error)[-1].strip()
            if command in ("make", "call") and is_user_error(error):
                return self._wire.encode([number, "mistake", str(error)])
            if isinstance(error, self._wire.WireError):
                return self._wire.encode([number, "mistake", f"what {command} returned cannot be sent: {error}"])
            missing = command == "make" and isinstance(error, ImportError)
            return self._wire.encode([number, "mistake" if missing else "error", text])

    def do_make(self, path: list[str], module: str, task: str, options: dict[str, Any], named: dict[str, Any]) -> Any:
        """Make the environment.

        Args:
            path: Folders to append to sys.path.
            module: The dotted name or the file of the remote module.
            task: The task, an argument of the module's `make`.
            options: The options, JSON values for the module's `make`.
            named: Keyword arguments of the module's `make`.

        Returns:
            {"observation": descriptions of its spaces by key, "action": a description, "metadata": a dict}.
        """
        import numpy as np

        sys.path += [folder for folder in path if folder not in sys.path]
        remote = load(module)
        if hasattr(remote, "Defaults"):
            self._env = Gymnasium(remote, task, remote.make(task, parse(remote.Defaults, options), **named))
        else:
            self._env = remote.make(task, options, **named)
        space = self._env.observation_space
        shape = space["frame"]["shape"]
        size = int(np.prod(shape))
        reserve(self._memory, size)
        self._frame = np.ndarray(shape, np.uint8, mmap.mmap(self._memory, size))
        self._kind = self._frame.dtype, self._frame.shape
        return {
            "observation": space,
            "action": self._env.action_space,
            "metadata": getattr(self._env, "metadata", {}),
        }

    def do_reset(self, seed: int) -> Any:
        """Reset the environment.

        Args:
            seed: Seed of the episode.

        Returns:
            Whether the frame is in the shared memory, and the result, then without the frame.
        """
        return self._split(self._env.reset(seed))

    def do_step(self, action: int | str | np.ndarray) -> Any:
        """Step the environment.

        Args:
            action: Element of the action space: an integer, a text, or an array.

        Returns:
            Whether the frame is in the shared memory, and the result, then without the frame.
        """
        return self._split(self._env.step(action))

    def do_call(self, name: str, arguments: list[Any]) -> Any:
        """Return the result of `call` of the environment.

        Args:
            name: The first argument of `call`.
            arguments: Its further arguments.
        """
        return self._env.call(name, *arguments)

    def _split(self, result: Any) -> tuple[bool, Any]:
        """Move the frame of a result to the shared memory; return whether it is there, and the rest of the result.

        A frame of another shape or dtype stays in the result: the parent checks the contract and reports the error.
        """
        observation = result[0] if isinstance(result, tuple) and result and isinstance(result[0], dict) else {}
        frame = observation.get("frame")
        if (getattr(frame, "dtype", None), getattr(frame, "shape", None)) != self._kind:
            return False, result
        self._frame[...] = frame
        return True, ({key: value for key, value in observation.items() if key != "frame"}, *result[1:])


class Gymnasium:
    """Adapter that gives a Gymnasium environment of pr2l the interface of a remote environment.

    Args:
        module: The environment module.
        task: A key of the module's TASKS.
        env: The environment.
    """

    def __init__(self, module: Any, task: str, env: Any) -> None:
        self._module, self._task, self._env = module, task, env
        self.observation_space = {key: plain(space) for key, space in env.observation_space.spaces.items()}
        self.action_space = plain(env.action_space)
        self.metadata = env.metadata

    def reset(self, seed: int) -> Any:
        """Begin the episode of a seed.

        Args:
            seed: Seed of the episode.

        Returns:
            Observation and info.
        """
        return self._env.reset(seed=seed)

    def step(self, action: int | str | np.ndarray) -> Any:
        """Take an action.

        Args:
            action: Element of the action space.

        Returns:
            Observation, reward, terminated, truncated and info.
        """
        return self._env.step(action)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the environment.

        Args:
            name: The name of the method; "oracle_action" = return the next action of the task's oracle.
            arguments: The arguments of the method.
        """
        if name == "oracle_action":
            return self._module.oracle(self._task)(self._env)
        return getattr(self._env, name)(*arguments)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def parse(defaults: Any, options: dict[str, Any]) -> Any:
    """Return an instance of an environment module's Defaults.

    Args:
        defaults: The class, a pydantic model.
        options: Values by name; missing options take their defaults.

    Raises:
        UserError: If an option is unknown or has a wrong value.
    """
    from environments.base import UserError

    try:
        return defaults(**options)
    except ValueError as error:
        raise UserError(str(error)) from error


def plain(space: Any) -> dict[str, Any]:
    """Describe a Gymnasium space with JSON values and arrays.

    Args:
        space: The space of one environment, not a batched one.

    Returns:
        "type", and what the parent needs to make the space again: bounds, shape and dtype, numbers of elements, or
        lengths and characters of a text.

    Raises:
        UserError: If the space is not a Box, Discrete, MultiDiscrete, MultiBinary or Text.
    """
    kind = type(space).__name__
    if kind == "Box":
        bounds = {"low": space.low, "high": space.high}
        return {"type": kind, **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if kind == "Discrete":
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if kind == "MultiDiscrete":
        return {"type": kind, "nvec": space.nvec.tolist()}
    if kind == "MultiBinary":
        return {"type": kind, "n": list(space.shape)}
    if hasattr(space, "character_set"):  # Text, or a subclass
        lengths = {"min_length": space.min_length, "max_length": space.max_length}
        return {"type": "Text", **lengths, "characters": "".join(sorted(space.character_set))}
    from environments.base import UserError

    raise UserError(f"a {kind} space cannot be isolated; use Box, Discrete, MultiDiscrete, MultiBinary or Text")


if __name__ == "__main__":
    main(sys.argv[1:])
