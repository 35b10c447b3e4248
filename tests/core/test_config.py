"""Configs of the environment `doors` of CONTRIBUTING.md, which the fixture `examples` installs."""

import string
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from pr2l.benchmark.suites import Definition
from pr2l.core import registry
from pr2l.core.config import RunConfig, apply_override, load_config, parse_options, read_config, renamed_keys, upgrade
from pr2l.core.errors import UnknownName, UserError
from pr2l.core.yaml_files import dump, read_mapping
from pr2l.pretraining.changes import ChangesConfig
from pr2l.pretraining.finetune import FinetuneConfig
from pr2l.pretraining.pretrain import PretrainConfig, ScreensConfig
from pr2l.prompting.search import Space
from pr2l.rollout import simulators as sims

NAME = "doors/choose/columns"
SMALLEST = {
    "why": "a test",
    "environment": "doors",
    "task": "choose",
    "encoder": "columns",
    "network": "flat",
}


def test_config_contains_plugin_defaults_and_the_values_of_the_file(examples) -> None:
    config = load_config(NAME)
    assert config.environment_options == {"size": 32}
    assert config.network_options == {"summary": 128}
    assert config.algorithm_options["learning_rate"] == 3e-3  # from the file
    assert config.algorithm_options["gamma"] == 0.99  # from policies/ppo.py
    assert config.vlm_options["layers"] == [-2, -1]
    assert config.prompt_name == "doors/choose/where"


def test_configs_load_without_importing_a_vlm_family(examples, monkeypatch) -> None:
    """A family imports transformers, which takes seconds and which runs without a VLM do not need."""
    for name in [name for name in sys.modules if name.startswith("pr2l.vlms.families.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pr2l.vlms.base", None)
    config = load_config(NAME, ["vlm_options.new_tokens=3"])
    assert upgrade(config.model_dump(mode="json"))["vlm_options"]["new_tokens"] == 3


def test_options_are_instances_of_the_plugins_defaults(examples) -> None:
    options = load_config(NAME, ["vlm_options.layers=[-1]"]).options("vlm")
    assert options.layers == (-1,) and options.new_tokens == 8
    with pytest.raises(ValidationError):
        options.new_tokens = 3


def test_saved_config_loads_equal(examples, tmp_path) -> None:
    config = load_config(NAME, ["algorithm_options.learning_rate=1e-5", "wandb=off", "prompt=null"])
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config.prompt_name is None


def test_prompt_name_with_and_without_slashes() -> None:
    assert RunConfig(**SMALLEST, steps=1, prompt="a/b/c").prompt_name == "a/b/c"
    assert RunConfig(**SMALLEST, steps=1, prompt="c").prompt_name == "doors/choose/c"


def test_config_is_frozen() -> None:
    config = RunConfig(**SMALLEST, steps=1)
    with pytest.raises(ValidationError):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("steps=1e4", "steps", 10_000),
        ("wandb=off", "wandb", "off"),
        ("vlm=HuggingFaceTB/SmolVLM-256M-Instruct", "vlm", "HuggingFaceTB/SmolVLM-256M-Instruct"),
        ("prompt=null", "prompt", None),
        ("why=a = b", "why", "a = b"),
        ("encoder_options={strips: 4}", "encoder_options", {"strips": 4}),
    ],
)
def test_override_values_are_yaml(examples, override: str, key: str, value: object) -> None:
    assert getattr(load_config(NAME, [override]), key) == value


def test_later_overrides_win_and_nested_overrides_keep_other_keys(examples) -> None:
    overrides = ["algorithm_options.gamma=0.5", "algorithm_options.gamma=0.9", "environment_options.size=8"]
    config = load_config(NAME, overrides)
    assert config.algorithm_options["gamma"] == 0.9 and config.algorithm_options["learning_rate"] == 3e-3
    assert config.options("environment").size == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=3", r"unknown key 'sed'. Did you mean 'seed'\? Allowed keys, the nearest of .*: seed, "),
        ("steps=many", "steps = 'many': Input should be a valid integer"),
        ("steps=1.5", "steps = 1.5"),
        ("steps=0", "greater than 0"),
        ("num_envs=1000000000", "less than or equal to 4096"),
        ("wandb=maybe", "'off', 'offline' or 'online'"),
        ("seed", "is not an override; write key=value"),
        ("=3", "is not an override"),
        ("seed=", "has no value; write seed=null"),
        ("seed.deep=3", "'seed' has no keys"),
        ("why=[1", "the value in 'why=\\[1' is not valid YAML"),
        ("environment=door", "'door' is not among the environments. Did you mean 'doors'"),
        ("task=chose", "'chose' is not among the tasks of doors. Did you mean 'choose'"),
        ("encoder=column", "Did you mean 'columns'"),
        ("algorithm=pppo", "Did you mean 'ppo'"),
        ("network=flatt", "Did you mean 'flat'"),
        ("prompt=wher", "Did you mean 'doors/choose/where'"),
        (
            "encoder_options.stripes=2",
            "encoder_options of 'columns': unknown key 'stripes'. Did you mean 'strips'",
        ),
        (
            "vlm_options.new_token=2",
            "vlm_options of 'tiny': unknown key 'new_token'. Did you mean 'new_tokens'",
        ),
        ("algorithm_options.gamma=high", "gamma = 'high'"),
        ("timeouts.setp=9", "timeouts: unknown key 'setp'. Did you mean 'step'"),
        ("timeouts.step=0", "greater than 0"),
        ("encoder=pixels", "unknown key 'strips'.*\n.*`encoder_options={}` drops"),
    ],
)
def test_invalid_overrides_are_refused(examples, override: str, message: str) -> None:
    overrides = ["seed=3", override] if override == "seed.deep=3" else [override]
    with pytest.raises(UserError, match=message):
        load_config(NAME, overrides)


def test_empty_options_replace_those_of_the_file(examples) -> None:
    assert load_config(NAME, ["encoder=pixels", "encoder_options={}"]).encoder_options == {"size": 64}


def test_unknown_config_gives_the_most_similar_name(examples, tmp_path) -> None:
    for name in ("doors/choose/column", "configs/doors/choose/column.yaml"):
        with pytest.raises(UnknownName, match=f"Did you mean '{NAME}'"):
            load_config(name)


def test_an_option_that_an_algorithm_lacks_gives_the_reason() -> None:
    with pytest.raises(UserError, match=r"no key 'asynchronous': .*waits for all of them; algorithm=digirl_online"):
        load_config("smoke", ["algorithm_options.asynchronous=true"])


CLASS = """
import gymnasium as gym
import numpy as np

class Dark(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), gym.spaces.Discrete(2)
"""


def test_environment_may_be_a_class_in_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("dark_world.py").write_text(CLASS)
    values = {**SMALLEST, "environment": "dark_world:Dark", "task": "default", "encoder": "pixels", "network": "cnn"}
    Path("dark.yaml").write_text(yaml.safe_dump({**values, "steps": 1}))
    assert load_config("dark.yaml").environment == "dark_world:Dark"
    with pytest.raises(UserError, match="Did you mean 'Dark'"):
        load_config("dark.yaml", ["environment=dark_world:Drak"])


def test_config_can_be_loaded_by_the_path_of_its_file(examples) -> None:
    assert load_config(f"configs/{NAME}.yaml") == load_config(NAME)


@pytest.mark.parametrize("name", ["{folder}/mine.yaml", "mine.yaml", "./mine.yml", "../home/mine.yaml", "~/mine.yaml"])
def test_config_may_be_any_path(examples, tmp_path: Path, monkeypatch, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for suffix in ("yaml", "yml"):
        Path(f"mine.{suffix}").write_text(yaml.safe_dump({**SMALLEST, "steps": 1, "seed": 7}))
    assert load_config(name.format(folder=home)).seed == 7


def test_path_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"There is no file .*mine.yaml' either"):
        load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "contains a list; it must contain `key: value` lines"),
        ("seed: 1\nseed: 2\n", "key given twice: seed"),
        ("seed: [1\n", "is not valid YAML"),
        ("steps: 3\n", "the key 'why' is missing"),
    ],
)
def test_invalid_config_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(RunConfig, tmp_path / "bad.yaml")


def test_files_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("why: für alle\n".encode("latin-1"))
    with pytest.raises(UserError, match="latin.yaml.*UTF-8"):
        read_config(RunConfig, tmp_path / "latin.yaml")


class Numbers(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float
    switch: bool = False


class Tables(BaseModel):
    one: Numbers
    many: tuple[Numbers, ...] = ()


@pytest.mark.parametrize("text", ["one: {rate: 1, swich: true}", "one: {rate: 1}\nmany: [{rate: 1, swich: true}]"])
def test_unknown_nested_key_gives_the_keys_of_its_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "nested.yaml").write_text(text)
    with pytest.raises(UserError, match=r"swich'. Did you mean 'switch'\? Allowed keys: rate, switch"):
        read_config(Tables, tmp_path / "nested.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E+2", 100.0), (".5e1", 5.0), ("-2.e3", -2000.0), ("7", 7.0), ("1_000.5", 1000.5)],
)
def test_floats_without_a_point_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    (tmp_path / "numbers.yaml").write_text(f"rate: {text}\nswitch: true\n")
    assert read_config(Numbers, tmp_path / "numbers.yaml") == Numbers(rate=value, switch=True)


class Old(BaseModel):
    """Options of a plug-in in which `size` was called `width`, and `inner.rate` was called `inner.speed`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    RENAMED: ClassVar[dict[str, str]] = {"width": "size"}

    class Inner(BaseModel):
        RENAMED: ClassVar[dict[str, str]] = {"speed": "rate"}
        rate: int = 0

    size: int = 32
    inner: Inner = Inner()


@pytest.fixture
def renamed_strips(examples) -> None:
    """Rename the option `bars` of the encoder `columns` to `strips`."""
    file = registry.source("encoders", "columns")
    source = file.read_text().replace("    strips: int", '    RENAMED: ClassVar = {"bars": "strips"}\n    strips: int')
    file.write_text(f"from typing import ClassVar\n{source}")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["remember=7"], {"cache_frames": 7}),
        (["groups=1", "patience={step: 9}"], {"step_groups": 1, "timeouts": {"step": 9}}),
        (["timeouts.step=9", "patience.reset=8"], {"timeouts": {"step": 9, "reset": 8}}),
        (["cache_frames=1", "remember=2"], {"cache_frames": 2}),
        (["remember=1", "cache_frames=2"], {"cache_frames": 2}),
        (["remember=1", "cache_frames=2", "remember=3"], {"cache_frames": 3}),
        (["encoder_options.bars=4"], {"encoder_options": {"strips": 4}}),  # the file says strips: 2
        (["encoder_options.bars=4", "encoder_options.strips=8"], {"encoder_options": {"strips": 8}}),
        (["encoder_options={bars: 5}"], {"encoder_options": {"strips": 5}}),
    ],
    ids=str,
)
def test_old_keys_work_with_a_warning(renamed_strips, overrides, expected) -> None:
    with pytest.warns(FutureWarning, match="is now called '(cache_frames|step_groups|timeouts|strips)'"):
        config = load_config(NAME, overrides)
    assert {key: getattr(config, key) for key in expected} == expected


def test_old_keys_in_a_file_give_a_warning_with_its_name(renamed_strips, tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump({**SMALLEST, "steps": 1, "remember": 5, "encoder_options": {"bars": 3}}))
    with pytest.warns(FutureWarning, match=f"{old.name}: 'remember' is now called 'cache_frames'"):
        config = load_config(old, ["cache_frames=6"])
    assert config.cache_frames == 6 and config.encoder_options == {"strips": 3}


@pytest.mark.filterwarnings("error")
def test_old_keys_in_stored_configs_give_no_warning(renamed_strips, tmp_path: Path) -> None:
    values = {**SMALLEST, "steps": 1, "patience": {"step": 5}, "encoder_options": {"bars": 3}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "run.json").write_text("{}")
    config = load_config(tmp_path / "config.yaml")
    assert config.timeouts == {"step": 5} and config.encoder_options == {"strips": 3}
    assert upgrade(values)["timeouts"] == {"step": 5} and upgrade(values)["encoder_options"] == {"strips": 3}


def test_old_keys_in_nested_options() -> None:
    with pytest.warns(FutureWarning, match="options, inner: 'speed' is now called 'rate'"):
        assert parse_options(Old, {"inner": {"speed": 3}}, "options").inner.rate == 3
    with pytest.raises(UserError, match="unknown key 'widht'"):
        parse_options(Old, {"widht": 3}, "options")


@pytest.mark.parametrize("kind", registry.MODULE_PACKAGES)
def test_renamed_keys_are_valid(kind) -> None:
    models = [registry.load(kind, name).Defaults for name in registry.names(kind)] + [RunConfig, Old]
    for model in models:
        for old, new in getattr(model, "RENAMED", {}).items():
            assert old not in model.model_fields and new in model.model_fields
            assert renamed_keys(model, {old: 1}, "", warn=False) == {new: 1}


KEYS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=8)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=12),
    st.lists(st.integers(), max_size=3),
)


@given(st.lists(KEYS, min_size=1, max_size=3), VALUES)
@example(["key"], "\xa0")  # YAML writes it without quotes, and str.strip would remove it
@example(["key"], "0\xa0")
def test_any_yaml_value_can_be_an_override(path: list[str], value: object) -> None:
    text = dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    values: dict = {}
    apply_override(values, f"{'.'.join(path)}={text.removesuffix('...' + chr(10)).removesuffix(chr(10))}")
    for part in path:
        values = values[part]
    assert values == value and type(values) is type(value)


@given(st.text(max_size=20))
def test_any_text_is_applied_or_refused_with_a_user_error(text: str) -> None:
    values: dict = {}
    try:
        apply_override(values, text)
    except UserError as error:
        assert values == {} or text.partition("=")[0] in repr(error) or "YAML" in str(error)
    else:
        assert values


@pytest.mark.parametrize("name", registry.names("configs"))
def test_configs_of_the_project_are_valid(name: str) -> None:
    if name.startswith("sims/"):
        assert sims.load(name.removeprefix("sims/")).why
    elif name.startswith("benchmarks/"):
        assert read_config(Definition, name).why  # tests/benchmark/test_suites.py resolves its runs
    elif name.startswith("search/"):
        assert read_config(Space, name).why
    elif not name.startswith("pretrain/"):
        assert load_config(name).why
    elif "action_features" in read_mapping(registry.load("configs", name)):
        assert read_config(ChangesConfig, name).why
    elif "vlm" in read_mapping(registry.load("configs", name)):
        assert read_config(FinetuneConfig, name).why
    elif "reading" in read_mapping(registry.load("configs", name)):
        assert read_config(ScreensConfig, name).why
    else:
        assert read_config(PretrainConfig, name).why
