"""A row says what made it, and one that does not, or says something else, is refused."""

import shlex

import pytest

from pr2l.benchmark.rows import check, read_row, read_rows, row_of, submit, video_of, write_row
from pr2l.benchmark.suites import load_suite
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.training.runs import Run


def test_a_row_holds_what_made_the_run_and_comes_back(toys, finished, tmp_path):
    run = Run.load(finished("again", "small", 1, 3))
    row = row_of(run, toys)
    assert (row.task, row.method, row.seed, row.success) == ("toy/again", "small", 1, 0.75)
    assert row.frames_per_second == 64 and row.cost.peak_memory == 1_500_000_000
    _, _, config, *overrides = shlex.split(row.command)
    assert load_config(config, overrides) == run.config
    at = dict(zip(row.curve.steps, row.curve.success, strict=True))
    assert row.curve.success[0] is None and at[64.0] == 0.25 and at[96.0] == 0.5 and at[128.0] == 0.75
    (tmp_path / "toys").mkdir()
    path = tmp_path / "toys" / f"{row.name}.json"
    write_row(path, row)
    assert path.name == "toy-again-small-seed1.json" and read_row(path) == row
    assert len(path.read_text().splitlines()) == len(read_json(path)) + 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"commit": None}, "needs the commit and the command"),
        ({"commit": "c0ffee"}, "needs the commit"),
        ({"command": ""}, "needs the commit"),
        ({"sead": 3}, "unknown key 'sead'. Did you mean 'seed'"),
        ({"method": "../up"}, "method = '../up'"),
        ({"version": 2}, "is of version 2 of toys, and toys is at version 1"),
        ({"seed": 1}, "holds the row toys/toy-colours-pixels-seed1; rename the file"),
        ({"config": {"seed": 0}}, "is not a run of toys: environment is None"),
        ({"results": {}}, "its results are incomplete: KeyError\\('played'\\)"),
    ],
)
def test_what_is_no_row_is_refused(toys, rows, changed, message):
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    values = read_json(path) | changed
    write_json(path, values)
    with pytest.raises(UserError, match=message):
        read_rows(rows, toys)


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("played", {"success": [1.0], "return": [1.0]}, "does not have the 4 evaluation episodes"),
        ("played", {"success": [5.0] * 4, "return": [1.0] * 4}, "must be 0 or 1"),
        ("played", {"success": [1.0] * 4, "return": [1.0, float("nan"), 1.0, 1.0]}, "all else finite"),
        ("evaluation", {"success": {"value": float("nan")}, "length": 5.0}, "all else finite"),
        ("evaluation", {"success": {"value": 1.0}}, "incomplete: KeyError\\('length'\\)"),
    ],
)
def test_results_that_cannot_be_are_refused(toys, rows, part, changed, message):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    with pytest.raises(UserError, match=message):
        check(row.model_copy(update={"results": row.results | {part: changed}}), toys, "it")


def test_a_run_under_another_seed_or_with_half_a_curve_is_refused(toys, rows):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    with pytest.raises(UserError, match="it has seed 7, and its config has seed 0"):
        check(row.model_copy(update={"seed": 7}), toys, "it")
    short = row.curve.model_copy(update={"success": row.curve.success[:3]})
    with pytest.raises(UserError, match="its curve must have 60 points"):
        check(row.model_copy(update={"curve": short}), toys, "it")


def test_a_curve_begins_when_twenty_episodes_have_ended(toys, finished):
    """Of few episodes, those that end first are the successes, where success ends them."""
    path = finished("again", "small", 1, 3)
    rows = "16,4,1,1,0.1\n32,20,0.25,-1,0.2\n128,40,0.5,0,2\n"
    (path / "metrics.csv").write_text("step,episodes,success,return,seconds\n" + rows)
    found = row_of(Run.load(path), toys).curve
    at = dict(zip(found.steps, found.success, strict=True))
    assert [at[step] for step in found.steps if step < 32] == [None] * 14
    assert at[32.0] == pytest.approx((4 * 1 + 16 * 0.25) / 20) and at[128.0] == 0.5  # 16 and 20 episodes each


def test_a_row_that_lacks_a_key_is_refused(toys, rows):
    path = rows / "toys" / "toy-colours-pixels-seed0.json"
    for key in ("commit", "command"):
        values = read_json(path)
        del values[key]
        write_json(rows / "toys" / "partial.json", values)
        with pytest.raises(UserError, match=f"the key '{key}' is missing.*\n.*so that others can reproduce it"):
            read_row(rows / "toys" / "partial.json")


def test_a_row_under_another_name_or_with_another_mean_is_refused(toys, rows):
    row = read_row(rows / "toys" / "toy-colours-pixels-seed0.json")
    write_row(rows / "toys" / "mine.json", row)
    with pytest.raises(UserError, match="holds the row toys/toy-colours-pixels-seed0; rename the file"):
        read_rows(rows, toys)
    better = {**row.results, "evaluation": {**row.results["evaluation"], "success": {"value": 2.0}}}
    with pytest.raises(UserError, match="is not the mean of its episodes"):
        check(row.model_copy(update={"results": better}), toys, "it")
    early = {**row.results, "steps": 64}
    with pytest.raises(UserError, match="evaluated after 64 of 128 steps"):
        check(row.model_copy(update={"results": early}), toys, "it")


def test_a_run_is_submitted_once_to_the_suite_that_it_is_of(toys, finished, tmp_path):
    run = finished("colours", "pixels", 0, 2)
    [path] = submit([run], tmp_path / "out")
    assert path == tmp_path / "out" / "toys" / "toy-colours-pixels-seed0.json"
    assert read_row(path).success == 0.5
    assert submit([run], tmp_path / "out") == [path], "the same again changes nothing"
    with pytest.raises(UserError, match="exists, and is of another run; delete it"):
        submit([finished("colours", "pixels", 0, 3)], tmp_path / "out")
    assert read_row(path).success == 0.5


@pytest.mark.parametrize("kind", [".mp4", ".gif"])
def test_a_video_is_copied_with_its_row_on_request(kind, toys, finished, tmp_path):
    run = finished("colours", "pixels", 0, 2)
    with pytest.raises(UserError, match=f"{run} has no video; `pr2l evaluate"):
        submit([run], tmp_path / "out", video=True)
    assert not (tmp_path / "out").exists()
    (run / f"video{kind}").write_bytes(b"moving")
    [path] = submit([run], tmp_path / "out")
    assert video_of(path) is None
    submit([run], tmp_path / "out", video=True)
    assert video_of(path) == path.with_suffix(kind) and path.with_suffix(kind).read_bytes() == b"moving"


def test_a_method_of_ones_own_is_named_and_keeps_to_the_protocol(toys, finished, tmp_path):
    mine = finished("colours", "pixels", 0, 4, num_envs=2)
    with pytest.raises(UserError, match="is not a run of .*toys.*--suite SUITE and --method NAME"):
        submit([mine], tmp_path / "out")
    with pytest.raises(UserError, match="none of the methods of toys"):
        submit([mine], tmp_path / "out", "toys")
    with pytest.raises(UserError, match="--method mine needs --suite"):
        submit([mine], tmp_path / "out", method="mine")
    row = read_row(*submit([mine], tmp_path / "out", "toys", "mine"))
    assert row.command == "pr2l train toy/colours/pixels seed=0"  # as it was typed, without the machine's folders
    short = finished("colours", "pixels", 0, 4, steps=64)
    with pytest.raises(UserError, match="steps is 64, and the suite has 128"):
        submit([short], tmp_path / "out", "toys", "shorter")
    with pytest.raises(UserError, match="num_envs is 2, and the suite has 4"):  # under a name that is taken
        submit([mine], tmp_path / "out", "toys", "pixels")


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        (["/bin/pr2l", "bench", "run", "mine.yaml"], None),
        (["/bin/pr2l", "train", "/tmp/mine.yaml", "seed=0"], None),
        (["/somewhere/pr2l/cli.py", "train"], None),
        (["/bin/pr2l", "train", "configs/toy/colours/pixels.yaml"], "pr2l train configs/toy/colours/pixels.yaml"),
        (["/tmp/script.py", "--fast"], "python script.py --fast"),
    ],
)
def test_the_command_of_a_method_of_ones_own_is_one_for_everybody(typed, command, toys, finished):
    run = Run.load(finished("colours", "pixels", 0, 2))
    facts = read_json(run.path / "run.json")
    write_json(run.path / "run.json", facts | {"command": typed})
    if command:
        assert row_of(run, toys, "mine").command == command
        return
    with pytest.raises(UserError, match=f"made by `pr2l {' '.join(typed[1:])}`.*commit its config as configs/NAME"):
        row_of(run, toys, "mine")


def test_a_run_of_another_task_is_no_run_of_the_suite(finished, write_suite):
    run = Run.load(finished("again", "pixels", 0, 2))
    with pytest.raises(UserError, match="task is 'toy/again', and the suite has toy/colours"):
        row_of(run, load_suite(write_suite("other")), "small")


def test_a_run_without_a_commit_or_an_end_is_no_row(toys, finished):
    run = Run.load(finished("colours", "pixels", 0, 2))
    facts = read_json(run.path / "run.json")
    write_json(run.path / "run.json", facts | {"commit": None})
    with pytest.raises(UserError, match="has no commit"):
        row_of(run, toys)
    (run.path / "results.json").unlink()
    with pytest.raises(UserError, match="has not been evaluated; `pr2l evaluate"):
        row_of(run, toys)
