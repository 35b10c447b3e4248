"""Trials of a run's environments before the run: the memory that one takes, and a few steps of all of them."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core.config import RunConfig
from pr2l.environments.isolation.isolated import Isolated
from pr2l.rollout import build
from pr2l.vlms.allocator import return_freed_memory

STEPS = 8  # of each environment in a trial
WORKER_BYTES = 60_000_000  # own memory of a worker process without simulators, measured on Linux: 31 to 53 MB


def memory_of_one(config: RunConfig, *, labels: bool) -> int:
    """Return the memory in bytes that one more environment takes after a few steps.

    The memory is that of this process and all processes below it, without what they share. A simulator in this process
    is measured in a second environment, because the first one also loads packages.

    Args:
        config: Config of the run; the environments are made without worker processes.
        labels: Whether infos contain the simulator's ground truth.
    """
    alone, memory = config.model_copy(update={"workers": 0}), 0
    with ExitStack() as stack:
        for _ in range(2):
            return_freed_memory()  # an environment that reuses memory of a VLM's passes would seem to take none
            before = _used_memory()
            frames: Any = stack.enter_context(closing(build.environments(alone, "train", labels=labels, count=1)))
            take_steps(frames)
            memory = max(0, _used_memory() - before)
            if isinstance(frames.envs[0].unwrapped, Isolated):
                break
    return memory


def _used_memory() -> int:
    """Return the unshared memory of this process and its descendants in bytes."""
    process, total = psutil.Process(), 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            try:
                total += member.memory_full_info().uss
            except psutil.AccessDenied:
                total += member.memory_info().rss
    return total


@dataclass(frozen=True)
class Trial:
    """What environments returned in a few random steps.

    Args:
        description: Numbers of steps, rewards, episodes and contexts.
        cuts: Reasons for which episodes were cut.
        blank: Whether all frames have a single colour.
    """

    description: str
    cuts: tuple[str, ...]
    blank: bool


def take_steps(frames: VecEnv) -> Trial:
    """Reset environments and take STEPS random steps in each; every value passes the contract check.

    Args:
        frames: Environments with observations Dict(frame, ...).
    """
    observations: Any = frames.reset()
    contexts = [info.get("context", {}) for info in frames.reset_infos]
    blank, rewards, ended, cuts = _blank(observations), [], 0, []
    frames.action_space.seed(0)
    for _ in range(STEPS):
        actions = np.stack([frames.action_space.sample() for _ in range(frames.num_envs)])
        observations, step_rewards, dones, infos = frames.step(actions)
        blank &= _blank(observations)
        rewards.append(step_rewards)
        ended += int(dones.sum())
        cuts += [str(info["cut"]) for info in infos if "cut" in info]
        contexts += [info.get("context", {}) for info in infos]
    texts = list(dict.fromkeys(", ".join(map(str, context.values())) for context in contexts))
    description = (
        f"{STEPS} random steps in each of {frames.num_envs}: rewards from {np.min(rewards):g} to {np.max(rewards):g}, "
        f"{ended} episodes ended, {len(texts)} contexts such as {texts[0]!r}"
    )
    return Trial(description, tuple(dict.fromkeys(cuts)), blank)


def _blank(observations: Any) -> bool:
    frames = observations["frame"]
    return bool((frames == frames[:, :1, :1]).all())
