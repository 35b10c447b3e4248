"""Several jobs at once, each in a process of its own, within the machine's memory; none outlives the one that asked."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil
import torch

from pr2l.core.errors import UserError

THREADS = "OMP_NUM_THREADS"
LOOK = 1.0  # seconds between two looks at what runs


@dataclass(frozen=True)
class Job:
    """run: picklable; what it prints goes to the end of `log`. memory: bytes that it is expected to take."""

    name: str
    run: Callable[[], None]
    log: Path
    memory: int


def side_by_side(
    jobs: Sequence[Job], at_once: int, threads: int, look: Callable[[list[Job]], None]
) -> Generator[tuple[Job, int], None, None]:
    """Each job as it ends, with its exit code (0 = it went well).

    At most `at_once` run at a time, fewer where memory is short, each with `threads` threads of torch; `look` is called
    with them about once a second. Ctrl-C, or closing the iterator, sends SIGTERM to all and waits for them; should this
    process be killed, they send it to themselves. Like pr2l.rollout.workers it spawns, for the same reasons.
    """
    waiting, running = deque(jobs), dict[SpawnProcess, Job]()
    try:
        while waiting or running:
            while waiting and _fits(waiting[0], running, at_once):
                job = waiting.popleft()
                running[_start(job, threads)] = job
            look(list(running.values()))
            ready = wait([process.sentinel for process in running], timeout=LOOK)
            for process in [one for one in running if one.sentinel in ready]:
                process.join()
                yield running.pop(process), process.exitcode or 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


@contextmanager
def alone(folder: Path, *, patient: bool = True) -> Iterator[None]:
    """Waits until no other process works in the folder; a process that dies leaves it free.

    patient: False = a UserError at once where another does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {folder}; wait for it, or give another folder") from None
        yield


def _fits(job: Job, running: dict[SpawnProcess, Job], at_once: int) -> bool:
    if not running:
        return True
    promised = sum(max(0, other.memory - _taken(process)) for process, other in running.items())
    return len(running) < at_once and psutil.virtual_memory().available - promised >= job.memory


def _taken(process: SpawnProcess) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0


def _start(job: Job, threads: int) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(job, threads), name=job.name)
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(threads)  # torch reads it when it is imported
    try:
        process.start()
    finally:
        del os.environ[THREADS]
        if before is not None:
            os.environ[THREADS] = before
    return process


def _work(job: Job, threads: int) -> None:
    os.setpgrp()  # Ctrl-C is for the asking process, which then ends this one in order
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    job.run()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
