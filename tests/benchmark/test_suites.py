"""Suites: the runs they define, the check that a run belongs to a suite, and error messages."""

import shlex
from pathlib import Path

import pytest
import yaml

from pr2l.benchmark.suites import load_suite, names
from pr2l.core.config import load_config
from pr2l.core.errors import UserError

SUITE = {
    "why": "a test",
    "version": 1,
    "tasks": {"doom/fetch": {}, "doom/basic": {"base": "doom/hunt", "steps": 64}},
    "methods": {
        "pixels": {"config": "pixels"},
        "small": {"config": "pixels", "overrides": ["encoder_options.size=16"]},
    },
    "baseline": "pixels",
    "algorithm": "ppo",
    "steps": 128,
    "seeds": [3, 5],
    "evaluation_episodes": 2,
    "threshold": 0.5,
}


@pytest.fixture
def write_suite(tmp_path: Path):
    def write(**changes: object) -> str:
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(SUITE | changes, sort_keys=False))
        return str(path)

    return write


def test_planned_has_every_task_method_and_seed(write_suite):
    runs = load_suite(write_suite()).planned()
    assert [planned.name for planned in runs] == [
        f"doom-{task}-{method}-seed{seed}"
        for seed in (3, 5)
        for task in ("fetch", "basic")
        for method in ("pixels", "small")
    ]
    assert [planned.config.steps for planned in runs] == [128, 128, 64, 64] * 2
    assert [planned.config.encoder_options["size"] for planned in runs] == [64, 16] * 4
    assert runs[2].config.task == "basic" and runs[2].config.evaluation_episodes == 2


def test_overrides_of_methods_precede_those_of_tasks_and_suite(write_suite):
    tasks = {"doom/fetch": {"overrides": ["encoder_options.size=32", "num_envs=3"]}}
    runs = load_suite(write_suite(tasks=tasks, overrides=["encoder_options.size=8", "num_envs=2"])).planned()
    configs = [planned.config for planned in runs[:2]]
    assert [(config.encoder_options["size"], config.num_envs) for config in configs] == [(32, 3), (16, 3)]


def test_command_of_a_planned_run_loads_its_config(write_suite):
    for planned in load_suite(write_suite()).planned():
        _, program, config, *overrides = shlex.split(planned.command)
        assert program == "train" and load_config(config, overrides) == planned.config


@pytest.mark.parametrize("name", names())
def test_suite_in_configs_loads_and_no_two_methods_are_equal(name):
    suite = load_suite(name)
    count = len(suite.tasks) * len(suite.methods)
    assert len(suite.planned()) == count * len(suite.definition.seeds)
    for planned in suite.planned()[:count]:
        assert suite.method_of(planned.config.model_dump(mode="json")) == planned.method


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 1}, "unknown key 'sead'. Did you mean 'seeds'"),
        ({"tasks": {"doom/fetch": {"bass": "doom/hunt"}}}, "bass'. Did you mean 'base'"),
        ({"tasks": {"doom/ftch": {}}}, "'ftch' is not among the tasks of doom. Did you mean 'fetch'"),
        ({"tasks": {"dom/fetch": {}}}, "'dom' is not among the environments. Did you mean 'doom'"),
        ({"tasks": {"doom/basic": {"base": "minecraft/milk_cow"}}}, "another environment"),
        ({"tasks": {}}, "at least 1 item"),
        ({"methods": {"pixels": {"config": "pixls"}}}, "Did you mean 'doom/fetch/pixels'"),
        ({"methods": {"pixels": {"config": "pixels", "override": []}}}, "override'. Did you mean 'overrides'"),
        ({"methods": {"config": {"config": "pixels", "a": 1}}}, "unknown key 'methods.config.a'"),
        ({"methods": {"../pixels": {"config": "pixels"}}}, "should match pattern"),
        ({"overrides": ["sed=1"]}, "`pr2l train doom/fetch/pixels sed=1.*unknown key 'sed'. Did you mean 'seed'"),
        ({"baseline": "pixel"}, "'pixel' is not among the methods of toy. Did you mean 'pixels'"),
        ({"seeds": [1, 1]}, "has a seed twice"),
        ({"algorithm": "pppo"}, "Did you mean 'ppo'"),
    ],
)
def test_invalid_suite_raises(write_suite, changes, message):
    with pytest.raises(UserError, match=message):
        load_suite(write_suite(**changes))


def test_unknown_suite_raises_with_the_most_similar_name():
    with pytest.raises(UserError, match="'doom-mni' is not among the suites. Did you mean 'doom-mini'"):
        load_suite("doom-mni")


@pytest.mark.parametrize(
    ("method", "changes", "difference"),
    [
        ("pixels", {}, None),
        ("pixels", {"wandb": "offline", "workers": 2, "checkpoint_every": 5}, None),  # does not affect results
        ("pixels", {"steps": 64}, "steps is 64, and the suite has 128"),
        ("pixels", {"evaluation_episodes": 3}, "evaluation_episodes is 3, and the suite has 2"),
        ("pixels", {"num_envs": 2}, "num_envs is 2"),
        ("pixels", {"evaluation_greedy": True}, "evaluation_greedy is True"),
        ("pixels", {"seed": 4}, "seed is 4, and the suite has 3, 5"),
        ("small", {}, "encoder_options is {'size': 64}"),
        ("mine", {"num_envs": 2, "network": "mlp"}, None),  # not of the suite: only the protocol is compared
        ("mine", {"steps": 64}, "steps is 64"),
        ("mine", {"environment_options": {"things": 2}}, "environment_options is"),
    ],
)
def test_differences_of_a_config_from_the_suite(write_suite, method, changes, difference):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json") | changes
    differences = suite.differences("doom/fetch", method, config)
    assert differences == [] if difference is None else difference in differences[0]


def test_threads_and_device_of_an_update_make_no_other_method(write_suite):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json")
    config["algorithm_options"] |= {"threads": 7, "device": "cuda"}
    assert suite.differences("doom/fetch", "pixels", config) == []
    config["algorithm_options"]["gamma"] = 0.5
    [difference] = suite.differences("doom/fetch", "pixels", config)
    assert difference.startswith("algorithm_options is {") and "'gamma': 0.5" in difference


def test_missing_options_of_an_old_run_have_their_defaults(write_suite):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json")
    del config["environment_options"]["things"]
    assert suite.differences("doom/fetch", "pixels", config) == []
    other_suite = load_suite(write_suite(overrides=["environment_options.things=3"]))
    assert "'things': 4" in other_suite.differences("doom/fetch", "pixels", config)[0]  # the default
    config["environment_options"]["gone"] = 1
    assert "environment_options" in suite.differences("doom/fetch", "pixels", config)[0]
