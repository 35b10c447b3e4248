"""Suites: the runs they define, the check that a run belongs to a suite, and error messages."""

import shlex
from pathlib import Path

import pytest
import yaml

from pr2l.benchmark.suites import load_suite, names
from pr2l.core.config import apply_override, load_config, parse_options
from pr2l.core.errors import UserError
from pr2l.environments.miniwob.oracles import ORACLES
from pr2l.environments.phone.library import templates
from pr2l.environments.phone.splits import templates_of

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
    seeds = sum(len(suite.seeds_of(method)) for method in suite.methods)
    assert len(suite.planned()) == len(suite.tasks) * seeds
    for planned in (suite.plan(suite.tasks[0], method, suite.definition.seeds[0]) for method in suite.methods):
        assert suite.method_of(planned.config.model_dump(mode="json"), planned.player) == planned.method


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
        ({"methods": {"pixels": {"config": "pixels", "representations": ["dim"]}}}, "'dim' is not among the repres"),
        ({"methods": {"pixels": {"config": "pixels", "player": "me"}}}, "player"),
        ({"paper": {"source": "", "success": {"pixels": 0.5, "smal": 0.4}}}, "'smal' is not.*Did you mean 'small'"),
        ({"paper": {"source": "", "success": {"pixels": 1.5, "small": 0.4}}}, "less than or equal to 1"),
    ],
)
def test_invalid_suite_raises(write_suite, changes, message):
    with pytest.raises(UserError, match=message):
        load_suite(write_suite(**changes))


def test_each_method_runs_with_its_representations(write_suite):
    representations = {
        "large": {"overrides": ["encoder_options.size=80", "num_envs=2"], "about": "large frames"},
        "tiny": {"overrides": ["encoder_options.size=8"]},
    }
    methods = {
        "ppo": {"config": "pixels", "about": "PPO"},
        "one": {"config": "pixels", "representations": ["large"], "overrides": ["num_envs=4"]},
        "own": {"config": "pixels", "representations": []},
    }
    suite = load_suite(write_suite(representations=representations, methods=methods, baseline="ppo_tiny"))
    assert suite.methods == ("ppo_large", "ppo_tiny", "one_large", "own")
    configs = [suite.plan("doom/fetch", method, 3).config for method in suite.methods]
    sizes = [(config.encoder_options["size"], config.num_envs) for config in configs]
    default = load_config("doom/fetch/pixels").num_envs
    assert sizes == [(80, 2), (8, default), (80, 4), (64, default)]  # a method's own overrides win
    assert suite.definition.methods["ppo_large"].about == "PPO; large frames"


def test_matching_selects_methods_by_patterns(write_suite):
    suite = load_suite(write_suite())
    assert suite.matching(()) == suite.matching(["small", "p*"]) == ("pixels", "small")
    assert suite.matching(["*all"]) == ("small",)
    with pytest.raises(UserError, match="'smal' is not among the methods of toy. Did you mean 'small'"):
        suite.matching(["smal"])


def test_player_runs_with_the_first_seed(write_suite):
    methods = {"pixels": {"config": "pixels"}, "script": {"config": "pixels", "player": "script"}}
    suite = load_suite(write_suite(methods=methods, tasks={"doom/fetch": {}}))
    assert [(run.method, run.config.seed) for run in suite.planned()] == [("pixels", 3), ("script", 3), ("pixels", 5)]
    assert suite.plan("doom/fetch", "script", 3).command.startswith("pr2l bench run ")
    assert [suite.player_of(method) for method in ("pixels", "mine", "script")] == [None, None, "script"]
    config = suite.plan("doom/fetch", "script", 3).config.model_dump(mode="json")
    assert (suite.method_of(config), suite.method_of(config, "script")) == ("pixels", "script")


def test_suite_without_algorithm_and_steps_leaves_them_to_the_configs(write_suite):
    suite = load_suite(write_suite(algorithm=None, steps=None, tasks={"doom/fetch": {}}))
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json")
    assert config["steps"] == load_config("doom/fetch/pixels").steps
    other = config | {"algorithm": "bc", "steps": 7}
    assert suite.differences("doom/fetch", "mine", other) == []
    assert len(suite.differences("doom/fetch", "pixels", other)) == 2


def test_row_of_an_earlier_version_has_one_evaluation(write_suite):
    suite = load_suite(write_suite())
    config = suite.plan("doom/fetch", "pixels", 3).config.model_dump(mode="json")
    del config["evaluations"]
    assert suite.differences("doom/fetch", "pixels", config) == suite.differences("doom/fetch", "mine", config) == []
    other_suite = load_suite(write_suite(overrides=["evaluations.few.things=2"]))
    assert "evaluations is {}" in other_suite.differences("doom/fetch", "pixels", config)[0]
    assert "evaluations is {}" in other_suite.differences("doom/fetch", "mine", config)[0]


def options_of(command: str) -> dict[str, object]:
    """Return the environment options of a `pr2l collect` command."""
    values: dict[str, object] = {}
    for word in shlex.split(command):
        if "=" in word:
            apply_override(values, word)
    return values


def test_phone_mini_keeps_templates_and_apps_apart():
    [planned] = load_suite("phone-mini").planned()[:1]
    names = {"train": planned.config.environment_options["templates"]}
    names |= {name: options["templates"] for name, options in planned.config.evaluations.items()}
    known = templates()
    of = {name: {template: known[template] for template in chosen} for name, chosen in names.items()}
    assert len(of["train"]) >= 12 and set(of) == {"train", "templates", "apps"}
    for by in ("template", "app"):
        assert templates_of(of["train"], "train", by) == of["train"]
    assert templates_of(of["templates"], "evaluation", "template") == of["templates"]
    assert templates_of(of["templates"], "train", "app") == of["templates"]
    assert templates_of(of["apps"], "evaluation", "app") == of["apps"]


@pytest.mark.parametrize("name", ["phone-mini", "miniwob-mini"])
def test_data_of_a_suite_are_recorded_with_the_options_of_its_runs(name):
    suite = load_suite(name)
    for task in suite.tasks:
        config = suite.plan(task, "filtered_bc_dom", 0).config
        command = suite.definition.data[str(config.data)]
        assert command.split()[:3] == ["collect", *task.split("/")]
        options = config.options("environment")
        assert parse_options(type(options), options_of(command), "") == options
    for planned in suite.planned():
        assert planned.config.data is None or str(planned.config.data) in suite.definition.data


def test_miniwob_mini_has_pages_with_a_script():
    tasks = [task.partition("/")[2] for task in load_suite("miniwob-mini").tasks]
    assert len(tasks) >= 8 and set(tasks) <= set(ORACLES)


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
