"""Vectorized environments in worker processes, which step some environments while the VLM encodes frames of others.

Six environments, by row, in two workers and two groups; time runs to the right:

    worker 0   0 1 4
    worker 1   2 3 5
    parent        [VLM on 0 1 2 3][VLM on 4 5]

Frames are in shared memory; all other data goes through one pipe per worker.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from pr2l.core.disk import full_disk_explained, reserve
from pr2l.core.types import Frames
from pr2l.environments.isolation.exit_codes import describe_exit
from pr2l.environments.isolation.isolated import Timeouts
from pr2l.rollout import watchdog
from pr2l.rollout.contract import ContractError
from pr2l.rollout.watchdog import CallRecord, HangDetector
from pr2l.rollout.worker_process import DUMP_SIGNAL, EnvFactory, Rest, call, get, is_wrapped, serve

DUMP_TIME = 0.2  # seconds for a worker to write its stacks
SHARED = Path("/dev/shm")  # where Linux has the files of shared memory


class WorkerTraceback(Exception):
    """Traceback of an exception in a worker, as the `__cause__` of the same exception in the parent."""


class Workers(VecEnv):
    """VecEnv whose environments run in worker processes.

    Observations are Dict(frame uint8 [N, H, W, 3], ...); returned arrays are not changed by later steps. An exception
    of an environment is raised here, with the worker's traceback as its cause. If a worker dies or hangs, all workers
    are closed and a RuntimeError names it. It is not replaced, because the numbers, returns and actions of the running
    episodes of all its environments are lost with it. `Isolated` moves only a simulator to another process, and can
    therefore replace it. Warnings of environments go to stderr.

    The processes are spawned. A fork would copy this process while torch's threads run, and a fork server would
    survive close() and keep the environment variables from its start. So, as always with multiprocessing, a script
    must make Workers below `if __name__ == "__main__":`.

    Args:
        factories: One picklable function per environment, which the worker calls to make it.
        workers: The number of processes, at most one per environment.
        groups: The number of groups of `step_groups`, at most the largest number of environments in one worker.
        timeouts: Time limits for making, resetting, stepping and closing one environment; None = the defaults. Only
            SeededEpisodes have limits for reset and step. Isolated environments have their own limits.
    """

    def __init__(
        self, factories: Sequence[EnvFactory], workers: int, groups: int = 1, timeouts: Timeouts | None = None
    ) -> None:
        self._timeouts = timeouts or Timeouts()
        self._rows = arrange(len(factories), workers, groups)
        self._memory: SharedMemory | None = None
        self._workers: list[_Worker] = []
        try:
            for ranges in zip(*self._rows, strict=True):
                self._workers.append(_Worker([*chain(*ranges)], self._timeouts))
            for worker in self._workers:
                self._ask(worker, "make", {row: factories[row] for row in worker.rows})
            observations, actions = [self._answer(worker) for worker in self._workers][0]
            super().__init__(len(factories), observations, actions)
            self.metadata = self.get_attr("metadata", 0)[0]
            self._share_memory(observations)
        except BaseException:
            self.close()
            raise

    def reset(self) -> VecEnvObs:
        options = [{"options": option} if option else {} for option in self._options]
        for worker in self._workers:
            self._ask(worker, "reset", {row: {"seed": self._seeds[row], **options[row]} for row in worker.rows})
        results: dict[int, tuple[Rest, dict[str, Any]]] = self._answers()
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [results[row][1] for row in range(self.num_envs)]
        return self._observations(range(self.num_envs), [results[row][0] for row in range(self.num_envs)])

    def step_async(self, actions: np.ndarray) -> None:
        for worker, groups in zip(self._workers, zip(*self._rows, strict=True), strict=True):
            self._ask(worker, "step", [{row: actions[row] for row in rows} for rows in groups], answers=len(groups))

    def step_groups(self) -> Iterator[tuple[range, VecEnvStepReturn]]:
        """Yield the step of each group as soon as it is done; an alternative to `step_wait`.

        The groups are in the order of their rows. The workers simulate all groups without waiting for the caller.
        `reset_infos` is up to date for the rows that were yielded.

        Yields:
            The rows of a group, and its (observations, rewards, dones, infos) as from `step_wait`.
        """
        for ranges in self._rows:
            steps = [step for worker in self._workers for step in self._answer(worker)]
            rows = range(ranges[0].start, ranges[-1].stop)
            rests, rewards, dones, infos, resets = zip(*steps, strict=True)
            for row, info in zip(rows, resets, strict=True):
                self.reset_infos[row] = self.reset_infos[row] if info is None else info
            step = self._observations(rows, rests), np.array(rewards, np.float32), np.array(dones, bool), list(infos)
            yield rows, step

    def step_wait(self) -> VecEnvStepReturn:
        parts, rewards, dones, infos = zip(*(step for _, step in self.step_groups()), strict=True)
        observations = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return observations, np.concatenate(rewards), np.concatenate(dones), [*chain(*infos)]

    def close(self) -> None:
        """End all workers, also hanging ones, and free the shared memory.

        A second call has no effect.
        """
        for worker in self._workers:
            worker.pipe.close()
        deadline = time.monotonic() + self._timeouts.close
        for worker in self._workers:
            worker.end(deadline)
        if self._memory is not None:
            del self._frames  # memory cannot be closed while an array uses it
            self._memory.close()
            self._memory = None

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._apply(indices, get, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._apply(indices, setattr, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._apply(indices, call, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        return self._apply(indices, is_wrapped, wrapper_class)

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env_method("render")

    def _share_memory(self, space: spaces.Space[Any]) -> None:
        """Make the shared memory for frames.

        Its name is removed once all workers are attached, so that the system frees it however this process ends.
        """
        if not isinstance(space, spaces.Dict) or "frame" not in space.spaces:
            raise ContractError(f"Workers need observations Dict(frame, proprio), not {space}")
        shape = (self.num_envs, *(space["frame"].shape or ()))
        self._memory = memory = _shared_memory(int(np.prod(shape)), self.num_envs)
        self._frames: Frames = np.ndarray(shape, np.uint8, memory.buf)
        try:
            for worker in self._workers:
                self._ask(worker, "attach", memory.name, shape)
            for worker in self._workers:
                self._answer(worker)
        finally:
            memory.unlink()

    def _observations(self, rows: range, observations: Sequence[Rest]) -> dict[str, np.ndarray]:
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        others = {key: np.array([row[key] for row in observations], space[key].dtype) for key in observations[0]}
        return {"frame": self._frames[rows.start : rows.stop].copy(), **others}

    def _apply(self, indices: VecEnvIndices, *function_and_arguments: Any) -> list[Any]:
        rows = list(self._get_indices(indices))
        for worker in self._workers:
            self._ask(worker, "apply", [row for row in worker.rows if row in rows], *function_and_arguments)
        answers = self._answers()
        return [answers[row] for row in rows]

    def _answers(self) -> dict[int, Any]:
        return {row: value for worker in self._workers for row, value in self._answer(worker).items()}

    def _ask(self, worker: _Worker, command: str, *arguments: Any, answers: int = 1) -> None:
        with self._closing_if_broken(worker):
            worker.ask(command, arguments, answers)

    def _answer(self, worker: _Worker) -> Any:
        with self._closing_if_broken(worker):
            succeeded, value = worker.answer()
        if succeeded:
            return value
        error, traceback = value
        raise error from WorkerTraceback(f"in {worker}\n{traceback}")

    @contextmanager
    def _closing_if_broken(self, worker: _Worker) -> Iterator[None]:
        """Close all workers after an interrupted exchange, because later answers would not match their commands."""
        if worker.pipe.closed:
            raise RuntimeError("the workers are closed; create new ones")
        try:
            yield
        except (EOFError, ConnectionError) as error:
            death = worker.death()
            self.close()
            raise RuntimeError(death) from error
        except BaseException:
            self.close()
            raise


class _Worker:
    """Handle of one worker process in the parent; the worker has the environments of some rows."""

    def __init__(self, rows: list[int], timeouts: Timeouts) -> None:
        self.rows = rows
        self._pending = 0  # answers that were not yet received
        context = multiprocessing.get_context("spawn")
        memory: Any = context.RawArray("q", CallRecord.SIZE)
        self._hangs = HangDetector(CallRecord(memory), timeouts)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, memory), daemon=True)
        self.process.start()
        theirs.close()  # with both ends in this process, the death of the worker would go unnoticed

    def __str__(self) -> str:
        return f"the worker of environments {', '.join(map(str, self.rows))} (process {self.process.pid})"

    def ask(self, command: str, arguments: tuple[Any, ...], answers: int) -> None:
        """Send a command, after discarding the remaining answers of an interrupted step."""
        while self._pending:
            self.answer()
        self.pipe.send((command, arguments))
        self._pending = answers

    def answer(self) -> tuple[bool, Any]:
        """Return whether the command succeeded, and its answer or (exception, traceback).

        Raises:
            RuntimeError: If a call of a simulator exceeds its time limit.
        """
        while not self.pipe.poll(watchdog.INTERVAL):
            if hang := self._hangs.after(watchdog.INTERVAL):
                self._kill_with_stacks()
                raise RuntimeError(
                    f"{self} hangs: {hang}. The stack trace of the call is on stderr. With isolated=true, pr2l "
                    "restarts such a simulator and continues the run (docs/simulators.md)"
                )
        succeeded, value = self.pipe.recv()
        self._pending = self._pending - 1 if succeeded else 0
        return succeeded, value

    def _kill_with_stacks(self) -> None:
        """Kill the process, after it has written the stacks of its threads to stderr."""
        if DUMP_SIGNAL is not None and self.process.pid is not None:
            os.kill(self.process.pid, DUMP_SIGNAL)
            self.process.join(DUMP_TIME)
        self.process.kill()

    def death(self) -> str:
        """Describe the end of a process whose pipe is closed."""
        self.process.join(1.0)
        return (
            f"{self} has died: {describe_exit(self.process.exitcode)}. Its last messages are on stderr. With workers=0 "
            "the simulators run in this process, where a debugger reaches them."
        )

    def end(self, deadline: float) -> None:
        """Wait for the process until a time of time.monotonic(), then kill it."""
        try:
            self.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            self.process.kill()
            self.process.join()


def _shared_memory(size: int, envs: int) -> SharedMemory:
    """Make shared memory with reserved space; UserError if the system has too little, as containers often do."""
    memory = SharedMemory(create=True, size=size)
    file = SHARED / memory.name.lstrip("/")
    next_step = "use fewer environments (num_envs) or workers=0, or enlarge it, e.g. docker run --shm-size=2g"
    try:
        if file.is_file():
            with full_disk_explained(SHARED, f"the frames of {envs} environments in shared memory", size, next_step):
                reserve(file, size)
    except BaseException:
        memory.close()
        memory.unlink()
        raise
    return memory


def arrange(count: int, workers: int, groups: int) -> list[list[range]]:
    """Divide environments evenly among workers and groups.

    Every worker has a part of each group, so that all workers are busy.

    Args:
        count: The number of environments.
        workers: The number of workers.
        groups: The number of groups.

    Returns:
        For each group, the rows of each worker. The rows of a group are consecutive from worker to worker.
    """
    shares = np.array_split(np.arange(count), min(workers, count))
    parts = [np.array_split(share, min(groups, len(shares[0]))) for share in shares]  # the first share is the longest
    rows: list[list[range]] = []
    start = 0
    for group in range(len(parts[0])):
        rows.append([])
        for share in parts:
            rows[-1].append(range(start, start + len(share[group])))
            start += len(share[group])
    return rows
