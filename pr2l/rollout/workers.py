"""Simulators in processes of their own, stepped while the VLM is busy with the frames of others.

Six environments, by number, in two workers and two groups; time runs to the right:

    worker 0   0 1 4
    worker 1   2 3 5
    here          [VLM on 0 1 2 3][VLM on 4 5]

Frames cross by shared memory, everything else by a pipe to each worker.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from pr2l.core.types import Frames
from pr2l.rollout.worker_process import PATIENCE, EnvFactory, Shown, call, get, is_wrapped, serve


class WorkerTraceback(Exception):
    """Where in a worker an exception arose; the cause of that exception when it is raised here."""


class Workers(VecEnv):
    """What DummyVecEnv is, over environments that run in `workers` processes (at most one for each environment).

    recipes: one per environment, picklable; called in the worker. Observations are Dict(frame uint8 [H, W, 3], ...).
    groups: `step_groups` gives the environments in so many parts (fewer where no worker has so many).

    What it returns is the caller's own, frames included: no later step changes it. What an environment raises is
    raised here, with the worker's traceback as its cause. A worker that dies is a RuntimeError that says which, and
    closes all. Warnings of environments go to stderr.

    Workers are spawned: a fork would copy this process in the middle of what torch's threads are doing, and a fork
    server would outlive close() and give workers the environment variables of the day that it was started. So, as
    always with multiprocessing, a script that makes Workers does it below `if __name__ == "__main__":`.
    """

    def __init__(self, recipes: Sequence[EnvFactory], workers: int, groups: int = 1) -> None:
        self._rows = arrange(len(recipes), workers, groups)
        self._memory: SharedMemory | None = None
        self._workers: list[_Worker] = []
        try:
            for share in zip(*self._rows, strict=True):
                self._workers.append(_Worker([*chain(*share)]))
            for worker in self._workers:
                self._ask(worker, "make", {row: recipes[row] for row in worker.rows})
            observations, actions = [self._answer(worker) for worker in self._workers][0]
            super().__init__(len(recipes), observations, actions)
            self.metadata = self.get_attr("metadata", 0)[0]
            self._share_memory(observations)
        except BaseException:
            self.close()
            raise

    def reset(self) -> VecEnvObs:
        options = [{"options": each} if each else {} for each in self._options]
        for worker in self._workers:
            self._ask(worker, "reset", {row: {"seed": self._seeds[row], **options[row]} for row in worker.rows})
        shown: dict[int, tuple[Shown, dict[str, Any]]] = self._together()
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [shown[row][1] for row in range(self.num_envs)]
        return self._observations(range(self.num_envs), [shown[row][0] for row in range(self.num_envs)])

    def step_async(self, actions: np.ndarray) -> None:
        for worker, shares in zip(self._workers, zip(*self._rows, strict=True), strict=True):
            self._ask(worker, "step", [{row: actions[row] for row in rows} for rows in shares], answers=len(shares))

    def step_groups(self) -> Iterator[tuple[range, VecEnvStepReturn]]:
        """Instead of step_wait: the step of each group, as soon as it is done, with its rows.

        Groups come in order, the rows of the next following on those of the last. All are simulated without
        waiting for the caller. `reset_infos` are up to date for the rows that have come.
        """
        for shares in self._rows:
            steps = [step for worker in self._workers for step in self._answer(worker)]
            rows = range(shares[0].start, shares[-1].stop)
            shown, rewards, dones, infos, resets = zip(*steps, strict=True)
            for row, info in zip(rows, resets, strict=True):
                self.reset_infos[row] = self.reset_infos[row] if info is None else info
            step = self._observations(rows, shown), np.array(rewards, np.float32), np.array(dones, bool), list(infos)
            yield rows, step

    def step_wait(self) -> VecEnvStepReturn:
        shown, rewards, dones, infos = zip(*(step for _, step in self.step_groups()), strict=True)
        together = {key: np.concatenate([group[key] for group in shown]) for key in shown[0]}
        return together, np.concatenate(rewards), np.concatenate(dones), [*chain(*infos)]

    def close(self) -> None:
        """Ends the workers, hung ones too, and frees the memory; may be called again."""
        for worker in self._workers:
            worker.pipe.close()
        deadline = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.end(deadline)
        if self._memory is not None:
            del self._frames  # memory that is looked at cannot be closed
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
        """Makes the block that frames cross by, and takes its name away once all have it, so that nothing is left
        however we end.
        """
        if not isinstance(space, spaces.Dict) or "frame" not in space.spaces:
            raise ValueError(f"an environment must show Dict(frame, proprio), not {space}")
        shape = (self.num_envs, *(space["frame"].shape or ()))
        self._memory = memory = SharedMemory(create=True, size=int(np.prod(shape)))
        self._frames: Frames = np.ndarray(shape, np.uint8, memory.buf)
        try:
            for worker in self._workers:
                self._ask(worker, "attach", memory.name, shape)
            for worker in self._workers:
                self._answer(worker)
        finally:
            memory.unlink()

    def _observations(self, rows: range, shown: Sequence[Shown]) -> dict[str, np.ndarray]:
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        rest = {key: np.array([each[key] for each in shown], space[key].dtype) for key in shown[0]}
        return {"frame": self._frames[rows.start : rows.stop].copy(), **rest}

    def _apply(self, indices: VecEnvIndices, *function_and_arguments: Any) -> list[Any]:
        rows = list(self._get_indices(indices))
        for worker in self._workers:
            self._ask(worker, "apply", [row for row in worker.rows if row in rows], *function_and_arguments)
        answers = self._together()
        return [answers[row] for row in rows]

    def _together(self) -> dict[int, Any]:
        return {row: value for worker in self._workers for row, value in self._answer(worker).items()}

    def _ask(self, worker: _Worker, command: str, *arguments: Any, answers: int = 1) -> None:
        with self._closing_if_broken(worker):
            worker.ask(command, arguments, answers)

    def _answer(self, worker: _Worker) -> Any:
        with self._closing_if_broken(worker):
            good, value = worker.answer()
        if good:
            return value
        error, where = value
        raise error from WorkerTraceback(f"in {worker}\n{where}")

    @contextmanager
    def _closing_if_broken(self, worker: _Worker) -> Iterator[None]:
        """For a talk with a worker: closes all where that ends in the middle, as no later talk could be understood."""
        if worker.pipe.closed:
            raise RuntimeError("these workers have been closed: make new ones")
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
    """The near side of one process. rows: of its environments."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows
        self._owed = 0  # answers that are still to come
        context = multiprocessing.get_context("spawn")
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far,), daemon=True)
        self.process.start()
        far.close()  # with both ends here, the death of the process would not show

    def __str__(self) -> str:
        return f"the worker of environments {', '.join(map(str, self.rows))} (process {self.process.pid})"

    def ask(self, command: str, arguments: tuple[Any, ...], answers: int) -> None:
        """Sends a command, after letting go of what is still to come of a step that was broken off."""
        while self._owed:
            self.answer()
        self.pipe.send((command, arguments))
        self._owed = answers

    def answer(self) -> tuple[bool, Any]:
        good, value = self.pipe.recv()
        self._owed = self._owed - 1 if good else 0
        return good, value

    def death(self) -> str:
        """What there is to say about a process whose pipe is closed."""
        self.process.join(1.0)
        code = self.process.exitcode
        how = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        return (
            f"{self} has died: {how}. What it had to say is on stderr; where the system killed it, memory is the "
            "likeliest reason. With workers=0 the simulators run in this process, where a debugger reaches them."
        )

    def end(self, deadline: float) -> None:
        """Waits for the process until a time of time.monotonic(), then kills it."""
        try:
            self.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            self.process.kill()
            self.process.join()


def arrange(count: int, workers: int, groups: int) -> list[list[range]]:
    """The rows of the environments of each group, by worker; a group's rows are consecutive through its workers.

    Each worker divides its share evenly among the groups, so that all workers are busy with each group.
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
