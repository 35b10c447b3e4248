"""Rows: their content, their validation, and `pr2l bench submit`."""

import shlex

import pytest

from pr2l.benchmark.rows import check, read_row, read_rows, row_of, submit, video_of, write_row
from pr2l.benchmark.suites import load_suite
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.training.runs import Run


def test_row_reproduces_its_run_and_is_read_as_written(toys, make_run, tmp_path):
    run = Run.load(make_run("again", "small", 1, 3))
    row = row_of(run, toys)
    assert (row.task, row.method, row.seed, row.success) == ("toy/again", "small", 1, 0.75)
    assert row.frames_per_second == 64 and row.cost.peak_memory == 1_500_000_000
    _, _, config, *overrides = shlex.split(row.command)
    assert load_config(config, overrides) == run.config
    success = dict(zip(row.curve.steps, row.curve.success, strict=True))
    assert row.curve.success[0] is None
    assert success[64.0] == 0.25 and success[96.0] == 0.5 and success[128.0] == 0.75
    (tmp_path / "toys").mkdir()
    path = tmp_path / "toys" / f"{row.name}.json"
    write_row(path, row)
    assert path.name == "toy-again-small-seed1.json" and read_row(path) == row
    assert len(path.read_text().splitlines()) == len(read_json(path)) + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": None}, "needs the commit and the command"),
        ({"commit": "c0ffee"}, "needs the commit"),
        ({"command": ""}, "needs the commit"),
        ({"sead": 3}, "unknown key 'sead'. Did you mean 'seed'"),
        ({"method": "../up"}, "method = '../up'"),
        ({"version": 2}, "is of version 2 of toys, and toys is at version 1"),
        ({"seed": 1}, "row toys/toy-colours-pixels-seed1; rename the file"),
        ({"config": {"seed": 0}}, "is not a run of toys: environment is None"),
        ({"results": {}}, "its results are incomplete: KeyError\\('played'\\)"),
    ],
    ids=["no_commit", "short_commit", "no_command", "unknown_key", "method", "version", "name", "config", "no_results"],
)
def test_invalid_row_raises(toys, rows, changes, message):
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    values = read_json(path) | changes
    write_json(path, values)
    with pytest.raises(UserError, match=message):
        read_rows(rows, toys)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("played", {"success": [1.0], "return": [1.0]}, "does not have the 4 evaluation episodes"),
        ("played", {"success": [5.0] * 4, "return": [1.0] * 4}, "must be 0 or 1"),
        ("played", {"success": [1.0] * 4, "return": [1.0, float("nan"), 1.0, 1.0]}, "all other results finite"),
        ("evaluation", {"success": {"value": float("nan")}, "length": 5.0}, "all other results finite"),
        ("evaluation", {"success": {"value": 1.0}}, "incomplete: KeyError\\('length'\\)"),
    ],
    ids=["few_episodes", "success_of_5", "return_of_nan", "mean_of_nan", "no_length"],
)
def test_invalid_results_raise(toys, rows, key, values, message):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    with pytest.raises(UserError, match=message):
        check(row.model_copy(update={"results": row.results | {key: values}}), toys, "row")


def test_wrong_seed_and_short_curve_raise(toys, rows):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    with pytest.raises(UserError, match="has seed 7, and its config has seed 0"):
        check(row.model_copy(update={"seed": 7}), toys, "row")
    short = row.curve.model_copy(update={"success": row.curve.success[:3]})
    with pytest.raises(UserError, match="its curve must have 60 points"):
        check(row.model_copy(update={"curve": short}), toys, "row")


def test_curve_begins_after_20_episodes(toys, make_run):
    """If success ends an episode, the first episodes to end are the successful ones."""
    path = make_run("again", "small", 1, 3)
    rows = "16,4,1,1,0.1\n32,20,0.25,-1,0.2\n128,40,0.5,0,2\n"
    (path / "metrics.csv").write_text("step,episodes,success,return,seconds\n" + rows)
    curve = row_of(Run.load(path), toys).curve
    success = dict(zip(curve.steps, curve.success, strict=True))
    assert [success[step] for step in curve.steps if step < 32] == [None] * 14
    assert success[32.0] == pytest.approx((4 * 1 + 16 * 0.25) / 20)  # 16 episodes have ended since step 16
    assert success[128.0] == 0.5  # and 20 since step 32


def test_missing_key_raises(toys, rows):
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    for key in ("commit", "command"):
        values = read_json(path)
        del values[key]
        write_json(rows / "toys" / "partial.json", values)
        with pytest.raises(UserError, match=f"the key '{key}' is missing.*\n.*so that others can reproduce it"):
            read_row(rows / "toys" / "partial.json")


def test_wrong_file_name_and_edited_results_raise(toys, rows):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    write_row(rows / "toys" / "renamed.json", row)
    with pytest.raises(UserError, match="row toys/toy-colours-pixels-seed0; rename the file"):
        read_rows(rows, toys)
    edited = {**row.results, "evaluation": {**row.results["evaluation"], "success": {"value": 2.0}}}
    with pytest.raises(UserError, match="is not the mean of its episodes"):
        check(row.model_copy(update={"results": edited}), toys, "row")
    early = {**row.results, "steps": 64}
    with pytest.raises(UserError, match="evaluated after 64 of 128 steps"):
        check(row.model_copy(update={"results": early}), toys, "row")


def test_submit_finds_the_suite_and_replaces_no_row_of_another_run(toys, make_run, tmp_path):
    run = make_run("colours", "pixels", 0, 2)
    [path] = submit([run], tmp_path / "out")
    assert path == tmp_path / "out" / "toys" / "toy-colours-pixels-seed0.json"
    assert read_row(path).success == 0.5
    assert submit([run], tmp_path / "out") == [path]  # the same run is no error
    with pytest.raises(UserError, match="exists and belongs to another run"):
        submit([make_run("colours", "pixels", 0, 3)], tmp_path / "out")
    assert read_row(path).success == 0.5


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_submit_copies_the_video_on_request(suffix, toys, make_run, tmp_path):
    run = make_run("colours", "pixels", 0, 2)
    with pytest.raises(UserError, match=f"{run} has no video; record one with `pr2l evaluate"):
        submit([run], tmp_path / "out", video=True)
    assert not (tmp_path / "out").exists()
    (run / f"video{suffix}").write_bytes(b"frames")
    [path] = submit([run], tmp_path / "out")
    assert video_of(path) is None
    submit([run], tmp_path / "out", video=True)
    assert video_of(path) == path.with_suffix(suffix) and path.with_suffix(suffix).read_bytes() == b"frames"


def test_submit_own_method_needs_a_name_and_the_protocol_of_the_suite(toys, make_run, tmp_path):
    run = make_run("colours", "pixels", 0, 4, num_envs=2)
    with pytest.raises(UserError, match="is not a run of .*toys.*--suite SUITE --method NAME"):
        submit([run], tmp_path / "out")
    with pytest.raises(UserError, match="none of the methods of toys"):
        submit([run], tmp_path / "out", "toys")
    with pytest.raises(UserError, match="--method mine needs --suite"):
        submit([run], tmp_path / "out", method="mine")
    row = read_row(*submit([run], tmp_path / "out", "toys", "mine"))
    assert row.command == "pr2l train toy/colours/pixels seed=0"  # without the folder of pr2l
    short = make_run("colours", "pixels", 0, 4, steps=64)
    with pytest.raises(UserError, match="steps is 64, and the suite has 128"):
        submit([short], tmp_path / "out", "toys", "shorter")
    with pytest.raises(UserError, match="num_envs is 2, and the suite has 4"):  # the name is a method of the suite
        submit([run], tmp_path / "out", "toys", "pixels")


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/bin/pr2l", "bench", "run", "mine.yaml"], None),
        (["/bin/pr2l", "train", "/tmp/mine.yaml", "seed=0"], None),
        (["/somewhere/pr2l/cli/__main__.py", "train"], None),
        (["/bin/pr2l", "train", "configs/toy/colours/pixels.yaml"], "pr2l train configs/toy/colours/pixels.yaml"),
        (["/somewhere/pr2l/__main__.py", "train", "toy/colours/pixels"], "pr2l train toy/colours/pixels"),
        (["/tmp/script.py", "--fast"], "python script.py --fast"),
    ],
    ids=["bench_run", "own_config", "module", "config_file", "package", "script"],
)
def test_command_of_an_own_method_works_on_other_machines(argv, command, toys, make_run):
    run = Run.load(make_run("colours", "pixels", 0, 2))
    facts = read_json(run.path / "run.json")
    write_json(run.path / "run.json", facts | {"command": argv})
    if command:
        assert row_of(run, toys, "mine").command == command
        return
    with pytest.raises(UserError, match=f"`pr2l {' '.join(argv[1:])}`, .*; commit its config as configs/NAME"):
        row_of(run, toys, "mine")


def test_run_of_another_task_raises(make_run, write_suite):
    run = Run.load(make_run("again", "pixels", 0, 2))
    with pytest.raises(UserError, match="task is 'toy/again', and the suite has toy/colours"):
        row_of(run, load_suite(write_suite("other")), "small")


def test_run_without_commit_or_evaluation_raises(toys, make_run):
    run = Run.load(make_run("colours", "pixels", 0, 2))
    facts = read_json(run.path / "run.json")
    write_json(run.path / "run.json", facts | {"commit": None})
    with pytest.raises(UserError, match="has no commit"):
        row_of(run, toys)
    (run.path / "results.json").unlink()
    with pytest.raises(UserError, match="has no evaluation; run `pr2l evaluate"):
        row_of(run, toys)
