"""`pr2l check`: create each part of a run once before the run starts, and report problems, memory and time."""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.markup import escape
from rich.table import Table
from stable_baselines3.common.vec_env import VecEnv

from pr2l.core import prompt, registry
from pr2l.core.config import RunConfig
from pr2l.core.console import Console
from pr2l.core.errors import UserError, is_user_error
from pr2l.data.action_features import cost
from pr2l.data.candidates import text_form
from pr2l.data.recorded import learns_from_data, recording
from pr2l.data.recording import Recording
from pr2l.encoders.base import Encoder
from pr2l.encoders.common.action_states import action_states
from pr2l.encoders.common.cache import CachedEncoder, uncached
from pr2l.encoders.common.prompts import PromptRenderer
from pr2l.policies.base import Hooks, Learner
from pr2l.rollout import build
from pr2l.rollout.vec_embed import VecEmbed
from pr2l.rollout.workers import arrange
from pr2l.training import trial
from pr2l.training.checkpoints import KEEP
from pr2l.training.metrics import check_tracking

FEW_UPDATES = 3  # with fewer updates, a run hardly learns
SHOWN = 300  # characters of a prompt that the report shows
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
    """Print a table of findings and return whether the run can start.

    Args:
        config: Config of the run. Its parts are created, and a few random steps are taken. Unless the run learns from
            recorded episodes, its first rollout, for at most TIMED_SECONDS, and its first update are run too.
    """
    table = Table("", "checked", "found", title=escape(f"{config.environment}/{config.task}: {config.why}"))
    good = True
    for finding in findings(config):
        good &= finding.good
        mark = "[green]ok[/]" if finding.good else "[bold red]fails[/]"
        table.add_row(mark, finding.what, escape("\n".join(filter(None, (finding.description, finding.problem)))))
    Console().print(table)
    if not good:
        Console().print("next step: mend what fails, as its line says, then run `pr2l check` again", highlight=False)
    return good


@dataclass
class _Progress:
    """Name of the part that is checked now, for an error in it."""

    part: str = ""


def findings(config: RunConfig) -> Iterator[Finding]:
    """Yield the findings, the cheapest first, until a part of the run cannot be created.

    Args:
        config: Config of the run.
    """
    yield _task(config)
    yield from _updates(config)
    progress = _Progress()
    try:
        yield from _parts(config, progress)
    except Exception as error:  # a simulator may raise anything
        yield Finding(progress.part, "", _problem(error), good=False)
    yield _tracking(config)


def _problem(error: Exception) -> str:
    """Return the text of an exception; print the traceback of one that is not a mistake of the user."""
    if is_user_error(error) or isinstance(error, ImportError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}\nThe run would end with this error; its traceback is above"


def _parts(config: RunConfig, progress: _Progress) -> Iterator[Finding]:
    """Create the parts of the run one after the other, and yield the findings about each."""
    progress.part = "prompt"
    yield _prompt(config)
    progress.part = "environment"
    spaces = build.frame_spaces(config)  # also if the run learns from data: its evaluation plays
    yield _environment(config, spaces)
    progress.part = "encoder"
    encoder = build.encoder(config, spaces.frame_shape)
    yield _encoder(config, encoder)
    yield from _prompt_length(encoder)
    progress.part = "data"
    data = recording(config) if learns_from_data(config) else None
    if data is not None:
        yield _data(config, data)
        yield from _action_features(config, encoder, data)
    good = True
    for finding in _memory(config, encoder, spaces, data, progress):
        good &= finding.good
        yield finding
    if good:
        progress.part = "policy"
        yield from _policy(config, encoder, spaces)
        yield from _steps(config, encoder, spaces, data, progress)


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
        kind = f"conversations over {text_prompt.images} frames"
        summary = f"{len(set(prompts))} {kind}, such as {_shortened(prompts[0])}"
        return Finding("prompt", summary)
    texts = prompt.check(text_prompt, contexts)
    return Finding("prompt", f"{len(set(texts))} texts, such as {_shortened(texts[0])!r}")


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _encoder(config: RunConfig, encoder: Encoder) -> Finding:
    return Finding("encoder", f"{config.encoder}: {encoder.tokens} tokens of {encoder.width} numbers a frame")


def _prompt_length(encoder: Encoder) -> Iterator[Finding]:
    """Yield whether the longest prompt, with images and answer, is within what the VLM was trained for."""
    encoder = uncached(encoder)
    prompts, vlm = getattr(encoder, "prompts", None), getattr(encoder, "vlm", None)
    if not isinstance(prompts, PromptRenderer) or vlm is None:
        return
    answer = 0 if vlm.is_encoder_decoder else vlm.new_tokens
    length = prompts.tokens + sum(prompts.grids) + answer
    positions = getattr(vlm.config.get_text_config(), "max_position_embeddings", None)
    bound = "unknown" if positions is None else f"{positions:,}"
    description = f"at most {prompts.tokens:,} tokens, {length:,} with images and answer; positions of the VLM: {bound}"
    good = positions is None or length <= positions
    problem = "use a shorter prompt, fewer vlm_options.new_tokens or a smaller encoder_options.max_prompt_tokens"
    yield Finding("prompt length", description, "" if good else problem, good)


def _environment(config: RunConfig, frames: build.Spaces) -> Finding:
    shapes = ", ".join(f"{key} {space.shape}" for key, space in frames.observation_space.items())
    where = f"; {_workers(config)}" if config.workers else ""
    return Finding("environment", f"{config.num_envs} x {shapes}; {frames.action_space}{where}")


def _workers(config: RunConfig) -> str:
    groups = arrange(config.num_envs, config.workers, config.step_groups)
    sizes = " + ".join(str(sum(map(len, shares))) for shares in groups)
    return f"{len(groups[0])} worker processes, VLM batches of {sizes} frames a step"


def _data(config: RunConfig, data: Recording) -> Finding:
    """Return the size of the data set and the number of passes over it."""
    transitions = len(data) - data.episodes
    epochs = f"{config.steps:,} steps see each {config.steps / transitions:.3g} times"
    return Finding("data", f"{data.episodes:,} episodes of {transitions:,} transitions in {config.data}; {epochs}")


def _action_features(config: RunConfig, encoder: Encoder, data: Recording) -> Iterator[Finding]:
    """Yield disk space and duration of the features of actions, if the algorithm uses them; one step is timed."""
    options = config.options("algorithm")
    states = action_states(encoder, options)
    if states is None:
        return
    shape = len(data) - data.episodes, options.n, states.width
    contexts, action = data.contexts_of(0)[:1], data.episode(0).actions[0]
    start = time.perf_counter()
    states.encode(data.frames(0)[:1], [[text_form(data)(action, contexts[0])] * options.n], contexts)
    seconds = shape[0] * (time.perf_counter() - start)
    needed, free = 2 * math.prod(shape), shutil.disk_usage(data.folder).free
    description = f"{cost(shape)}, about {_duration(seconds)}; {_size(free)} are free"
    problem = "free some space, or take a smaller algorithm_options.n" if needed > free else ""
    yield Finding("action features", description, problem, needed <= free)


def _memory(
    config: RunConfig, encoder: Encoder, frames: build.Spaces, data: Recording | None, progress: _Progress
) -> Iterator[Finding]:
    """Yield whether rollout, cache and simulators fit into the memory."""
    progress.part = "memory"
    if data is None:
        memory = rollout_memory(config, encoder, frames)
        yield memory
        if isinstance(encoder, CachedEncoder):
            yield _cache(encoder)
        if not memory.good:
            return
    progress.part = "environment steps"  # this takes some in one environment
    if (count := _environment_count(config, data)) > 1:
        yield simulator_memory(config, count, labels=encoder.needs_labels)


def _environment_count(config: RunConfig, data: Recording | None) -> int:
    """Return the number of environments at the same time; a run on recorded data has them in its evaluation only."""
    return config.num_envs if data is None else min(config.num_envs, config.evaluation_episodes)


def simulator_memory(config: RunConfig, count: int, *, labels: bool) -> Finding:
    """Check whether the environments of a run fit into the memory, from the memory that one of them takes.

    Args:
        config: Config of the run.
        count: Number of environments.
        labels: Whether infos contain the simulator's ground truth.
    """
    one, workers = trial.memory_of_one(config, labels=labels), min(config.workers, count)
    needed, free = count * one + workers * trial.WORKER_BYTES, psutil.virtual_memory().available
    processes = f" with {workers} worker processes" if workers else ""
    description = f"one takes {_size(one)}, {count:,}{processes} take {_size(needed)}; {_size(free)} are free"
    fits = max(1, int((free - workers * trial.WORKER_BYTES) // max(one, 1)))
    problem = "" if needed <= free else f"take num_envs={fits} or less, or fewer workers"
    return Finding("simulators", description, problem, needed <= free)


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
    space = build.learner_space(config, frames.observation_space, encoder)
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


def _steps(
    config: RunConfig, encoder: Encoder, frame_spaces: build.Spaces, data: Recording | None, progress: _Progress
) -> Iterator[Finding]:
    """Yield what the run's environments return in a few random steps, and in the first rollout of the learner."""
    progress.part = "environment steps"
    count = _environment_count(config, data)
    split: build.Split = "train" if data is None else "evaluation"
    with closing(build.environments(config, split, labels=encoder.needs_labels, count=count)) as frames:
        yield _random_steps(config, frames)
        if data is None:
            progress.part = "first steps"
            learner = build.learner(config, encoder, frame_spaces)
            yield _first_steps(config, learner, build.embedded(config, frames, encoder))


def _random_steps(config: RunConfig, frames: VecEnv) -> Finding:
    result = trial.take_steps(frames)
    where = f"in {config.workers} worker processes" if config.workers else "in this process"
    description = f"{result.description}; {where}{', isolated' if config.isolated else ''}"
    if result.cuts:
        return Finding("environment steps", description, f"an episode was cut: {result.cuts[0]}", good=False)
    blank = "every frame has one colour: does the simulator draw?" if result.blank else ""
    return Finding("environment steps", description, blank)


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
