"""Configs of runs: a flat YAML file with key=value overrides becomes one frozen, validated RunConfig.

Each plug-in defines the defaults of its options in its `Defaults`, beside the code that uses them. A resolved config
contains the values of all options, so that a run folder records everything that defines the run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from pr2l.core import options as plugin_options
from pr2l.core import prompt as prompts
from pr2l.core import registry
from pr2l.core.errors import UnknownName, UserError, explain
from pr2l.core.yaml_files import parse, read_mapping, write_mapping

OptionKind = Literal["environment", "vlm", "encoder", "algorithm", "network", "evaluator"]
Model = TypeVar("Model", bound=BaseModel)
TEXT_POLICY = "pr2l.agents.text_policy"  # module of the key `text_policy`, which packages before agents import by name
MAX_SEED = 2**32 - 1  # the largest seed that NumPy and Stable-Baselines3 take
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
_PLUGINS: dict[OptionKind, registry.ModuleKind] = {
    "environment": "environments",
    "vlm": "vlms",
    "encoder": "encoders",
    "algorithm": "algorithms",
    "network": "networks",
    "evaluator": "evaluators",
}


class OtherSchema(NamedTuple):
    """Kind of file in configs/ that is not the config of a run."""

    what: str
    command: str  # command that reads such a file
    short: bool = False  # whether the command takes the name without its folder


OTHER_SCHEMAS: dict[str, OtherSchema] = {
    "benchmarks/": OtherSchema("benchmark suite", "pr2l bench run {name}", short=True),
    "pretrain/": OtherSchema("pretraining of a VLM", "pr2l pretrain {name}"),
    "search/": OtherSchema("search space of prompts", "pr2l prompts search TASK --space {name}"),
    "sims/": OtherSchema("simulator", "pr2l sim install {name}", short=True),
}


class NoOptions(BaseModel):
    """Options of a plug-in that the config does not use."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(BaseModel):
    """Config of a training run: everything that defines the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # Old names of keys -> new names. Old names still work in this version. Defaults of plug-ins may have such a table.
    RENAMED: ClassVar[dict[str, str]] = {"patience": "timeouts", "remember": "cache_frames", "groups": "step_groups"}

    why: str  # the purpose of the experiment
    environment: str  # a name from `pr2l list environments`, or module:Class of a Gymnasium environment
    environment_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options environment NAME`
    task: str  # a task of the environment; "default" for module:Class
    vlm: str = "tiny"  # "tiny" (comes with pr2l), a folder with a checkpoint, or a Hugging Face Hub id
    vlm_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options vlm`
    # a variant in prompts/<environment>/<task>/, a full name, or the path of a YAML file; null = no prompt
    prompt: str | None = None
    encoder: str  # a name from `pr2l list encoders`
    encoder_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options encoder NAME`
    algorithm: str = "ppo"  # a name from `pr2l list algorithms`
    algorithm_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options algorithm NAME`
    network: str  # a name from `pr2l list networks`
    network_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options network NAME`
    # options of a VLM that writes the actions as text and learns by LoRA, {} for its defaults (docs/text_agents.md);
    # null = heads on the network choose the actions
    text_policy: dict[str, Any] | None = None
    # the success evaluator whose verdicts replace the rewards of rollouts, from `pr2l list evaluators`; null = the
    # environment's rewards. The evaluation keeps the environment's success (docs/evaluators.md)
    evaluator: str | None = None
    evaluator_options: dict[str, Any] = Field(default_factory=dict)  # see `pr2l options evaluator NAME`
    instruction: str = "{goal}"  # the task in words for the evaluator; the context of an episode fills its slots
    data: Path | None = None  # a data set of `pr2l collect`, for an algorithm that learns from recorded episodes
    num_envs: Annotated[int, Field(gt=0, le=4096)] = 8  # parallel environments; their frames are one VLM batch
    workers: NonNegativeInt = 0  # worker processes for the environments; 0 = none, best for fast ones such as Doom
    isolated: bool = False  # one process per simulator, restarted if the simulator fails (docs/simulators.md)
    timeouts: dict[str, Any] = Field(default_factory=dict)  # time limits of simulators, in seconds (docs/simulators.md)
    # NaN or infinity in a reward or proprio: stop = stop the run, truncate = end the episode and count it in `restarts`
    on_bad_value: Literal["stop", "truncate"] = "stop"
    # with workers: VLM batches per step; the VLM embeds one batch while the simulators step the next; 1 = no overlap
    step_groups: PositiveInt = 2
    # environment steps of the whole run, over all environments; with `data`, transitions over all epochs
    steps: PositiveInt
    seed: Seed = 0  # seed of weights, actions and episodes
    # number of recent frames whose embeddings are used again for identical frames (in training, within a rollout);
    # 0 = no cache. An embedding takes 4 bytes per number of its tokens: 29 kB in doom/fetch/prompted, 3 MB for 90
    # tokens of a 7B VLM
    cache_frames: NonNegativeInt = 1024
    checkpoint_every: PositiveInt = 10_000  # environment steps between two checkpoints
    evaluation_episodes: PositiveInt = 50  # episodes after training, on held-out seeds
    evaluation_greedy: bool = False  # evaluate with the most probable action; false = draw an action, as in training
    # name -> environment options that differ in one more evaluation of as many episodes, such as templates of tasks
    # that no run trains on
    evaluations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    wandb: Literal["off", "offline", "online"] = "off"  # also log metrics to Weights & Biases

    @property
    def prompt_name(self) -> str | None:
        """Full name of the prompt, or the path of its file; None = no prompt."""
        if self.prompt is None or "/" in self.prompt or prompts.is_path(self.prompt):
            return self.prompt
        return f"{self.environment}/{self.task}/{self.prompt}"

    def options(self, kind: OptionKind) -> Any:
        """Return the validated options of a plug-in.

        Args:
            kind: The kind of plug-in; the config names the plug-in.

        Returns:
            The plug-in's `Defaults`, with the values of `<kind>_options`; without an evaluator, a model of no options.

        Raises:
            UserError: An unknown key, or a value that is not allowed.
        """
        return _options(self, kind, warn=True)

    def text_options(self) -> Any:
        """Return the validated options of the policy that writes actions, None if heads choose them.

        Raises:
            UserError: An unknown key, or a value that is not allowed.
        """
        if self.text_policy is None:
            return None
        return parse_options(import_module(TEXT_POLICY).Defaults, self.text_policy, "text_policy")

    def evaluated_in(self, name: str) -> RunConfig:
        """Return the config with the environment options of one of `evaluations`.

        Args:
            name: A key of `evaluations`.
        """
        values = {**self.environment_options, **self.evaluations[name]}
        return self.model_copy(update={"environment_options": values})

    def save(self, path: Path) -> None:
        """Write the config atomically as YAML; `load_config` reads an equal config from it.

        Args:
            path: The file, which is replaced if it exists; its folder must exist.
        """
        write_mapping(path, self.model_dump(mode="json"))


def load_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Load the config of a run, and fill in the options of its plug-ins.

    The function imports these plug-ins.

    Args:
        name_or_path: A name such as "doom/fetch/prompted", or the path of a YAML file.
        overrides: "key=value" or "encoder_options.key=value", with values in YAML; later overrides win.

    Returns:
        The resolved config, with the values of all options.

    Raises:
        UserError: An unknown key, or a value that is not allowed.
        UnknownName: A plug-in, task or prompt that does not exist.
    """
    name = Path(name_or_path).with_suffix("").as_posix().removeprefix("configs/")
    if (schema := other_schema(name)) and name in registry.names("configs"):
        command = schema.command.format(name=name.partition("/")[2] if schema.short else name)
        raise UserError(f"{name_or_path} is the config of a {schema.what}, not of a run; use `{command}`")
    return _resolve(read_config(RunConfig, name_or_path, overrides), warn=not _of_a_run(name_or_path))


def other_schema(name: str) -> OtherSchema | None:
    """Return the kind of a config by its name; None for the config of a run.

    Args:
        name: Name below configs/, such as "benchmarks/doom"; its folder decides, and the file need not exist.
    """
    return next((schema for prefix, schema in OTHER_SCHEMAS.items() if name.startswith(prefix)), None)


def run_config_file(run: str | Path) -> Path:
    """Return the config.yaml of a run folder.

    Args:
        run: The run folder.

    Raises:
        UserError: The folder is not a run folder.
    """
    path = Path(run) / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml. `pr2l train CONFIG` writes run folders")
    return path


def read_config(model: type[Model], name_or_path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file with overrides into a pydantic model.

    For the config of a run use `load_config`.

    Args:
        model: The pydantic model.
        name_or_path: A name from `pr2l list configs`, or the path of a YAML file.
        overrides: "key=value" or "key.inner=value", with values in YAML; later overrides win.

    Raises:
        UserError: The file does not exist, or a key or a value is not allowed.
    """
    path = find(str(name_or_path))
    of_a_run = _of_a_run(name_or_path)
    values = renamed_keys(model, read_mapping(path, verify=of_a_run), str(path), warn=not of_a_run)
    for override in overrides:
        apply_override(values, _renamed_override(model, override))
    try:
        return model.model_validate(renamed_keys(model, values, "the overrides"))
    except ValidationError as error:
        raise UserError(explain(error, str(path), model)) from error


def read_values(name_or_path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file with overrides, without validation.

    Args:
        name_or_path: A name from `pr2l list configs`, or the path of a YAML file.
        overrides: "key=value" or "key.inner=value", with values in YAML; later overrides win.
    """
    values = read_mapping(find(str(name_or_path)))
    for override in overrides:
        apply_override(values, override)
    return values


def parse_options(model: type[Model], values: Mapping[str, Any], where: str, *, warn: bool = True) -> Model:
    """Validate a table of options, such as the `Defaults` of a plug-in.

    Args:
        model: The model of the options. Its optional `RENAMED` maps old names of keys to new names.
        values: Key -> value; missing keys take the model's defaults.
        where: Name of the table in errors and warnings, e.g. "algorithm_options of 'ppo'".
        warn: Whether an old name gives a FutureWarning.

    Raises:
        UserError: An unknown key, or a value that is not allowed, such as NaN or infinity.
    """
    try:
        options = model.model_validate(renamed_keys(model, values, where, warn=warn))
    except ValidationError as error:
        raise UserError(explain(error, where, model)) from error
    _check_finite(options, where)
    return options


def _check_finite(options: BaseModel, where: str) -> None:
    """Check that options are finite numbers, also in plug-ins whose models accept NaN and infinity."""
    for key in type(options).model_fields:
        value = getattr(options, key)
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise UserError(f"{where}: {key} = {value!r}: Input should be a finite number.")


def renamed_keys(model: type[BaseModel], values: Mapping[str, Any], where: str, *, warn: bool = True) -> dict[str, Any]:
    """Return a table with new names in place of old names of keys, also in nested tables.

    Args:
        model: The model of the table; its optional `RENAMED` maps old names to new names.
        values: Key -> value. If a key occurs under both names, the later one wins.
        where: Name of the table in the warning.
        warn: Whether an old name gives a FutureWarning.
    """
    table: dict[str, str] = getattr(model, "RENAMED", {})
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        if key in table and warn:
            text = f"{where}: {key!r} is now called {table[key]!r}; the old name stops working in the next version"
            warnings.warn(text, FutureWarning, stacklevel=2)
        key = table.get(key, key)
        inner = _model_of(model, key) if isinstance(value, Mapping) else None
        renamed[key] = renamed_keys(inner, value, f"{where}, {key}", warn=warn) if inner else value
    return renamed


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a resolved config of an earlier version to the keys of this version, with the same values.

    Args:
        config: `RunConfig.model_dump(mode="json")` of the earlier version, as stored in benchmark rows.
    """
    values = renamed_keys(RunConfig, config, "", warn=False)
    for kind, plugins in _PLUGINS.items():
        key, name = f"{kind}_options", values.get(kind)
        if isinstance(values.get(key), dict) and (kind == "vlm" or name in registry.names(plugins)):
            values[key] = renamed_keys(_defaults(kind, str(name)), values[key], "", warn=False)
    return values


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of a nested table, None if the key does not hold a table."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    models = [candidate for candidate in (annotation, *get_args(annotation)) if hasattr(candidate, "model_fields")]
    return models[0] if models else None


def _renamed_override(model: type[BaseModel], override: str) -> str:
    """Return an override with the new name of its key, so that `old.option=value` adds to the renamed table."""
    key, mark, text = override.partition("=")
    first, dot, below = key.partition(".")
    [first] = renamed_keys(model, {first: None}, f"the override {override!r}") if first else [first]
    return f"{first}{dot}{below}{mark}{text}"


def _of_a_run(path: str | Path) -> bool:
    """Return whether a config is in a run folder; an earlier version may have written it, so old keys do not warn."""
    return Path(path).expanduser().with_name("run.json").is_file()


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one override in a nested dict, in place.

    Args:
        values: The dict. The function does not check whether the key exists; the model checks that later.
        override: "a=value" or "a.b=value", with the value in YAML.

    Raises:
        UserError: The override is not of this form, or `a` in "a.b=value" holds a single value.
    """
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not all(name.isidentifier() for name in names):
        raise UserError(f"{override!r} is not an override; write key=value, e.g. seed=1 or vlm_options.new_tokens=0")
    if not text:
        raise UserError(f"{override!r} has no value; write {key}=null for none, {key}='\"\"' for empty text")
    for name in names[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"{override!r}: {name!r} has no keys, because it is the single value {values!r}")
    value = parse(text, f"the value in {override!r}")
    values.pop(names[-1], None)  # the key that is set last must be the last in the dict, see renamed_keys
    values[names[-1]] = value


def find(name_or_path: str) -> Path:
    """Return the file of a config.

    Args:
        name_or_path: A name in configs/, such as "doom/fetch/prompted", or the path of a YAML file.

    Raises:
        UnknownName: There is no such config; the error lists the nearest names.
    """
    path = Path(name_or_path).expanduser()  # shells leave --config=~/FILE as it is
    if path.suffix not in (".yaml", ".yml"):
        return registry.load("configs", name_or_path)
    if path.is_file():
        return path
    name = path.with_suffix("").as_posix().removeprefix("configs/")
    if name in (names := registry.names("configs")):
        return registry.load("configs", name)
    raise UnknownName("configs", name, names, hint=f"There is no file {name_or_path!r} either.")


def _resolve(config: RunConfig, *, warn: bool) -> RunConfig:
    """Check that all names exist, and fill in the defaults of the plug-ins."""
    for kind, plugins in _PLUGINS.items():  # checks that do not import torch first: its import takes seconds
        _check_keys(config, kind, plugins)
    tasks = registry.load("environments", config.environment).TASKS
    if config.task not in tasks:
        raise UnknownName(f"tasks of {config.environment}", config.task, tasks)
    if config.prompt_name is not None:
        file = prompts.find(config.prompt_name)
        if prompts.is_path(config.prompt_name):  # the run may be resumed from another folder
            config = config.model_copy(update={"prompt": str(file.resolve())})
    _check_timeouts(config.timeouts)
    for name in config.evaluations:
        variant = config.evaluated_in(name)
        _check_keys(variant, "environment", "environments")
        _options(variant, "environment", warn=warn)
    options = {f"{kind}_options": _options(config, kind, warn=warn).model_dump(mode="json") for kind in _PLUGINS}
    if (text_options := config.text_options()) is not None:
        options["text_policy"] = text_options.model_dump(mode="json")
    return config.model_copy(update=options)


def _check_keys(config: RunConfig, kind: OptionKind, plugins: registry.ModuleKind) -> None:
    """Check that a plug-in exists and has the options in the config, without importing the plug-in."""
    name, values = getattr(config, kind), getattr(config, f"{kind}_options")
    if name is None:
        if values:
            raise UserError(
                f"{kind}_options has {', '.join(values)}, but the config has no {kind}; add {kind}=NAME, with a name "
                f"from `pr2l list {plugins}`"
            )
        return
    if unknown := plugin_options.unknown_keys(plugins, name, values, f"{kind}_options of {name!r}"):
        raise UserError(unknown + _hint(kind, name))


def _hint(kind: OptionKind, name: str) -> str:
    plugin = kind if kind == "vlm" else f"{kind} {name}"
    return f"\n`pr2l options {plugin}` lists the options; `{kind}_options={{}}` drops those that the file sets."


def _options(config: RunConfig, kind: OptionKind, *, warn: bool) -> Any:
    """Return the validated options of a plug-in."""
    model, values = _defaults(kind, getattr(config, kind)), getattr(config, f"{kind}_options")
    try:
        return parse_options(model, values, f"{kind}_options of {getattr(config, kind)!r}", warn=warn)
    except UserError as error:
        if isinstance(error.__cause__, ValidationError) and _unknown_key(error.__cause__):
            raise UserError(f"{error}{_hint(kind, getattr(config, kind))}") from error
        raise


def _check_timeouts(timeouts: dict[str, Any]) -> None:
    # Imported here because it imports gymnasium, and other reads of configs stay quick.
    from pr2l.environments.isolation.isolated import Timeouts

    parse_options(Timeouts, timeouts, "timeouts")


def _defaults(kind: OptionKind, name: str | None) -> type[BaseModel]:
    """Return the model of a plug-in's options; a config without the plug-in has none."""
    if name is None:
        return NoOptions
    # A config names a checkpoint, not a family. The import of a family would import transformers, which takes seconds.
    module = import_module(plugin_options.VLM_OPTIONS) if kind == "vlm" else registry.load(_PLUGINS[kind], name)
    model: type[BaseModel] = module.Defaults
    return model


def _unknown_key(error: ValidationError) -> bool:
    return any(problem["type"] == "extra_forbidden" for problem in error.errors())
