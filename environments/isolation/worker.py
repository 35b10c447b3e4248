"""The far side of `Isolated`: one simulator in its own interpreter, Python >= 3.9 with NumPy and the simulator only.

    worker.py TALK MEMORY LIFELINE      file descriptors that it inherits from isolated.py
    worker.py --check MODULE [OPTIONS]  the links of a far module's checks(), a JSON list on each line of stdout

A far module is a name (environments.minecraft.remote) or a file; it has make(task, options, *, split, labels), which
gives the environment contract without gymnasium, and checks(options). A Gymnasium environment of ours, a module with
Defaults and make(), is served as well.

The end: a closed socket says it, between two calls. The process that is started stays as a guard and forks the worker.
It waits for the death of either side, however that comes and whatever a call hangs in, and then kills all that the
simulator has started: on Linux those too that have left the process group (MineDojo's Minecraft does), since the guard
adopts them. Should the guard be killed, the worker does that, and ends.
"""

from __future__ import annotations

import ctypes
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
BEAT = 1.0  # seconds between two signs of life during a call
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0  # seconds for the simulator to close after the near side has died


def main(arguments: list[str]) -> None:
    make_packages("environments.isolation.wire")
    if arguments[:1] == ["--check"]:
        check(*arguments[1:])
    else:
        serve(*map(int, arguments))


def make_packages(module: str) -> None:
    """Makes the packages that hold a module of `environments` importable, without running their __init__.py.

    Those import gymnasium and pydantic, which a simulator's interpreter need not have.
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
    """A far module by its name or its file."""
    if not module.endswith(".py"):
        make_packages(module)
        return import_module(module)
    spec = spec_from_file_location(os.path.basename(module)[:-3], module)
    assert spec is not None and spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def check(module: str, options: str = "{}") -> None:
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what simulators print is not for the reader of the lines
    for link in load(module).checks(json.loads(options)):
        print(json.dumps(link), file=lines, flush=True)


def serve(talk: int, memory: int, lifeline: int) -> None:
    """The life of a worker and its guard."""
    guard(lifeline)
    for each in (talk, memory):
        os.set_inheritable(each, False)  # the simulator's own processes would keep them open beyond our death
    worker = Worker(socket.socket(fileno=talk), memory)
    try:
        worker.run()
    except BaseException:  # SystemExit too: whatever a simulator raises, the near side must see the end of the socket
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def guard(lifeline: int) -> None:
    """Forks, while we are small, and returns in the child. The parent ends with it, or PATIENCE after the lifeline.

    It holds the socket too, so the near side sees the worker's end once all is cleared away.
    """
    adopt()
    life, held = os.pipe()  # of the guard, which alone holds that end
    worker = os.fork()
    if not worker:
        os.close(lifeline)
        os.close(held)
        threading.Thread(target=end_after_guard, args=(life,), daemon=True).start()
        return
    status, deadline = None, math.inf
    while status is None and time.monotonic() < deadline:
        ended, _, _ = select.select([lifeline] if deadline == math.inf else [], [], [], 0.05)
        if ended:
            deadline = time.monotonic() + PATIENCE
        status = reap(worker)
    kill_children()
    code = os.WTERMSIG(status) + 128 if status and os.WIFSIGNALED(status) else (status or 0) >> 8
    os._exit(code)


def end_after_guard(life: int) -> None:
    """In the worker: does what the guard was there for, should somebody kill the guard."""
    os.read(life, 1)
    adopt()
    kill_children()
    os._exit(1)


def adopt() -> None:
    """Makes the processes that descend from us our children once their parents have died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def reap(worker: int) -> int | None:
    """The worker's wait status once it has ended; lets go of every other child that has."""
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in (0, worker):
                return status if pid else None
    return None


def kill_children() -> None:
    """Until there are none: the children of those that die become ours."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def children() -> list[int]:
    """Our own, the dead that are not waited for among them."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


class Worker:
    """Answers [number, command, arguments] with [number, "answer", value], [number, "mistake", text] where the user
    must mend something, or [number, "error", text]; while it is busy it sends [number, "beat", None].
    """

    def __init__(self, connection: socket.socket, memory: int) -> None:
        self._connection, self._memory = connection, memory
        self._number = 0  # of the call under way, 0 between calls
        self._sending = threading.Lock()
        self._env: Any = None

    def run(self) -> None:
        """Until the near side closes the socket; then closes the environment."""
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
        with suppress(OSError):  # the near side has gone
            while True:
                time.sleep(BEAT)
                with self._sending:
                    if self._number:
                        self._wire.send(self._connection, [self._number, "beat", None])

    def _answer(self, command: str, arguments: list[Any]) -> bytes:
        """The message that answers a call."""
        number = self._number
        try:
            return self._wire.encode([number, "answer", getattr(self, "do_" + command)(*arguments)])
        except Exception as error:
            traceback.print_exc()
            text = traceback.format_exception_only(type(error), error)[-1].strip()
            if command in ("make", "call") and isinstance(error, ValueError):
                return self._wire.encode([number, "mistake", str(error)])
            if isinstance(error, self._wire.WireError):
                return self._wire.encode([number, "mistake", f"what {command} returned cannot be sent: {error}"])
            missing = command == "make" and isinstance(error, ImportError)
            return self._wire.encode([number, "mistake" if missing else "error", text])

    def do_make(self, path: list[str], module: str, task: str, options: dict[str, Any], named: dict[str, Any]) -> Any:
        """Makes the environment; answers what it shows and takes. path: for sys.path, after what is there."""
        import numpy as np

        sys.path += [each for each in path if each not in sys.path]
        far = load(module)
        if hasattr(far, "Defaults"):
            self._env = Gymnasium(far, task, far.make(task, far.Defaults(**options), **named))
        else:
            self._env = far.make(task, options, **named)
        space = self._env.observation_space
        shape = space["frame"]["shape"]
        size = int(np.prod(shape))
        os.ftruncate(self._memory, size)
        self._frame = np.ndarray(shape, np.uint8, mmap.mmap(self._memory, size))
        self._kind = self._frame.dtype, self._frame.shape
        return {
            "observation": space,
            "action": self._env.action_space,
            "metadata": getattr(self._env, "metadata", {}),
        }

    def do_reset(self, seed: int) -> Any:
        return self._split(self._env.reset(seed))

    def do_step(self, action: int | np.ndarray) -> Any:
        return self._split(self._env.step(action))

    def do_call(self, name: str, arguments: list[Any]) -> Any:
        return self._env.call(name, *arguments)

    def _split(self, result: Any) -> tuple[bool, Any]:
        """Whether the frame of what reset or step returned is in the shared memory, and the rest.

        A frame that does not fit there stays where it is: the parent checks the contract, and says what is wrong.
        """
        observation = result[0] if isinstance(result, tuple) and result and isinstance(result[0], dict) else {}
        frame = observation.get("frame")
        if (getattr(frame, "dtype", None), getattr(frame, "shape", None)) != self._kind:
            return False, result
        self._frame[...] = frame
        return True, ({key: part for key, part in observation.items() if key != "frame"}, *result[1:])


class Gymnasium:
    """A Gymnasium environment module of ours as a far environment."""

    def __init__(self, module: Any, task: str, env: Any) -> None:
        self._module, self._task, self._env = module, task, env
        self.observation_space = {key: plain(space) for key, space in env.observation_space.spaces.items()}
        self.action_space = plain(env.action_space)
        self.metadata = env.metadata

    def reset(self, seed: int) -> Any:
        return self._env.reset(seed=seed)

    def step(self, action: int | np.ndarray) -> Any:
        return self._env.step(action)

    def call(self, name: str, *arguments: Any) -> Any:
        """A method of the environment, or "oracle_action", what the task's oracle would do now."""
        if name == "oracle_action":
            return self._module.oracle(self._task)(self._env)
        return getattr(self._env, name)(*arguments)

    def close(self) -> None:
        self._env.close()


def plain(space: Any) -> dict[str, Any]:
    """A Gymnasium space in JSON values and arrays."""
    kind = type(space).__name__
    if kind == "Box":
        bounds = {"low": space.low, "high": space.high}
        return {"type": kind, **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if kind == "Discrete":
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if kind == "MultiDiscrete":
        return {"type": kind, "nvec": space.nvec.tolist()}
    raise ValueError(f"a space of the kind {kind} cannot be isolated: Box, Discrete and MultiDiscrete can")


if __name__ == "__main__":
    main(sys.argv[1:])
