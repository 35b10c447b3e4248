"""Comparison of runs whose results are made up."""

from pathlib import Path

import numpy as np
import pytest

from pr2l.benchmark.compare import compare, curve, group
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.core.io import read_json, write_json
from pr2l.training.evaluate import Score
from pr2l.training.runs import Run


@pytest.fixture
def make_run(tmp_path: Path):
    def make(config: str, seed: int, successes: list[float], *overrides: str) -> Path:
        run = Run.create(load_config(config, [f"seed={seed}", *overrides]), tmp_path)
        (run.path / "metrics.csv").write_text("step,episodes,success,return\n100,100,0.0,-1\n200,200,1.0,1\n")
        episodes = [{"success": success, "r": 2 * success, "l": 10} for success in successes]
        keys = ("environment", "task", "encoder", "vlm", "prompt", "network")
        settings = {key: getattr(run.config, key) for key in keys}
        results = {
            **settings,
            "seed": seed,
            "steps": 200,
            "evaluation": Score.of(episodes).as_json(),
            "random": Score.of(episodes).as_json(),
            "played": {"success": successes, "return": [episode["r"] for episode in episodes]},
        }
        write_json(run.path / "results.json", results)
        return run.path

    return make


def test_success_and_return_of_methods(make_run, tmp_path):
    runs = [
        make_run("doom/fetch/prompted", 1, [1.0, 1.0]),
        make_run("doom/fetch/prompted", 0, [1.0, 0.0]),
        make_run("doom/fetch/no_prompt", 0, [0.0, 0.0]),
        make_run("doom/fetch/pixels", 0, [0.0, 0.0]),
    ]
    methods = compare(runs, tmp_path / "out")
    assert [method.name for method in methods] == ["prompted-where", "no_prompt", "pixels"]
    assert [run.config.seed for run in methods[0].runs] == [0, 1]
    assert methods[0].estimate("success").value == 0.75 and methods[0].estimate("return").value == 1.5
    assert methods[1].estimate("success") == pytest.approx((0.0, 0.0, 0.6576), abs=1e-4)  # Wilson's of 0 of 2
    assert methods[1].estimate("return") == (0.0, 0.0, 0.0)
    values = read_json(tmp_path / "out" / "doom-fetch-prompted-where.json")
    assert values["success_of_each_seed"] == [0.5, 1.0] and values["evaluation"]["episodes"] == 4
    assert "| prompted-where | 0.75 [" in (tmp_path / "out" / "doom-fetch.md").read_text()
    assert (tmp_path / "out" / "doom-fetch.png").stat().st_size > 10_000


def test_measures_have_columns_and_contexts_have_tables(make_run, tmp_path):
    episodes = [("bed", 1.0, 0.8), ("tv", 0.0, 0.0), ("bed", 1.0, 0.4)]
    paths = [make_run("doom/fetch/pixels", seed, [success for _, success, _ in episodes]) for seed in (0, 1)]
    for path in paths:
        results = read_json(path / "results.json")
        results["played"] |= {"context": [name for name, _, _ in episodes], "spl": [spl for *_, spl in episodes]}
        results["evaluation"]["measures"] = {"spl": {"value": 0.4, "low": 0.0, "high": 1.0}}
        results["by_context"] = {"bed": {}, "tv": {}}
        write_json(path / "results.json", results)
    [method] = compare(paths, tmp_path / "out")
    assert method.estimate("spl").value == pytest.approx(0.4)
    assert method.estimate("spl", "bed").value == pytest.approx(0.6)
    page = (tmp_path / "out" / "doom-fetch.md").read_text()
    header = "| method | success rate | spl | return | each seed | steps |\n|---|---|---|---|---|---|\n"
    assert header + "| pixels | 0.67 [" in page
    assert "| spl by context | bed | tv |\n|---|---|---|\n| pixels | 0.60 [" in page
    values = read_json(tmp_path / "out" / "doom-fetch-pixels.json")
    assert values["evaluation"]["measures"]["spl"]["value"] == pytest.approx(0.4)


def test_curve_averages_the_last_100_episodes(make_run):
    [metrics] = group([Run.load(make_run("doom/fetch/pixels", 0, [0.0]))])[0].metrics
    values = curve(metrics, "success", np.array([0.0, 100.0, 150.0, 200.0]))
    np.testing.assert_allclose(values, [np.nan, 0.0, 0.5, 1.0])


def test_curve_of_learning_from_data_is_the_accuracy(make_run, tmp_path):
    path = make_run("doom/fetch/bc", 0, [1.0, 0.0])
    (path / "metrics.csv").write_text("step,train/loss,train/accuracy\n100,0.9,0.5\n200,0.5,1.0\n")
    [metrics] = group([Run.load(path)])[0].metrics
    values = curve(metrics, "train/accuracy", np.array([50.0, 100.0, 200.0]))
    np.testing.assert_allclose(values, [np.nan, 0.5, 0.75])  # the mean of the last two updates
    assert np.isnan(curve(metrics, "success", np.array([100.0]))).all()
    compare([path], tmp_path / "out")
    assert (tmp_path / "out" / "doom-fetch.png").stat().st_size > 10_000


def test_runs_of_different_tasks_raise(make_run, tmp_path):
    runs = [make_run("doom/fetch/pixels", 0, [0.0]), make_run("doom/hunt/pixels", 0, [0.0])]
    with pytest.raises(UserError, match="doom-fetch, doom-hunt"):
        compare(runs, tmp_path / "out")


def test_different_configs_of_one_method_raise(make_run):
    first, second = make_run("doom/fetch/pixels", 0, [0.0]), make_run("doom/fetch/pixels", 1, [0.0], "num_envs=2")
    with pytest.raises(UserError, match=r"'pixels': .* differ in num_envs \(\d+ / 2\)"):
        group([Run.load(first), Run.load(second)])
    nested = make_run("doom/fetch/pixels", 1, [0.0], "encoder_options.size=32")
    with pytest.raises(UserError, match=r"differ in encoder_options.size \(64 / 32\)"):
        group([Run.load(first), Run.load(nested)])


def test_default_output_folder(make_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    compare([make_run("doom/fetch/pixels", 0, [0.0, 1.0])])
    written = sorted(path.name for path in Path("runs/compare-doom-fetch").iterdir())
    assert written == ["doom-fetch-pixels.json", "doom-fetch.md", "doom-fetch.png"]
    assert "runs/compare-doom-fetch: doom-fetch.md" in capsys.readouterr().out
    assert "Fewer than 5 seeds" in Path("runs/compare-doom-fetch/doom-fetch.md").read_text()


def test_table_has_a_row_for_random_actions(make_run, tmp_path):
    compare([make_run("doom/fetch/pixels", seed, [0.0, 1.0]) for seed in range(5)], tmp_path / "out")
    page = (tmp_path / "out" / "doom-fetch.md").read_text()
    assert "| random | 0.50 [0.09, 0.91] | 1.00 [" in page and "Fewer than" not in page


def test_method_below_random_actions_is_marked(make_run, tmp_path):
    paths = [make_run("doom/fetch/pixels", 0, [0.0, 0.0]), make_run("doom/fetch/no_prompt", 0, [1.0, 0.0])]
    for path in paths:
        change_json(path / "results.json", random=Score.of([{"success": s, "r": s, "l": 1} for s in (1, 0)]).as_json())
    compare(paths, tmp_path / "out")
    page = (tmp_path / "out" / "doom-fetch.md").read_text()
    assert "| pixels (below random) | 0.00 [" in page and "| no_prompt | 0.50 [" in page


def test_run_without_results_raises(make_run, tmp_path):
    run = make_run("doom/fetch/pixels", 0, [0.0])
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="pr2l evaluate"):
        compare([run], tmp_path / "out")


def change_json(path, **changes):
    """Replace values in a JSON file."""
    write_json(path, read_json(path) | changes)


def test_different_evaluations_raise(make_run, tmp_path):
    first, second = (make_run("doom/fetch/pixels", seed, [0.0, 1.0]) for seed in (0, 1))
    short = make_run("doom/fetch/prompted", 0, [1.0])
    for uneven in ([first, short], [short, make_run("doom/fetch/prompted", 1, [1.0, 0.0])]):
        with pytest.raises(UserError, match="different numbers of episodes: .* 1.*`pr2l evaluate RUN --episodes N`"):
            compare(uneven, tmp_path / "out")
    change_json(second / "results.json", by_context={"bed": {}})
    with pytest.raises(UserError, match=f"different contexts: {first} none, {second} bed"):
        compare([first, second], tmp_path / "out")
    change_json(second / "results.json", by_context={}, steps=100)
    with pytest.raises(UserError, match=f"of pixels were evaluated after .*: {first} 200, {second} 100"):
        compare([first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_run_without_commit_can_be_compared(make_run, tmp_path):
    paths = [make_run("doom/fetch/pixels", seed, [0.0]) for seed in (0, 1)]
    for path, commit in zip(paths, ("abc", None), strict=True):
        change_json(path / "run.json", commit=commit)
    compare(paths, tmp_path / "out")
    values = read_json(tmp_path / "out" / "doom-fetch-pixels.json")
    assert values["commits"] == [None, "abc"]


def test_behaviour_cloning_is_a_separate_method_without_a_success_curve(make_run, tmp_path):
    run = make_run("doom/fetch/bc", 0, [1.0])
    (run / "metrics.csv").write_text("step,train/loss\n200,0.5\n")
    methods = compare([run, make_run("doom/fetch/prompted", 0, [0.0])], tmp_path / "out")
    assert [method.name for method in methods] == ["bc-prompted-where", "prompted-where"]
    assert np.isnan(curve(methods[0].metrics[0], "success", np.array([0.0, 100.0]))).all()
