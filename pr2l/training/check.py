"""`pr2l check`: create each part of a run once before the run starts, and report problems, memory and time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.markup import escape
from rich.table import Table

from pr2l.core import prompt, registry
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.data.recorded import learns_from_data, recording
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.cache import CachedEncoder
from pr2l.policies.base import Hooks, Learner
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed, observation_space
from pr2l.rollout.workers import arrange
from pr2l.training.checkpoints import KEEP
from pr2l.training.metrics import check_tracking

FEW_UPDATES = 3  # with fewer updates, a run hardly learns
TIMED_SECONDS = 20.0  # seconds after which the timed first rollout stops


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        what: Part of the run.
        description: Description of the part.
        problem: Advice: how to solve the problem if not `good`, otherwise a warning; "" = none.
        good: Whether the run can start.
    """

    what: str
    description: str
    problem: str = ""
    good: bool = True


def check(config: RunConfig) -> bool:
    """Print a table of findings and return whether the run can start."""
    table = Table("", "checked", "found", title=f"{config.environment}/{config.task}: {config.why}")
    good = True
    for finding in findings(config):
        good &= finding.good
        mark = "[green]ok[/]" if finding.good else "[bold red]fails[/]"
        table.add_row(mark, finding.what, escape("\n".join(filter(None, (finding.description, finding.problem)))))
    Console().print(table)
    return good


def findings(config: RunConfig) -> Iterator[Finding]:
    """Yield the findings, the cheapest first, until a part of the run cannot be created."""
    yield _task(config)
    yield from _updates(config)
    subject = ""
    try:
        subject = "prompt"
        yield _prompt(config)
        subject = "environment"
        spaces = build.frame_spaces(config)  # also if the run learns from data: its evaluation plays
        yield _environment(config, spaces)
        subject = "encoder"
        encoder = build.encoder(config, spaces.frame_shape)
        yield _encoder(config, encoder)
        subject = "data"
        if learns_from_data(config):
            yield _data(config)
            subject = "policy"
            yield from _policy(config, encoder, spaces)
        else:
            subject = "memory"
            memory = rollout_memory(config, encoder, spaces)
            yield memory
            if isinstance(encoder, CachedEncoder):
                yield _cache(encoder)
            subject = "policy"
            if memory.good:
                yield from _policy(config, encoder, spaces)
                subject = "first steps"
                learner = build.learner(config, encoder, spaces)
                with closing(build.environments(config, "train", labels=encoder.needs_labels)) as frames:
                    yield _first_steps(config, learner, VecEmbed(frames, encoder))
    except (UserError, ValueError, ImportError) as error:
        yield Finding(subject, "", str(error), good=False)
    yield _tracking(config)


def _task(config: RunConfig) -> Finding:
    task = registry.load("environments", config.environment).TASKS[config.task]
    length = f"at most {task.horizon} decisions an episode" if task.horizon else "episodes of any length"
    return Finding("task", f"success: {task.success}; {length}")


def _updates(config: RunConfig) -> Iterator[Finding]:
    """Yield the number of updates, if the algorithm has an option `n_steps` or `batch`."""
    options = config.options("algorithm")
    batch = options.n_steps * config.num_envs if hasattr(options, "n_steps") else getattr(options, "batch", 0)
    if not batch:
        return
    count = -(-config.steps // batch)
    few = f"{config.steps:,} steps are few for {count} updates of {batch:,}: take at least {FEW_UPDATES * batch:,}"
    yield Finding("updates", f"{count:,} of at least {batch:,} steps", few if count < FEW_UPDATES else "")


def _prompt(config: RunConfig) -> Finding:
    if config.prompt_name is None:
        return Finding("prompt", "none")
    contexts = prompt.task_contexts(registry.load("environments", config.environment).TASKS[config.task])
    text_prompt = prompt.load(config.prompt_name)
    if contexts is None:
        return Finding("prompt", f"filled with free text: {text_prompt.template!r}")
    if text_prompt.messages:
        prompts = [str(text_prompt.render_messages(context)) for context in contexts]
        summary = f"{len(set(prompts))} conversations over {text_prompt.images} frames, such as {prompts[0]}"
        return Finding("prompt", summary)
    texts = prompt.check(text_prompt, contexts)
    return Finding("prompt", f"{len(set(texts))} texts, such as {texts[0]!r}")


def _encoder(config: RunConfig, encoder: Encoder) -> Finding:
    return Finding("encoder", f"{config.encoder}: {encoder.tokens} tokens of {encoder.width} numbers a frame")


def _environment(config: RunConfig, frames: build.Spaces) -> Finding:
    shapes = ", ".join(f"{key} {space.shape}" for key, space in frames.observation_space.items())
    where = f"; {_workers(config)}" if config.workers else ""
    return Finding("environment", f"{config.num_envs} x {shapes}; {frames.action_space}{where}")


def _workers(config: RunConfig) -> str:
    groups = arrange(config.num_envs, config.workers, config.step_groups)
    sizes = " + ".join(str(sum(map(len, shares))) for shares in groups)
    return f"{len(groups[0])} worker processes, VLM batches of {sizes} frames a step"


def _data(config: RunConfig) -> Finding:
    """Return the size of the data set and the number of passes over it."""
    data = recording(config)
    transitions = len(data) - data.episodes
    epochs = f"{config.steps:,} steps see each {config.steps / transitions:.3g} times"
    return Finding("data", f"{data.episodes:,} episodes of {transitions:,} transitions in {config.data}; {epochs}")


def rollout_memory(config: RunConfig, encoder: Encoder, frames: build.Spaces) -> Finding:
    """Check whether the observations of a rollout fit into the memory of the devices that store them.

    Args:
        config: Config of the run; its algorithm has a function `rollout_bytes`.
        encoder: Encoder of the run.
        frames: Spaces of one environment before the encoder.

    Returns:
        The finding, `good` if the free memory is enough.
    """
    algorithm = registry.load("algorithms", config.algorithm)
    space = observation_space(frames.observation_space, encoder)
    rollout = algorithm.rollout_bytes(space, config.num_envs, config.options("algorithm"))
    free = {device: _free_memory(device) for device in rollout}
    sizes = [f"{_size(rollout[on])} of observations on the {on}, where {_size(free[on])} are free" for on in rollout]
    good = all(rollout[device] <= free[device] for device in rollout)
    problem = "take fewer num_envs or algorithm_options.n_steps, or fewer tokens (encoder_options)"
    return Finding("memory", f"a rollout takes {' and '.join(sizes)}", "" if good else problem, good)


def _free_memory(device: str) -> int:
    """Return the free memory of device "cpu" or "cuda" in bytes."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available


def _cache(encoder: CachedEncoder) -> Finding:
    free = psutil.virtual_memory().available
    summary = f"embeddings of the last {encoder.capacity:,} frames take {_size(encoder.bytes)}; {_size(free)} are free"
    good = encoder.bytes <= free
    problem = "" if good else "take a smaller cache_frames (0 = none), or fewer tokens"
    return Finding("cache_frames", summary, problem, good)


def _policy(config: RunConfig, encoder: Encoder, frames: build.Spaces) -> Iterator[Finding]:
    learner = build.learner(config, encoder, frames)
    count = learner.parameter_count
    yield Finding("policy", f"{config.network}: {count:,} parameters learn on {learner.device}")
    # Weights and Adam's two moments in float32. One checkpoint more than KEEP is on the disk during writing.
    needed, free = 3 * 4 * count * (KEEP + 1), shutil.disk_usage(Path.cwd()).free
    problem = "free some space, or start the run from another disk" if needed > free else ""
    yield Finding("disk", f"checkpoints take up to {_size(needed)}; {_size(free)} are free", problem, needed <= free)


def _first_steps(config: RunConfig, learner: Learner, venv: VecEmbed) -> Finding:
    """Run the first rollout and update, at most TIMED_SECONDS of the rollout, to find NaN, crashes and the speed."""
    if venv.encoder.fit_frames:
        return Finding("first steps", "not taken: the encoder is fitted on the run's own first frames")
    timer = _Timer(learner)
    with suppress(_Enough):
        learner.learn(venv, config.steps, timer)
    speed = timer.steps / timer.played
    seconds = config.steps * (timer.played + timer.updating) / timer.steps
    learning = "learning included" if timer.updating else "learning comes on top"
    summary = f"{speed:.0f} frames/s; about {_duration(seconds)} for {config.steps:,} steps, {learning}"
    return Finding("first steps", summary)


class _Enough(Exception):
    pass


class _Timer(Hooks):
    """Hooks that time the first rollout and the first update, and stop then or after TIMED_SECONDS of the rollout."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.steps, self.played, self.updating = 0, 0.0, 0.0

    def on_update_start(self, learner: Learner) -> None:
        self._start = time.perf_counter()

    def on_step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        self.steps, self.played = self.learner.num_timesteps, time.perf_counter() - self._start
        if self.played > TIMED_SECONDS:
            raise _Enough

    def on_update(self, metrics: Mapping[str, float]) -> None:
        self.updating = time.perf_counter() - self._start - self.played
        raise _Enough


def _duration(seconds: float) -> str:
    """Format a duration in seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _tracking(config: RunConfig) -> Finding:
    try:
        check_tracking(config)
    except UserError as error:
        return Finding("wandb", config.wandb, str(error), good=False)
    return Finding("wandb", config.wandb)


def _size(count: float) -> str:
    """Format a number of bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} TB"
