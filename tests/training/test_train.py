"""Whole runs in a toy world: learned, killed, gone on with, and compared."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from processes import TIMEOUT, command_line
from safetensors.torch import load_file

from pr2l.core.config import load_config
from pr2l.core.errors import UserError
from pr2l.rollout import build
from pr2l.training import metrics as metrics_module
from pr2l.training.evaluate import evaluate
from pr2l.training.train import train

TOY = {
    "why": "a test",
    "environment": "toy",
    "task": "colours",
    "encoder": "pixels",
    "encoder_options": {"size": 8},
    "network": "mlp",
    "network_options": {"hidden": [16]},
    "algorithm_options": {
        "learning_rate": 0.01, "n_steps": 16, "n_epochs": 4, "batch_size": 32, "head_sizes": [16], "device": "cpu",
        "schedule": "linear",
    },
    "num_envs": 4,
    "steps": 640,
    "checkpoint_every": 128,
    "evaluation_episodes": 10,
}  # fmt: skip

TIMES = {"seconds", "fps"}


@pytest.fixture
def toy(write_plugin, tmp_path):
    """toy(key=value, ...) -> config of a run in the toy world; its YAML is in tmp_path/toy.yaml."""
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text())
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    return lambda *overrides: load_config(tmp_path / "toy.yaml", overrides)


def world():
    """The toy plug-in as the registry has loaded it last."""
    from pr2l.core import registry

    return registry.load("environments", "toy").Colours


def metrics(run):
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: row[key] for key in row if key not in TIMES} for row in csv.DictReader(file)]


def weights(run):
    last = sorted((run / "checkpoints").iterdir())[-1]
    return last.name, load_file(last / "tensors.safetensors")


def assert_same_run(one, other):
    assert metrics(one) == metrics(other)
    (step, ours), (other_step, theirs) = weights(one), weights(other)
    assert step == other_step
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (one / "results.json").read_text() == (other / "results.json").read_text()


@pytest.fixture
def start(tmp_path):
    """start(word, ...): `pr2l train` in a process of its own, with the toy world's plug-in and runs/ in tmp_path."""
    started = []
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    environment = {**os.environ, "PYTHONPATH": path, "TOY_DELAY": "0.001", "TOY_HOLD": "140"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    def start(*words):
        command = [sys.executable, "-m", "pr2l.cli", "train", *words]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for_step(tmp_path, process, step):
    """Waits until a run in tmp_path/runs has a checkpoint of at least this step; returns the run."""

    def reached():
        places = (tmp_path / "runs").glob("*/checkpoints/[0-9]*")
        return [place.parents[1] for place in places if int(place.name) >= step]

    return wait_until(process, reached)[0]


def wait_until(process, happened):
    """What happened() returns once that is true; fails if the process ends or TIMEOUT runs out before."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if result := happened():
            return result
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise TimeoutError("the other process has not come so far")


@pytest.mark.pictures
def test_a_run_learns_and_leaves_everything_behind(toy, tmp_path):
    run = train(toy("steps=4096"), root=tmp_path / "runs")
    result = json.loads((run / "results.json").read_text())
    assert result["evaluation"]["success"]["value"] >= 0.9
    assert result["random"]["success"]["value"] <= 0.1
    assert 3 < result["evaluation"]["return"]["low"] <= result["evaluation"]["return"]["high"] < 7
    assert (result["steps"], result["evaluation"]["episodes"]) == (4096, 10)
    expected = {"config.yaml", "run.json", "metrics.csv", "tensorboard", "checkpoints", "curves.png", "video.mp4"}
    assert expected <= {path.name for path in run.iterdir()}
    assert world().open_engines == 0


def test_same_seed_same_run_and_another_seed_another(toy, tmp_path):
    runs = [train(toy("steps=192", f"seed={seed}"), root=tmp_path / "runs") for seed in (0, 0, 1)]
    assert_same_run(runs[0], runs[1])
    assert metrics(runs[0]) != metrics(runs[2])


def test_without_handles_the_run_is_the_same(toy, tmp_path):
    runs = [train(toy("steps=192", f"algorithm_options.handles={word}"), root=tmp_path) for word in ("true", "false")]
    assert_same_run(*runs)


def test_rows_say_where_the_run_was(toy, tmp_path):
    rows = metrics(train(toy("steps=192"), root=tmp_path / "runs"))
    assert [int(row["step"]) for row in rows] == [64, 128, 192]
    assert all(0 <= float(row["success"]) <= 1 and 4 <= float(row["length"]) <= 7 for row in rows)
    assert 192 / 7 - 4 <= int(rows[-1]["episodes"]) <= 192 / 4
    assert all(row["train/value_loss"] for row in rows)


def test_rows_say_how_many_frames_of_their_rollout_came_again(toy, tmp_path):
    """The toy world shows three colours on two sides, so a rollout of 64 frames asks for at most six."""
    from pr2l.core import registry

    registry.load("encoders", "pixels").PixelsEncoder.costly = True
    try:
        rows = metrics(train(toy("steps=128"), root=tmp_path / "runs"))
    finally:
        del registry.load("encoders", "pixels").PixelsEncoder.costly
    assert [1 - 6 / 64 <= float(row["cache/hit_rate"]) < 1 for row in rows] == [True, True]


@pytest.mark.parametrize(
    ("recurrent", "workers"),
    [(False, 2), pytest.param(False, 0, marks=pytest.mark.slow), pytest.param(True, 0, marks=pytest.mark.slow)],
)
def test_killed_and_resumed_is_never_killed(toy, start, tmp_path, recurrent, workers):
    """kill -9 at some moment after the third checkpoint; then the last whole checkpoint is the truth.

    And that whatever the number of worker processes: the run that was never killed has none.
    """
    words = ["toy.yaml", f"algorithm_options.recurrent={str(recurrent).lower()}", "algorithm_options.lstm_size=8"]
    toy()
    process = start(*words, f"workers={workers}")
    killed = wait_for_step(tmp_path, process, 256)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(metrics(killed)) < 10
    resumed = train(load_config(killed / "config.yaml"), resume=killed)
    whole = train(toy(*words[1:]), root=tmp_path / "whole")
    assert_same_run(resumed, whole)
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
    "steps": 256,
    "checkpoint_every": 32,
    "evaluation_episodes": 4,
}


def test_a_killed_doom_run_goes_on_exactly(start, tmp_path):
    """The real simulator comes back from its seeds and actions, so even here nothing differs: no tolerance."""
    (tmp_path / "doom.yaml").write_text(yaml.safe_dump(DOOM))
    process = start("doom.yaml", "steps=1000000")  # so that it is not at its end before somebody looks
    killed = wait_for_step(tmp_path, process, 96)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = f"steps={int(weights(killed)[0]) + 96}"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # an episode that came back otherwise
        resumed = train(load_config(killed / "config.yaml", [steps]), resume=killed)
    assert_same_run(resumed, train(load_config(tmp_path / "doom.yaml", [steps]), root=tmp_path / "whole"))


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],  # tests/test_cli.py sends SIGINT
)
def test_a_stopped_run_saves_what_it_has(toy, start, tmp_path, number, code):
    toy()
    process = start("toy.yaml", "checkpoint_every=1000000", "steps=1000000")
    run = wait_for_step(tmp_path, process, 0)
    wait_until(process, lambda: (run / "metrics.csv").exists() and len(metrics(run)) > 2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, output
    assert f"pr2l train --resume runs/{run.name}" in output.splitlines()  # so that it can be copied
    last = int(weights(run)[0])
    assert last >= 2 * 64
    resumed = train(load_config(run / "config.yaml", [f"steps={last + 128}"]), resume=run)
    assert [int(row["step"]) for row in metrics(resumed)] == list(range(64, last + 129, 64))


def test_a_crash_saves_and_leaves_no_engine(toy, tmp_path):
    with pytest.raises(RuntimeError, match="the toy engine has died"):
        train(toy("environment_options.hang_at=50", "checkpoint_every=1000000"), root=tmp_path)
    assert world().open_engines == 0
    (run,) = tmp_path.glob("toy-colours-*")
    assert weights(run)[0] == "000000192"  # three rollouts of 16 steps in 4 environments


@pytest.mark.parametrize("place", [[], ["workers=2"], ["isolated=true"]], ids=str)
def test_a_reward_that_is_nan_stops_a_run_which_is_saved(toy, tmp_path, place):
    with pytest.raises(UserError, match=r"toy/colours, episode seed \d+, step \d: the reward is nan"):
        train(toy("environment_options.nan_at=20", *place), root=tmp_path)
    (run,) = tmp_path.glob("toy-colours-*")
    assert weights(run)[0] == "000000064"


@pytest.mark.filterwarnings("ignore:the episode is cut")
def test_a_reward_that_is_nan_may_end_its_episode_only(toy, tmp_path):
    words = ["environment_options.nan_at=20", "on_bad_value=truncate", "steps=256", "evaluation_episodes=2"]
    run = train(toy(*words), root=tmp_path)
    assert metrics(run)[-1]["restarts"] == "4"  # one in each environment


def test_an_isolated_run_is_the_same(toy, tmp_path):
    words = ["steps=256", "evaluation_episodes=2"]
    runs = [train(toy(*words, *more), root=tmp_path / "runs") for more in ([], ["isolated=true"])]
    assert_same_run(*runs)
    assert all(row["restarts"] == "0" for row in metrics(runs[0]))


@pytest.mark.filterwarnings("ignore:toy is replaced")
def test_a_run_whose_simulators_die_goes_on_and_counts_them(toy, tmp_path):
    """Each engine dies in its 50th step: 4 x 160 steps see 12 die in training, as many as there are whole fifties."""
    run = train(toy("isolated=true", "environment_options.hang_at=50"), root=tmp_path / "runs")
    rows = metrics(run)
    restarts = [int(row["restarts"]) for row in rows]
    assert [int(row["step"]) for row in rows] == list(range(64, 641, 64))
    assert restarts == sorted(restarts) and restarts[-1] == 4 * (160 // 50)
    assert json.loads((run / "results.json").read_text())["evaluation"]["episodes"] == 10
    longer = train(load_config(run / "config.yaml", ["steps=704"]), resume=run)
    assert int(metrics(longer)[-1]["restarts"]) >= restarts[-1]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:toy is replaced")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_run_survives_workers_that_are_killed_at_random(toy, tmp_path, workers):
    """PR2L_SOAK=100000 makes it that many steps, with a kill about every 2,000 of them."""
    steps = int(os.environ.get("PR2L_SOAK", "6000"))
    every = 300 if steps < 50_000 else 2000
    words = [f"steps={steps}", f"environment_options.killed_every={every}", "checkpoint_every=1000000"]
    run = train(toy("isolated=true", f"workers={workers}", *words), root=tmp_path / "runs")
    last = metrics(run)[-1]
    assert int(last["step"]) >= steps
    assert steps / every / 3 <= int(last["restarts"]) <= steps / every * 3
    assert not [one for one in psutil.Process().children(recursive=True) if "worker.py" in command_line(one)]


def test_only_two_checkpoints_are_kept(toy, tmp_path):
    run = train(toy("evaluation_episodes=1"), root=tmp_path / "runs")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000000512", "000000640"]


def test_a_prolonged_linear_schedule_is_restated_and_said_so(toy, tmp_path, capsys):
    run = train(toy("steps=128", "evaluation_episodes=1"), root=tmp_path / "runs")
    train(load_config(run / "config.yaml", ["steps=256"]), resume=run)
    assert "steps was 128 and is now 256: the linear schedule is restated" in capsys.readouterr().out.replace("\n", " ")
    rates = [float(row["train/learning_rate"]) for row in metrics(run)]
    assert rates == pytest.approx([0.01, 0.005, 0.005, 0.0025])


@pytest.mark.parametrize("recurrent", ["false", "true"])
def test_a_finished_run_can_be_prolonged(toy, tmp_path, recurrent):
    words = ["algorithm_options.schedule=constant", f"algorithm_options.recurrent={recurrent}"]
    words += ["algorithm_options.lstm_size=8"]
    run = train(toy("steps=128", *words), root=tmp_path / "runs")
    longer = load_config(run / "config.yaml", ["steps=256"])
    whole = train(toy("steps=256", *words), root=tmp_path / "whole")
    assert_same_run(train(longer, resume=run), whole)


def test_an_interrupt_in_the_middle_of_an_update_saves_no_half_of_it(toy, tmp_path, monkeypatch):
    """Four epochs of two batches: the 13th step of the optimizer lies in the second update."""
    whole = train(toy("steps=256"), root=tmp_path / "whole")
    step, count = torch.optim.Adam.step, itertools.count(1)

    def interrupted(optimizer, *given, **named):
        if next(count) == 13:
            optimizer.param_groups[0]["params"][0].data += 1  # half of a step
            raise KeyboardInterrupt
        return step(optimizer, *given, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(toy("steps=256"), root=tmp_path / "runs")
    [run] = (tmp_path / "runs").iterdir()
    assert weights(run)[0] == "000000064"
    assert_same_run(train(load_config(run / "config.yaml"), resume=run), whole)


def test_a_damaged_newest_checkpoint_is_told_and_made_again(toy, tmp_path):
    words = ("steps=192", "checkpoint_every=64")
    whole = train(toy(*words), root=tmp_path / "whole")
    run = train(toy(*words), root=tmp_path / "runs")
    newest = run / "checkpoints" / "000000192" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="step 192 in .* is damaged .*step 128 is taken"):
        train(load_config(run / "config.yaml"), resume=run)
    assert_same_run(run, whole)
    assert json.loads((run / "results.json").read_text())["steps"] == 192


def test_what_cannot_work_is_refused_before_there_is_a_run_or_an_encoder(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_module, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "encoder", lambda config: pytest.fail("loaded"))
    with pytest.raises(UserError, match="wandb=offline needs .*wandb=off"):
        train(toy("wandb=offline"), root=tmp_path / "runs")
    with pytest.raises(UserError, match="num_envs"):
        toy("num_envs=1000000")
    assert not (tmp_path / "runs").exists()


def test_a_rollout_that_cannot_fit_is_refused_before_there_is_a_simulator(toy, tmp_path):
    with pytest.raises(UserError, match="TB of observations.*take fewer num_envs"):
        train(toy("algorithm_options.n_steps=1000000000000"), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() and world().open_engines == 0


def test_a_resumed_run_may_not_become_another_experiment(toy, tmp_path):
    run = train(toy("steps=64"), root=tmp_path / "runs")
    with pytest.raises(UserError, match="seed was 0 and is now 5.*Resume it with its own config"):
        train(toy("seed=5"), resume=run)


def test_pca_is_fitted_once_and_stored(toy, tmp_path, write_plugin):
    """A plug-in encoder that counts its fittings: the resumed process has none."""
    write_plugin("encoders", "fitted", FITTED)
    words = ("encoder=fitted", "encoder_options={}")
    run = train(toy("steps=64", *words), root=tmp_path / "runs")
    from pr2l.core import registry

    encoder = registry.load("encoders", "fitted")
    assert encoder.FITTED == [(40, 40)]
    shift = weights(run)[1]["encoder/shift"]
    whole = train(toy("steps=128", *words, "algorithm_options.schedule=constant"), root=tmp_path / "whole")
    resumed = train(load_config(run / "config.yaml", ["steps=128"]), resume=run)
    assert encoder.FITTED == [(40, 40)] * 2
    assert torch.equal(weights(resumed)[1]["encoder/shift"], shift)
    assert torch.equal(weights(whole)[1]["encoder/shift"], shift)


FITTED = '''
"""Mean colour, less the mean of the frames it was fitted on."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
FITTED = []
class Defaults(BaseModel): pass
class Fitted(Encoder):
    tokens, width, fit_frames = 1, 3, 40
    shift = torch.zeros(3)
    def mean(self, frames):
        return torch.from_numpy(frames).float().mean(dim=(1, 2)) / 255
    def fit(self, frames, contexts):
        FITTED.append((len(frames), len(contexts)))
        self.shift = self.mean(frames).mean(dim=0)
    def encode(self, frames, contexts, labels=None):
        values = (self.mean(frames) - self.shift)[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))
    def state_dict(self): return {"shift": self.shift}
    def load_state_dict(self, state): self.shift = state["shift"]
def create(source, options): return Fitted()
'''


def test_rows_say_how_many_numbers_of_their_rollout_were_clipped(toy, tmp_path, write_plugin):
    """Red frames give infinity; a rollout of 64 frames has some, and counts no number of another rollout."""
    write_plugin("encoders", "loud", LOUD)
    rows = metrics(train(toy("steps=128", "encoder=loud", "encoder_options={}"), root=tmp_path / "runs"))
    clipped = [float(row["tokens/clipped"]) for row in rows]
    assert len(clipped) == 2 and all(0 < count <= 80 for count in clipped)  # 64 frames, and the last ones of episodes


LOUD = '''
import torch
from pydantic import BaseModel
from pr2l.encoders import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class Loud(Encoder):
    tokens, width = 1, 1
    def encode(self, frames, contexts, labels=None):
        red = torch.from_numpy(frames).amax(dim=(1, 2))[:, :1] > 0
        values = torch.where(red, torch.inf, 1.0)[:, None]
        return Tokens(values, torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return Loud()
'''


def test_a_run_that_remembers_goes_on_exactly(toy, tmp_path, write_plugin):
    """An encoder whose numbers depend on its batch, as a VLM's last bits do, only more so."""
    write_plugin("encoders", "batched", BATCHED)
    words = ("encoder=batched", "encoder_options={}", "algorithm_options.schedule=constant")
    whole = train(toy("steps=256", *words), root=tmp_path / "whole")
    run = train(toy("steps=128", *words), root=tmp_path / "runs")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=256"]), resume=run), whole)
    once = (whole / "results.json").read_text()
    evaluate(whole)
    assert (whole / "results.json").read_text() == once
    forgetful = train(toy("steps=128", *words, "cache_frames=0"), root=tmp_path / "forgetful")
    assert metrics(forgetful) != metrics(run)  # so something was remembered


def test_following_a_token_that_is_right_is_perfect_and_goes_on_exactly(toy, tmp_path, write_plugin):
    write_plugin("encoders", "told", TOLD)
    words = ("encoder=told", "encoder_options={}", "algorithm=follow", "algorithm_options={n_steps: 16}")
    whole = train(toy("steps=256", *words), root=tmp_path / "whole")
    run = train(toy("steps=128", *words), root=tmp_path / "runs")
    assert_same_run(train(load_config(run / "config.yaml", ["steps=256"]), resume=run), whole)
    assert json.loads((whole / "results.json").read_text())["evaluation"]["success"]["value"] == 1


TOLD = '''
"""The colour as one-hot: the number of the right action."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class Told(Encoder):
    tokens, width = 1, 3
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().amax(dim=(1, 2)) / 200
        return Tokens(values[:, None], torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return Told()
'''


BATCHED = '''
"""Mean colour, plus a hundredth of the number of rows."""
import torch
from pydantic import BaseModel
from pr2l.encoders.base import Encoder
from pr2l.core.types import Tokens
class Defaults(BaseModel): pass
class Batched(Encoder):
    tokens, width, costly = 1, 3, True
    def encode(self, frames, contexts, labels=None):
        values = torch.from_numpy(frames).float().mean(dim=(1, 2)) / 255 + len(frames) / 100
        return Tokens(values[:, None], torch.ones(len(frames), 1, dtype=torch.bool))
def create(source, options): return Batched()
'''


@pytest.mark.parametrize("encoder", ["pixels", "oracle", "random_features"])
def test_encoders_that_need_no_vlm_train(toy, tmp_path, encoder):
    run = train(toy("steps=64", f"encoder={encoder}", "encoder_options={}"), root=tmp_path / "runs")
    assert json.loads((run / "results.json").read_text())["encoder"] == encoder
