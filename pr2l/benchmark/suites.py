"""Benchmark suites: which methods are run on which tasks, with which seeds, and when a run counts as one of them.

    configs/benchmarks/doom-mini.yaml -> load_suite("doom-mini").cells(), one per task, method and seed

A suite is frozen: what changes its numbers is a new version of it, and rows of the old one no longer fit.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints

from pr2l.core import registry
from pr2l.core.config import OptionKind, RunConfig, load_config, read_config, upgrade
from pr2l.core.errors import UnknownName, UserError
from pr2l.training.runs import MAY_CHANGE

FOLDER = "benchmarks"  # in configs/
MEASURES = {"steps", "evaluation_episodes", "evaluation_greedy"}  # a resumed run may change them; a benchmark's may not
PROTOCOL = ("environment", "environment_options", "task", "algorithm", "steps", "evaluation_episodes")
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]  # it becomes part of file names


class Entry(BaseModel):
    """A task of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str | None = None  # configs/<base>/ has its methods' configs; null = configs/<environment>/<task>/
    steps: PositiveInt | None = None  # of a run; null = as the suite's
    overrides: tuple[str, ...] = ()  # of all runs on this task


class Method(BaseModel):
    """What is compared: a config that each task has, and what is otherwise than there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str  # the last part of its name, such as "prompted"
    overrides: tuple[str, ...] = ()


class Definition(BaseModel):
    """What a suite's file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    version: PositiveInt  # raised by every change that moves numbers
    tasks: dict[str, Entry] = Field(min_length=1)  # by "<environment>/<task>"
    methods: dict[Name, Method] = Field(min_length=1)
    baseline: str  # the method that the others' probability of improvement is over
    algorithm: str  # of all runs
    steps: PositiveInt  # of each run
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    evaluation_episodes: PositiveInt  # of each run, the same for all
    threshold: float = Field(gt=0, le=1)  # the success rate in training that steps are counted to
    overrides: tuple[str, ...] = ()  # of all runs


@dataclass(frozen=True)
class Cell:
    """One run that a suite asks for. words: what stands after `pr2l train`; config: what they come to."""

    suite: str
    task: str
    method: str
    words: tuple[str, ...]
    config: RunConfig

    @property
    def name(self) -> str:
        return row_name(self.task, self.method, self.config.seed)

    @property
    def command(self) -> str:
        """The line that makes this run alone."""
        return shlex.join(("pr2l", "train", *self.words))


@dataclass(frozen=True)
class Suite:
    """A definition whose configs have all been resolved."""

    name: str
    definition: Definition
    _cells: dict[tuple[str, str], Cell] = field(repr=False)  # by task and method, each with the first seed

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.definition.tasks)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.definition.methods)

    def cells(self) -> list[Cell]:
        """Every run: all methods and tasks with the first seed, then with the next."""
        return [self.cell(*place, seed) for seed in self.definition.seeds for place in self._cells]

    def cell(self, task: str, method: str, seed: int) -> Cell:
        first = self._cells[task, method]
        words = (*first.words[:-1], f"seed={seed}")
        return Cell(self.name, task, method, words, first.config.model_copy(update={"seed": seed}))

    def differences(self, task: str, method: str, config: dict[str, Any]) -> list[str]:
        """What keeps a run's config (of `RunConfig.model_dump`) from being a run of this suite; [] = nothing.

        A method that the suite does not know has to keep to the protocol: task, algorithm, steps, episodes, seeds.
        """
        if task not in self.definition.tasks:
            return [f"task is {task!r}, and the suite has {', '.join(self.tasks)}"]
        if (seed := config.get("seed")) not in self.definition.seeds:
            return [f"seed is {seed!r}, and the suite has {', '.join(map(str, self.definition.seeds))}"]
        cell = self._cells.get((task, method)) or next(each for place, each in self._cells.items() if place[0] == task)
        asked, config = cell.config.model_dump(mode="json"), _with_defaults(config, cell.config)
        keys = set(asked) - (MAY_CHANGE - MEASURES) - {"seed"} if method in self.methods else PROTOCOL
        wrong = [key for key in asked if key in keys and config.get(key) != asked[key]]
        return [f"{key} is {config.get(key)!r}, and the suite has {asked[key]!r}" for key in wrong]

    def place(self, config: dict[str, Any]) -> tuple[str, str] | None:
        """The task and method that a run's config is of; None if the suite has no such method."""
        task = f"{config['environment']}/{config['task']}"
        return next(((task, method) for method in self.methods if not self.differences(task, method, config)), None)


def row_name(task: str, method: str, seed: int) -> str:
    return f"{task.replace('/', '-')}-{method}-seed{seed}"


def names() -> list[str]:
    return [name.removeprefix(f"{FOLDER}/") for name in registry.names("configs") if name.startswith(f"{FOLDER}/")]


def names_with(task: str) -> list[str]:
    """The suites that have a task."""
    return [name for name in names() if task in read_config(Definition, f"{FOLDER}/{name}").tasks]


def load_suite(name: str) -> Suite:
    """The suite of that name, or in the .yaml file of that path, with every config of it resolved.

    Raises UserError for unknown suites, keys, tasks, configs or overrides, each with the nearest that is known.
    """
    if not name.endswith((".yaml", ".yml")) and name not in (known := names()):
        raise UnknownName("suites", name, known, hint=f"`pr2l list configs` shows them as {FOLDER}/NAME.")
    path = name if name.endswith((".yaml", ".yml")) else f"{FOLDER}/{name}"
    return define(Path(path).stem, read_config(Definition, path))


def define(name: str, definition: Definition) -> Suite:
    """The suite of a definition. Raises UserError as load_suite does."""
    if definition.baseline not in definition.methods:
        raise UnknownName(f"methods of {name}", definition.baseline, definition.methods, hint="It is the baseline.")
    if len(set(definition.seeds)) < len(definition.seeds):
        raise UserError(f"{name}: seeds {list(definition.seeds)} has a seed twice; a run is counted once")
    return Suite(name, definition, {(cell.task, cell.method): cell for cell in _first_cells(name, definition)})


def _first_cells(name: str, definition: Definition) -> Iterator[Cell]:
    for task, entry in definition.tasks.items():
        base = entry.base or task
        _check_task(name, task, base)
        for method, how in definition.methods.items():
            config = f"{base}/{how.config}"
            moved = [f"task={task.partition('/')[2]}"] if entry.base else []
            frozen = {
                "algorithm": definition.algorithm,
                "steps": entry.steps or definition.steps,
                "evaluation_episodes": definition.evaluation_episodes,
            }
            measures = [f"{key}={value}" for key, value in frozen.items()]
            overrides = [*moved, *definition.overrides, *entry.overrides, *how.overrides, *measures]
            words = (config, *overrides, f"seed={definition.seeds[0]}")
            yield Cell(name, task, method, words, _resolve(name, words))


def _check_task(suite: str, task: str, base: str) -> None:
    environment, _, name = task.partition("/")
    tasks = registry.load("environments", environment).TASKS
    if name not in tasks:
        raise UnknownName(f"tasks of {environment}", name, tasks, hint=f"The suite {suite} asks for it.")
    if base.partition("/")[0] != environment:
        raise UserError(f"{suite}: the base {base!r} of {task!r} is of another environment")


def _resolve(suite: str, words: Sequence[str]) -> RunConfig:
    try:
        return load_config(words[0], words[1:])
    except UserError as error:
        raise UserError(f"{suite}, `pr2l train {shlex.join(words)}`: {error}") from error


def _with_defaults(config: dict[str, Any], like: RunConfig) -> dict[str, Any]:
    """A run's config with the options that came to be after it was made, which had what is their default now."""
    config = upgrade(config)
    filled = dict(config)
    for kind in get_args(OptionKind):
        key = f"{kind}_options"
        if isinstance(config.get(key), dict):
            filled[key] = like.model_copy(update={key: {}}).options(kind).model_dump(mode="json") | config[key]
    return filled
