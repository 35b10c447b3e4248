"""Benchmark suites: methods, tasks and seeds, and the check that a run belongs to a suite.

    configs/benchmarks/doom-mini.yaml -> load_suite("doom-mini").planned(): one run per task, method and seed

A suite has a version. Every change that affects the results needs a new version; rows of older versions are rejected.

If a suite has `representations`, each method runs with each of them: the method `digirl` with the representation `dom`
is the method `digirl_dom`.
"""

from __future__ import annotations

import fnmatch
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints

from pr2l.core import registry
from pr2l.core.config import OptionKind, RunConfig, Seed, load_config, read_config, upgrade
from pr2l.core.errors import UnknownName, UserError
from pr2l.training.runs import MAY_CHANGE

FOLDER = "benchmarks"  # in configs/
# a resumed run may change them, a suite's run may not
MEASURES = {"steps", "evaluation_episodes", "evaluation_greedy", "evaluations"}
SPEED = ("device", "threads", "handles")  # options of algorithms that change the speed of a method, not the method
PROTOCOL = ("environment", "environment_options", "task", "algorithm", "steps", "evaluation_episodes", "evaluations")
Player = Literal["script", "zero_shot"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]  # it becomes part of file names


class Entry(BaseModel):
    """Settings of one task of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str | None = None  # configs/<base>/ has the methods' configs; null = configs/<environment>/<task>/
    steps: PositiveInt | None = None  # of each run on this task; null = the suite's steps
    overrides: tuple[str, ...] = ()  # config overrides for all runs on this task


class Method(BaseModel):
    """A method of a suite: a config that exists for each task, and overrides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str  # last part of the config's name, such as "prompted"
    overrides: tuple[str, ...] = ()
    about: str = ""  # what the method is, for the leaderboard
    representations: tuple[Name, ...] | None = None  # of the suite's; null = all, [] = the config's own
    # plays without training, once: the environment's scripted solution, or the config's VLM that is asked for actions
    # (pr2l/agents/screen.py); null = a policy is trained
    player: Player | None = None


class Representation(BaseModel):
    """What the policies of a suite read: overrides for all methods that run with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overrides: tuple[str, ...] = ()
    about: str = ""  # what it is, for the leaderboard


class Paper(BaseModel):
    """Success rates that a paper reports for methods of a suite, to ask whether their order holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str  # which table of which paper
    success: dict[Name, Annotated[float, Field(ge=0, le=1)]] = Field(min_length=2)  # by method
    representations: tuple[Name, ...] = ()  # of the suite's, with each of which the methods are compared
    caveat: str = ""  # how the paper's methods or tasks differ

    @property
    def comparisons(self) -> dict[str, dict[str, float]]:
        """For each representation, or "" if there are none: the paper's success rates by name of the suite's method."""
        return {
            representation: {_joined(method, representation): rate for method, rate in self.success.items()}
            for representation in self.representations or ("",)
        }


class Definition(BaseModel):
    """Content of a suite's YAML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str  # the question that the suite answers
    version: PositiveInt  # raised with every change that affects numbers
    tasks: dict[str, Entry] = Field(min_length=1)  # by "<environment>/<task>"
    methods: dict[Name, Method] = Field(min_length=1)
    representations: dict[Name, Representation] = Field(default_factory=dict)  # by name
    baseline: str  # the method that P(better) compares with
    algorithm: str | None = None  # of all runs; null = that of each method's config
    # environment steps of each run, or transitions if it learns from recorded episodes; null = those of its config
    steps: PositiveInt | None = None
    # folder of a data set -> `pr2l` command that makes it, without "pr2l" and without --output; in this order
    data: dict[str, str] = Field(default_factory=dict)
    paper: Paper | None = None
    seeds: tuple[Seed, ...] = Field(min_length=1)
    evaluation_episodes: PositiveInt  # of each run
    threshold: float = Field(gt=0, le=1)  # training success rate for "steps to threshold"
    overrides: tuple[str, ...] = ()  # config overrides for all runs

    @property
    def expanded(self) -> Definition:
        """The definition with a method for each method and representation, and without representations."""
        methods = {
            _joined(name, representation): _with(method, self.representations.get(representation))
            for name, method in self.methods.items()
            for representation in self._representations_of(method)
        }
        return self.model_copy(update={"methods": methods, "representations": {}})

    def _representations_of(self, method: Method) -> tuple[str, ...]:
        chosen = method.representations
        return ((*self.representations,) if chosen is None else chosen) or ("",)


def _joined(method: str, representation: str) -> str:
    return f"{method}_{representation}" if representation else method


def _with(method: Method, representation: Representation | None) -> Method:
    """Return a method with a representation; the method's own overrides win."""
    if representation is None:
        return method
    about = "; ".join(filter(None, (method.about, representation.about)))
    return method.model_copy(update={"overrides": (*representation.overrides, *method.overrides), "about": about})


@dataclass(frozen=True)
class PlannedRun:
    """One run that a suite defines.

    Attributes:
        suite: Name of the suite.
        task: "<environment>/<task>".
        method: Name of the method.
        words: Arguments of `pr2l train`: the config and its overrides.
        config: The resolved config.
        player: What plays in place of a trained policy; None = a policy is trained.
    """

    suite: str
    task: str
    method: str
    words: tuple[str, ...]
    config: RunConfig
    player: Player | None = None

    @property
    def name(self) -> str:
        """The name of the run's row."""
        return row_name(self.task, self.method, self.config.seed)

    @property
    def command(self) -> str:
        """The shell command that trains and evaluates this run."""
        return shlex.join(("pr2l", "bench", "run", self.suite) if self.player else ("pr2l", "train", *self.words))


@dataclass(frozen=True)
class Suite:
    """A suite with all configs resolved."""

    name: str
    definition: Definition
    _first: dict[tuple[str, str], PlannedRun] = field(repr=False)  # by (task, method), with the first seed

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, as "<environment>/<task>"."""
        return tuple(self.definition.tasks)

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods that the suite defines."""
        return tuple(self.definition.methods)

    def planned(self) -> list[PlannedRun]:
        """Return every run of the suite: all tasks and methods with the first seed, then with the next seed."""
        return [
            self.plan(task, method, seed)
            for seed in self.definition.seeds
            for task, method in self._first
            if seed in self.seeds_of(method)
        ]

    def matching(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Return the methods that match at least one pattern, in the order of the suite; all without patterns.

        Args:
            patterns: Names of methods, in which * stands for any characters.

        Raises:
            UnknownName: A pattern matches no method.
        """
        for pattern in patterns:
            if not fnmatch.filter(self.methods, pattern):
                raise UnknownName(f"methods of {self.name}", pattern, self.methods)
        chosen = {method for pattern in patterns or ("*",) for method in fnmatch.filter(self.methods, pattern)}
        return tuple(method for method in self.methods if method in chosen)

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """Return the seeds of a method: all, or the first one of a player, which does not learn.

        Args:
            method: Any method, also one that the suite does not define.
        """
        return self.definition.seeds if self.player_of(method) is None else self.definition.seeds[:1]

    def plan(self, task: str, method: str, seed: int) -> PlannedRun:
        """Return the run of a task, method and seed.

        Args:
            task: One of `tasks`.
            method: One of `methods`.
            seed: Any seed, also one that the suite does not have.

        Raises:
            KeyError: The suite has no such task or method.
        """
        first = self._first[task, method]
        words = (*first.words[:-1], f"seed={seed}")
        config = first.config.model_copy(update={"seed": seed})
        return PlannedRun(self.name, task, method, words, config, first.player)

    def differences(self, task: str, method: str, config: dict[str, Any]) -> list[str]:
        """Return the differences between a run's config and the suite, as text for an error message.

        Args:
            task: The run's "<environment>/<task>".
            method: The run's method. If the suite defines it, the run must have the method's config. Otherwise only
                the protocol is compared: environment and its options, task, evaluation episodes, evaluations and seed,
                and algorithm and steps if they are the suite's.
            config: The run's config, from `RunConfig.model_dump(mode="json")`.

        Returns:
            One text per difference; empty if the run belongs to the suite.
        """
        if task not in self.definition.tasks:
            return [f"task is {task!r}, and the suite has {', '.join(self.tasks)}"]
        if (seed := config.get("seed")) not in self.definition.seeds:
            return [f"seed is {seed!r}, and the suite has {', '.join(map(str, self.definition.seeds))}"]
        planned = self._first.get((task, method)) or self._first[task, self.methods[0]]
        expected, config = (
            {**values, "algorithm_options": without(values.get("algorithm_options"), SPEED)}
            for values in (planned.config.model_dump(mode="json"), _with_defaults(config, planned.config))
        )
        keys = set(expected) - (MAY_CHANGE - MEASURES) - {"seed"} if method in self.methods else self._protocol
        differing = [key for key in expected if key in keys and config.get(key) != expected[key]]
        return [f"{key} is {config.get(key)!r}, and the suite has {expected[key]!r}" for key in differing]

    @property
    def _protocol(self) -> set[str]:
        """The keys in which a config of any method has to agree with the suite."""
        free = {key for key in ("algorithm", "steps") if getattr(self.definition, key) is None}
        return {*PROTOCOL} - free

    def player_of(self, method: str) -> Player | None:
        """Return what plays in place of a trained policy; None = a policy is trained.

        Args:
            method: Any method, also one that the suite does not define.
        """
        defined = self.definition.methods.get(method)
        return defined.player if defined else None

    def method_of(self, config: dict[str, Any], player: Player | None = None) -> str | None:
        """Return the name of the method that has a run's config; None if the suite has no such method.

        Args:
            config: The run's config, from `RunConfig.model_dump(mode="json")`. Its environment, task and seed must be
                of the suite too.
            player: What has played in place of a trained policy.
        """
        task = f"{config['environment']}/{config['task']}"
        candidates = [method for method in self.methods if self.player_of(method) == player]
        return next((method for method in candidates if not self.differences(task, method, config)), None)


def without(options: Any, names: Sequence[str]) -> Any:
    """Return options without some of them; what is no mapping stays as it is.

    Args:
        options: Values by name.
        names: Names to leave out.
    """
    return {name: options[name] for name in options if name not in names} if isinstance(options, dict) else options


def row_name(task: str, method: str, seed: int) -> str:
    """Return the name of a run's row, without suffix.

    Args:
        task: "<environment>/<task>"; the slash becomes a hyphen.
        method: Name of the method.
        seed: Seed of the run.
    """
    return f"{task.replace('/', '-')}-{method}-seed{seed}"


def names() -> list[str]:
    """Return the names of the suites in configs/benchmarks/."""
    return [name.removeprefix(f"{FOLDER}/") for name in registry.names("configs") if name.startswith(f"{FOLDER}/")]


def names_with(task: str) -> list[str]:
    """Return the names of the suites in configs/benchmarks/ that contain a task "<environment>/<task>".

    Args:
        task: Name of the task with its environment. All suites are read.
    """
    return [name for name in names() if task in read_config(Definition, f"{FOLDER}/{name}").tasks]


def load_suite(name: str) -> Suite:
    """Load a suite and resolve all of its configs.

    Args:
        name: A name in configs/benchmarks/, or the path of a .yaml file.

    Raises:
        UserError: If a suite, key, task, config or override is unknown. The message has the most similar known name.
    """
    if not name.endswith((".yaml", ".yml")) and name not in (suites := names()):
        raise UnknownName("suites", name, suites, hint=f"`pr2l list configs` shows them as {FOLDER}/NAME.")
    path = name if name.endswith((".yaml", ".yml")) else f"{FOLDER}/{name}"
    return define(Path(path).stem, read_config(Definition, path))


def define(name: str, definition: Definition) -> Suite:
    """Return a suite from its definition, with all configs resolved.

    Args:
        name: Name of the suite.
        definition: Content of its file.

    Raises:
        UserError: If the baseline, a task, a config or an override is unknown, or a seed occurs twice.
    """
    _check_representations(name, definition)
    definition = definition.expanded
    for method in (definition.baseline, *_paper_methods(definition)):
        if method not in definition.methods:
            hint = "`baseline` and `paper` name methods of the suite."
            raise UnknownName(f"methods of {name}", method, definition.methods, hint=hint)
    if len(set(definition.seeds)) < len(definition.seeds):
        raise UserError(f"{name}: seeds {list(definition.seeds)} has a seed twice")
    return Suite(name, definition, {(run.task, run.method): run for run in _first_runs(name, definition)})


def _paper_methods(definition: Definition) -> tuple[str, ...]:
    comparisons = definition.paper.comparisons.values() if definition.paper else ()
    return tuple(method for rates in comparisons for method in rates)


def _check_representations(name: str, definition: Definition) -> None:
    for method in definition.methods.values():
        for representation in method.representations or ():
            if representation not in definition.representations:
                raise UnknownName(f"representations of {name}", representation, definition.representations)


def _first_runs(name: str, definition: Definition) -> Iterator[PlannedRun]:
    """Every task and method with the first seed."""
    for task, entry in definition.tasks.items():
        base = entry.base or task
        _check_task(name, task, base)
        for method, entry_of_method in definition.methods.items():
            protocol = {
                "algorithm": definition.algorithm,
                "steps": entry.steps or definition.steps,
                "evaluation_episodes": definition.evaluation_episodes,
            }
            overrides = [
                *([f"task={task.partition('/')[2]}"] if entry.base else []),
                *definition.overrides,
                *entry.overrides,
                *entry_of_method.overrides,
                *(f"{key}={value}" for key, value in protocol.items() if value is not None),
            ]
            words = (f"{base}/{entry_of_method.config}", *overrides, f"seed={definition.seeds[0]}")
            yield PlannedRun(name, task, method, words, _resolve(name, words), entry_of_method.player)


def _check_task(suite: str, task: str, base: str) -> None:
    environment, _, name = task.partition("/")
    tasks = registry.load("environments", environment).TASKS
    if name not in tasks:
        raise UnknownName(f"tasks of {environment}", name, tasks, hint=f"It is a task of the suite {suite}.")
    if base.partition("/")[0] != environment:
        raise UserError(f"{suite}: the base {base!r} of the task {task!r} is of another environment")


def _resolve(suite: str, words: Sequence[str]) -> RunConfig:
    try:
        return load_config(words[0], words[1:])
    except UserError as error:
        raise UserError(f"{suite}, `pr2l train {shlex.join(words)}`: {error}") from error


def _with_defaults(config: dict[str, Any], template: RunConfig) -> dict[str, Any]:
    """Return a run's config with current key names, and with defaults for keys and options that are newer."""
    fields = RunConfig.model_fields.items()
    newer = {key: field.get_default(call_default_factory=True) for key, field in fields if not field.is_required()}
    filled = newer | upgrade(config)
    for kind in get_args(OptionKind):
        key = f"{kind}_options"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # a stored config may have old names
                filled[key] = template.model_copy(update={key: filled[key]}).options(kind).model_dump(mode="json")
        except (KeyError, UserError):  # options of another plug-in, or removed ones: a difference
            continue
    return filled
