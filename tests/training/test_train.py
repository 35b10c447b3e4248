"""Whole runs in the toy world: training, interruption, resumption."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import psutil
import pytest
import torch
import toy_runs
import yaml
from processes import command_line
from toy_runs import (
    FITTED,
    TOY_WORLD,
    assert_same_run,
    copied_before_checkpoint,
    metrics,
    wait_for_checkpoint,
    weights,
)

from pr2l import cli
from pr2l.core import registry
from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.rollout import build
from pr2l.training import metrics as metrics_module
from pr2l.training.evaluate import evaluate
from pr2l.training.train import train

TOY = toy_runs.TOY | {
    "evaluation_episodes": 4,
    "algorithm_options": {
        "learning_rate": 0.01, "n_steps": 16, "n_epochs": 4, "batch_size": 32, "head_sizes": [16], "device": "cpu",
        "schedule": "linear",
    },
}  # fmt: skip


@pytest.fixture
def toy(write_plugin, tmp_path):
    """toy(key=value, ...) -> config of a run in the toy world; its YAML is in tmp_path/toy.yaml."""
    write_plugin("environments", "toy", TOY_WORLD)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


@pytest.fixture(scope="module")
def finished_runs():
    """Folders of finished runs by their overrides."""
    return {}


@pytest.fixture
def finished(toy, finished_runs, tmp_path_factory):
    """finished(key=value, ...) -> folder of a finished, uninterrupted run, which tests share and do not change."""

    def run(*overrides):
        if overrides not in finished_runs:
            finished_runs[overrides] = train(toy(*overrides), root=tmp_path_factory.mktemp("runs"))
        return finished_runs[overrides]

    return run


def toy_class():
    """Return the environment class of the latest toy plug-in."""
    return registry.load("environments", "toy").Colours


@pytest.mark.pictures
def test_run_learns_the_toy_task_and_writes_all_files(toy, tmp_path):
    run = train(toy("steps=4096", "evaluation_episodes=10"), root=tmp_path / "runs")
    result = json.loads((run / "results.json").read_text())
    assert result["evaluation"]["success"]["value"] >= 0.9
    assert result["random"]["success"]["value"] <= 0.1
    assert 3 < result["evaluation"]["return"]["low"] <= result["evaluation"]["return"]["high"] < 7
    assert (result["steps"], result["evaluation"]["episodes"]) == (4096, 10)
    expected = {"config.yaml", "run.json", "metrics.csv", "tensorboard", "checkpoints", "curves.png", "video.mp4"}
    assert expected <= {path.name for path in run.iterdir()}
    assert toy_class().open_engines == 0


def test_equal_seeds_give_equal_runs(toy, finished, tmp_path):
    same, other = (train(toy("steps=192", f"seed={seed}"), root=tmp_path / "runs") for seed in (0, 1))
    assert_same_run(same, finished("steps=192"))
    assert metrics(other) != metrics(same)


def test_handles_do_not_change_the_run(toy, finished, tmp_path):
    config = toy("steps=192")
    assert config.options("algorithm").handles
    assert_same_run(train(toy("steps=192", "algorithm_options.handles=false"), root=tmp_path), finished("steps=192"))


def test_metrics_rows_hold_steps_and_episode_statistics(finished):
    rows = metrics(finished("steps=192"))
    assert [int(row["step"]) for row in rows] == [64, 128, 192]
    assert all(0 <= float(row["success"]) <= 1 and 4 <= float(row["length"]) <= 7 for row in rows)
    assert 192 / 7 - 4 <= int(rows[-1]["episodes"]) <= 192 / 4
    assert all(row["train/value_loss"] for row in rows)


def test_metrics_rows_hold_the_cache_hit_rate_of_their_rollout(toy, tmp_path, monkeypatch):
    """The toy world has three colours on two sides, so at most six of the 64 frames of a rollout are new."""
    monkeypatch.setattr(registry.load("encoders", "pixels").PixelsEncoder, "costly", True)
    rows = metrics(train(toy("steps=128"), root=tmp_path / "runs"))
    assert [1 - 6 / 64 <= float(row["cache/hit_rate"]) < 1 for row in rows] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize(("recurrent", "workers"), [(False, 2), (False, 0), (True, 0)])
def test_resume_after_kill_equals_uninterrupted_run(toy, finished, tmp_path, recurrent, workers):
    """SIGKILL at some time after the third checkpoint. The uninterrupted run has no worker processes."""
    overrides = ["algorithm_options.recurrent=true", "algorithm_options.lstm_size=8"] if recurrent else []
    toy()
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "pr2l", "train", "toy.yaml", *overrides, f"workers={workers}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "TOY_DELAY": "0.001", "TOY_HANG_AT": "140"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            killed = wait_for_checkpoint(tmp_path, process, 256)
        finally:
            process.kill()
    assert len(metrics(killed)) < 10
    resumed = train(load_config(killed / "config.yaml"), resume=killed)
    assert_same_run(resumed, finished(*overrides))
    assert [int(row["step"]) for row in metrics(resumed)] == list(range(64, 641, 64))


DOOM = {
    **TOY,
    "environment": "doom",
    "environment_options": {"rooms": 20},
    "task": "fetch",
    "encoder": "oracle",
    "encoder_options": {},
    "algorithm_options": TOY["algorithm_options"] | {"schedule": "constant"},
    "num_envs": 2,
    "steps": 160,
    "checkpoint_every": 32,
    "evaluation_episodes": 2,
}


def test_resumed_doom_run_equals_uninterrupted_run(tmp_path, monkeypatch):
    """The resumed run has the files that a kill after step 128 leaves, with the latest checkpoint at step 96."""
    (tmp_path / "doom.yaml").write_text(yaml.safe_dump(DOOM))
    killed = tmp_path / "killed"
    with copied_before_checkpoint(monkeypatch, 128, killed):
        uninterrupted = train(load_config(tmp_path / "doom.yaml"), root=tmp_path / "runs")
    assert weights(killed)[0] == "000000096" and metrics(killed)[-1]["step"] == "128"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of an episode that is not restored exactly
        resumed = train(load_config(killed / "config.yaml"), resume=killed)
    assert_same_run(resumed, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_a_checkpoint_and_resume_equals_uninterrupted_run(
    toy, finished, tmp_path, monkeypatch, capsys, number, code
):
    """The signal arrives in the third rollout. tests/test_cli.py sends one to another process."""
    toy()
    step = toy_class().step

    def step_with_signal(env, action):
        if env.steps == 40:
            signal.raise_signal(number)
        return step(env, action)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pr2l", "train", "toy.yaml", "checkpoint_every=1000000", "steps=256"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(toy_class(), "step", step_with_signal)
        cli.main()
    assert exit_.value.code == code
    [run] = (tmp_path / "runs").iterdir()
    assert f"pr2l train --resume runs/{run.name}" in capsys.readouterr().out.splitlines()  # on one line, to be copied
    assert weights(run)[0] == "000000128"
    assert toy_class().open_engines == 0
    assert_same_run(train(load_config(run / "config.yaml"), resume=run), finished("steps=256"))


def test_environment_error_saves_a_checkpoint_and_closes_environments(toy, tmp_path):
    with pytest.raises(RuntimeError, match="the toy engine has died"):
        train(toy("environment_options.crash_at=50", "checkpoint_every=1000000"), root=tmp_path)
    assert toy_class().open_engines == 0
    (run,) = tmp_path.glob("toy-colours-*")
    assert weights(run)[0] == "000000192"  # three rollouts of 16 steps in 4 environments


@pytest.mark.parametrize("override", ["workers=0", "workers=2", "isolated=true"])
def test_nan_reward_stops_the_run_with_a_checkpoint(toy, tmp_path, override):
    with pytest.raises(UserError, match=r"toy/colours, episode seed \d+, step \d: the reward is nan"):
        train(toy("num_envs=2", "environment_options.nan_at=20", override), root=tmp_path)
    (run,) = tmp_path.glob("toy-colours-*")
    assert weights(run)[0] == "000000032"


@pytest.mark.filterwarnings("ignore:the episode is cut")
def test_nan_reward_can_truncate_its_episode(toy, tmp_path):
    words = ["environment_options.nan_at=20", "on_bad_value=truncate", "steps=128", "evaluation_episodes=2"]
    run = train(toy(*words), root=tmp_path)
    assert metrics(run)[-1]["restarts"] == "4"  # one in each environment


def test_isolated_run_equals_run_in_this_process(toy, tmp_path):
    words = ["num_envs=2", "steps=64", "evaluation_episodes=2"]
    local, isolated = (train(toy(*words, f"isolated={word}"), root=tmp_path / "runs") for word in ("false", "true"))
    assert_same_run(isolated, local)
    assert all(row["restarts"] == "0" for row in metrics(local))


@pytest.mark.filterwarnings("ignore:toy is replaced")
def test_run_restarts_crashed_simulators_and_counts_the_restarts(toy, tmp_path):
    """A simulator crashes at its 30th step: twice in 64 steps of training, and at least once in the evaluation."""
    words = ["isolated=true", "num_envs=1", "algorithm_options.batch_size=16", "environment_options.crash_at=30"]
    run = train(toy(*words, "steps=64", "evaluation_episodes=4"), root=tmp_path / "runs")
    restarts = [int(row["restarts"]) for row in metrics(run)]
    assert [int(row["step"]) for row in metrics(run)] == [16, 32, 48, 64]
    assert restarts == sorted(restarts) and restarts[-1] == 2
    assert json.loads((run / "results.json").read_text())["evaluation"]["episodes"] == 4
    extended = train(load_config(run / "config.yaml", ["steps=80"]), resume=run)
    assert int(metrics(extended)[-1]["restarts"]) >= 2


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:toy is replaced")
@pytest.mark.parametrize("workers", [0, 2])
def test_long_run_survives_random_kills_of_simulators(toy, tmp_path, workers):
    """With PR2L_SOAK=100000 the run has that many steps, with a kill about every 2,000 of them."""
    steps = int(os.environ.get("PR2L_SOAK", "6000"))
    kill_every = 300 if steps < 50_000 else 2000
    words = [f"steps={steps}", f"environment_options.kill_every={kill_every}", "checkpoint_every=1000000"]
    run = train(toy("isolated=true", f"workers={workers}", *words), root=tmp_path / "runs")
    last = metrics(run)[-1]
    assert int(last["step"]) >= steps
    assert steps / kill_every / 3 <= int(last["restarts"]) <= steps / kill_every * 3
    children = psutil.Process().children(recursive=True)
    assert not [process for process in children if "worker.py" in command_line(process)]


def test_run_keeps_its_latest_two_checkpoints(finished):
    checkpoints = sorted(path.name for path in (finished() / "checkpoints").iterdir())
    assert checkpoints == ["000000512", "000000640"]


def test_extended_run_restates_its_linear_schedule(finished, tmp_path, capsys):
    run = shutil.copytree(finished("steps=128"), tmp_path / "run")
    train(load_config(run / "config.yaml", ["steps=256"]), resume=run)
    assert "steps was 128 and is now 256: the linear schedule is restated" in capsys.readouterr().out.replace("\n", " ")
    rates = [float(row["train/learning_rate"]) for row in metrics(run)]
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.0025])


@pytest.mark.parametrize("recurrent", ["false", "true"])
def test_extended_run_equals_a_longer_run(toy, tmp_path, recurrent):
    words = ["algorithm_options.schedule=constant", f"algorithm_options.recurrent={recurrent}"]
    words += ["algorithm_options.lstm_size=8"]
    run = train(toy("steps=64", *words), root=tmp_path / "runs")
    extended = train(load_config(run / "config.yaml", ["steps=128"]), resume=run)
    assert_same_run(extended, train(toy("steps=128", *words), root=tmp_path / "longer"))


@pytest.mark.slow
def test_wrong_labels_of_an_evaluator_are_counted_and_resumed_exactly(toy, tmp_path):
    """`noisy` flips three tenths of the labels of `state`, and the return of the toy world was 1 per right action."""
    words = ["evaluator=noisy", "evaluator_options.share=0.3", "instruction=the colour {target}"]
    words += ["algorithm_options.schedule=constant"]
    run = train(toy("steps=128", *words), root=tmp_path / "runs")
    resumed = train(load_config(run / "config.yaml", ["steps=256"]), resume=run)
    assert_same_run(resumed, train(toy("steps=256", *words), root=tmp_path / "longer"))
    rows = metrics(resumed)
    assert {float(row["evaluator/abstentions"]) for row in rows} == {0}
    assert 0.5 < sum(float(row["evaluator/agreement"]) for row in rows) / len(rows) < 0.9
    assert all(0 <= float(row["return"]) <= 1 for row in rows)


def test_evaluator_needs_its_slots_and_rollouts(toy, tmp_path):
    with pytest.raises(UserError, match=r"the slot \{goal\}, but the contexts of toy/colours have \{target\}"):
        train(toy("evaluator=state"), root=tmp_path)
    with pytest.raises(UserError, match="pr2l evaluator label data/x state"):
        train(toy("evaluator=state", "algorithm=filtered_bc", "algorithm_options={}", "data=data/x"), root=tmp_path)
    with pytest.raises(UserError, match="evaluator_options has share, but the config has no evaluator"):
        toy("evaluator_options.share=0.1")


def test_interrupt_during_an_update_saves_the_state_before_it(toy, finished, tmp_path, monkeypatch):
    """An update has four epochs of two batches, so step 13 of the optimizer is in the second update."""
    step, count = torch.optim.Adam.step, itertools.count(1)

    def interrupted(optimizer, *arguments, **options):
        if next(count) == 13:
            optimizer.param_groups[0]["params"][0].data += 1  # as if half of the step were done
            raise KeyboardInterrupt
        return step(optimizer, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.Adam, "step", interrupted)
        train(toy("steps=256"), root=tmp_path / "runs")
    [run] = (tmp_path / "runs").iterdir()
    assert weights(run)[0] == "000000064"
    assert_same_run(train(load_config(run / "config.yaml"), resume=run), finished("steps=256"))


def test_resume_falls_back_to_the_checkpoint_before_a_damaged_one(finished, tmp_path):
    uninterrupted = finished("steps=192", "checkpoint_every=64")
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    latest = run / "checkpoints" / "000000192" / "tensors.safetensors"
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="step 192 in .* is damaged .*step 128"):
        train(load_config(run / "config.yaml"), resume=run)
    assert_same_run(run, uninterrupted)
    assert json.loads((run / "results.json").read_text())["steps"] == 192


def test_invalid_config_is_rejected_before_the_encoder_is_loaded(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_module, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "encoder", lambda config: pytest.fail("the encoder was loaded"))
    with pytest.raises(UserError, match="wandb=offline .*wandb=off"):
        train(toy("wandb=offline"), root=tmp_path / "runs")
    with pytest.raises(UserError, match="num_envs"):
        toy("num_envs=1000000")
    assert not (tmp_path / "runs").exists()


def test_rollout_beyond_memory_is_rejected_before_simulators_start(toy, tmp_path):
    with pytest.raises(UserError, match="TB of observations.*fewer num_envs"):
        train(toy("algorithm_options.n_steps=1000000000000"), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() and toy_class().open_engines == 0


def test_resume_rejects_another_seed(toy, finished):
    with pytest.raises(UserError, match="seed was 0 and is now 5"):
        train(toy("seed=5"), resume=finished("steps=128"))


def test_encoder_is_fitted_once_and_restored_from_the_checkpoint(toy, tmp_path, write_plugin):
    write_plugin("encoders", "fitted", FITTED)
    words = ("encoder=fitted", "encoder_options={}")
    run = train(toy("steps=64", *words), root=tmp_path / "runs")
    encoder = registry.load("encoders", "fitted")
    assert encoder.FIT_CALLS == [(40, 40)]
    shift = weights(run)[1]["encoder/shift"]
    longer = train(toy("steps=128", *words, "algorithm_options.schedule=constant"), root=tmp_path / "longer")
    resumed = train(load_config(run / "config.yaml", ["steps=128"]), resume=run)
    assert encoder.FIT_CALLS == [(40, 40)] * 2
    assert torch.equal(weights(resumed)[1]["encoder/shift"], shift)
    assert torch.equal(weights(longer)[1]["encoder/shift"], shift)


def test_metrics_rows_count_the_clipped_numbers_of_their_rollout(toy, tmp_path, write_plugin):
    write_plugin("encoders", "infinite", INFINITE)
    rows = metrics(train(toy("steps=128", "encoder=infinite", "encoder_options={}"), root=tmp_path / "runs"))
    clipped = [float(row["tokens/clipped"]) for row in rows]
    assert len(clipped) == 2 and all(0 < count <= 80 for count in clipped)  # 64 frames, and last frames of episodes


INFINITE = '''
"""Infinity for red frames, 1 for others."""
import torch
from pydantic import BaseModel
from pr2l.encoders import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class Infinite(Encoder):
    tokens, width = 1, 1
    def encode(self, frames, contexts, labels=None):
        red = torch.from_numpy(frames).amax(dim=(1, 2))[:, :1] > 0
        values = torch.where(red, torch.inf, 1.0)[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return Infinite()
'''


def test_resume_restores_the_frame_cache(toy, tmp_path, write_plugin):
    """The numbers of the encoder depend on its batch, so a run without the same cache would differ."""
    write_plugin("encoders", "batch_size", BATCH_SIZE)
    words = ("encoder=batch_size", "encoder_options={}", "algorithm_options.schedule=constant")
    longer = train(toy("steps=128", *words), root=tmp_path / "longer")
    run = train(toy("steps=64", *words), root=tmp_path / "runs")
    no_cache = train(toy("steps=64", *words, "cache_frames=0"), root=tmp_path / "no_cache")
    assert metrics(no_cache) != metrics(run)
    assert_same_run(train(load_config(run / "config.yaml", ["steps=128"]), resume=run), longer)
    results = (longer / "results.json").read_text()
    evaluate(longer)
    assert (longer / "results.json").read_text() == results


BATCH_SIZE = '''
"""Mean colour, plus a hundredth of the batch size."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class BatchSize(Encoder):
    tokens, width, costly = 1, 3, True
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().mean(dim=(1, 2)) / 255 + len(frames) / 100
        return Tokens(values[:, None], torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return BatchSize()
'''


def test_follow_with_the_right_action_as_token_succeeds_and_resumes_exactly(toy, tmp_path, write_plugin):
    write_plugin("encoders", "right_action", RIGHT_ACTION)
    words = ("encoder=right_action", "encoder_options={}", "algorithm=follow", "algorithm_options={n_steps: 16}")
    longer = train(toy("steps=128", *words), root=tmp_path / "longer")
    run = train(toy("steps=64", *words), root=tmp_path / "runs")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=128"]), resume=run), longer)
    assert json.loads((longer / "results.json").read_text())["evaluation"]["success"]["value"] == 1


RIGHT_ACTION = '''
"""The colour as one-hot, which is the right action."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class RightAction(Encoder):
    tokens, width = 1, 3
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().amax(dim=(1, 2)) / 200
        return Tokens(values[:, None], torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return RightAction()
'''


@pytest.mark.parametrize("encoder", ["pixels", "oracle", "random_features"])
def test_encoders_without_vlm_can_be_trained_on(toy, tmp_path, encoder):
    run = train(toy("steps=64", f"encoder={encoder}", "encoder_options={}"), root=tmp_path / "runs")
    assert json.loads((run / "results.json").read_text())["encoder"] == encoder
