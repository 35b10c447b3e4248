"""Suites: what they ask for, what a run has to agree in, and what is said of a mistake in a file."""

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
    def write(**changed: object) -> str:
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(SUITE | changed, sort_keys=False))
        return str(path)

    return write


def test_a_suite_is_every_task_method_and_seed(write_suite):
    cells = load_suite(write_suite()).planned()
    assert [cell.name for cell in cells] == [
        f"doom-{task}-{method}-seed{seed}"
        for seed in (3, 5)
        for task in ("fetch", "basic")
        for method in ("pixels", "small")
    ]
    assert [cell.config.steps for cell in cells] == [128, 128, 64, 64] * 2
    assert [cell.config.encoder_options["size"] for cell in cells] == [64, 16] * 4
    assert cells[2].config.task == "basic" and cells[2].config.evaluation_episodes == 2


def test_a_methods_overrides_win_over_a_tasks_and_these_over_the_suites(write_suite):
    tasks = {"doom/fetch": {"overrides": ["encoder_options.size=32", "num_envs=3"]}}
    cells = load_suite(write_suite(tasks=tasks, overrides=["encoder_options.size=8", "num_envs=2"])).planned()
    assert [(cell.config.encoder_options["size"], cell.config.num_envs) for cell in cells[:2]] == [(32, 3), (16, 3)]


def test_the_command_of_a_cell_makes_its_config(write_suite):
    for cell in load_suite(write_suite()).planned():
        _, program, config, *overrides = shlex.split(cell.command)
        assert program == "train" and load_config(config, overrides) == cell.config


@pytest.mark.parametrize("name", names())
def test_every_suite_of_the_project_is_whole(name):
    suite = load_suite(name)
    places = len(suite.tasks) * len(suite.methods)
    assert len(suite.planned()) == places * len(suite.definition.seeds)
    for cell in suite.planned()[:places]:
        assert suite.method_of(cell.config.model_dump(mode="json")) == cell.method  # no two methods are one


@pytest.mark.parametrize(
    ("changed", "message"),
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
def test_every_mistake_teaches(write_suite, changed, message):
    with pytest.raises(UserError, match=message):
        load_suite(write_suite(**changed))


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UserError, match="'doom-mni' is not among the suites. Did you mean 'doom-mini'"):
        load_suite("doom-mni")


@pytest.mark.parametrize(
    ("method", "changed", "difference"),
    [
        ("pixels", {}, None),
        ("pixels", {"wandb": "offline", "workers": 2, "checkpoint_every": 5}, None),  # how, not what
        ("pixels", {"steps": 64}, "steps is 64, and the suite has 128"),
        ("pixels", {"evaluation_episodes": 3}, "evaluation_episodes is 3, and the suite has 2"),
        ("pixels", {"num_envs": 2}, "num_envs is 2"),
        ("pixels", {"evaluation_greedy": True}, "evaluation_greedy is True"),
        ("pixels", {"seed": 4}, "seed is 4, and the suite has 3, 5"),
        ("small", {}, "encoder_options is {'size': 64}"),
        ("mine", {"num_envs": 2, "network": "mlp"}, None),  # unknown to the suite: free but for the protocol
        ("mine", {"steps": 64}, "steps is 64"),
        ("mine", {"environment_options": {"things": 2}}, "environment_options is"),
    ],
)
def test_a_run_counts_where_it_agrees(write_suite, method, changed, difference):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json") | changed
    found = suite.differences("doom/fetch", method, config)
    assert found == [] if difference is None else difference in found[0]


def test_an_option_that_came_later_does_not_spoil_old_runs(write_suite):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json")
    del config["environment_options"]["things"]
    assert suite.differences("doom/fetch", "pixels", config) == []
    shaped = load_suite(write_suite(overrides=["environment_options.things=3"]))
    assert "'things': 4" in shaped.differences("doom/fetch", "pixels", config)[0], "what it had is the default"
    config["environment_options"]["gone"] = 1
    assert "environment_options" in suite.differences("doom/fetch", "pixels", config)[0]
