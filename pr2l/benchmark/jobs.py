"""Run jobs in parallel processes that fit into memory and end when the calling process ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil

THREADS = "OMP_NUM_THREADS"
INTERVAL = 1.0  # seconds between two calls of `watch`


@dataclass(frozen=True)
class Job:
    """A function to run in a process.

    Attributes:
        name: Name of the job and of its process.
        run: Picklable function without arguments.
        log: File to which the output of the process is appended.
        memory: Expected peak memory of the process in bytes.
    """

    name: str
    run: Callable[[], None]
    log: Path
    memory: int


def side_by_side(
    jobs: Sequence[Job], at_once: int, threads: int, watch: Callable[[list[Job]], None]
) -> Generator[tuple[Job, int], None, None]:
    """Run jobs in parallel and yield each as it ends, with its exit code (0 = success).

    Ctrl-C, or closing the generator, sends SIGTERM to all processes and waits for them. If the calling process is
    killed, each process sends SIGTERM to itself. Processes are spawned, for the reasons in pr2l.rollout.workers.

    Args:
        jobs: Jobs in the order in which to start them.
        at_once: Maximum number of parallel jobs. Fewer run if the free memory is too small.
        threads: Number of threads that torch gets in each process: the value of OMP_NUM_THREADS.
        watch: Called about once per second with the running jobs.
    """
    waiting, running = deque(jobs), dict[SpawnProcess, Job]()
    try:
        while waiting or running:
            while waiting and _fits(waiting[0], running, at_once):
                job = waiting.popleft()
                running[_start(job, threads)] = job
            watch(list(running.values()))
            ready = wait([process.sentinel for process in running], timeout=INTERVAL)
            for process in [process for process in running if process.sentinel in ready]:
                process.join()
                yield running.pop(process), process.exitcode or 0
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def _fits(job: Job, running: dict[SpawnProcess, Job], at_once: int) -> bool:
    if not running:
        return True
    promised = sum(max(0, active.memory - _memory_of(process)) for process, active in running.items())
    return len(running) < at_once and psutil.virtual_memory().available - promised >= job.memory


def _memory_of(process: SpawnProcess) -> int:
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:  # it has just ended
        return 0


def _start(job: Job, threads: int) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(job,), name=job.name)
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(threads)  # torch reads it when it is imported
    try:
        process.start()
    finally:
        del os.environ[THREADS]
        if before is not None:
            os.environ[THREADS] = before
    return process


def _work(job: Job) -> None:
    os.setpgrp()  # Ctrl-C goes to the calling process only, which then terminates this one
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job.run()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
