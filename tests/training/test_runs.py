"""What a run leaves on disk: checkpoints that are whole, metrics that lose no column, videos, curves."""

import json
import math
import os
import platform
import resource
import shutil
import subprocess
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from pr2l.core import machine
from pr2l.core.config import RunConfig
from pr2l.core.errors import UserError
from pr2l.core.io import write_json
from pr2l.core.machine import processor
from pr2l.training import checkpoints, metrics, runs, video
from pr2l.training.checkpoints import Checkpoint
from pr2l.training.curves import curves, smooth
from pr2l.training.metrics import Metrics, Table
from pr2l.training.runs import Run

CONFIG = RunConfig(why="", environment="doom", task="fetch", encoder="prompted", network="mlp", steps=1)


def checkpoint(step):
    tensors = {
        "model/a": torch.full((2,), step + 0.5),
        "model/policy/b": torch.tensor([True]),
        "encoder/c": torch.zeros(0, dtype=torch.float16),
    }
    return Checkpoint(step, tensors, {"big": 2**100, "third": 1 / 3, "list": [step]})


def test_a_checkpoint_comes_back_exactly(tmp_path):
    checkpoints.write(tmp_path, checkpoint(7))
    read = checkpoints.read_latest(tmp_path)
    assert (read.step, read.values) == (7, {"big": 2**100, "third": 1 / 3, "list": [7]})
    for name, tensor in checkpoint(7).tensors.items():
        assert torch.equal(read.tensors[name], tensor) and read.tensors[name].dtype == tensor.dtype
    assert read.below("model").keys() == {"a", "policy/b"}


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 100, 20, 3000):
        checkpoints.write(tmp_path, checkpoint(step))
    assert checkpoints.steps(tmp_path) == [100, 3000]


@pytest.mark.parametrize("damage", ["tensors.safetensors", "values.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    for step in (1, 2):
        checkpoints.write(tmp_path, checkpoint(step))
    (tmp_path / "000000002" / damage).write_bytes(b"{")
    with pytest.warns(UserWarning, match="step 2 in .* is damaged .*step 1 is taken"):
        assert checkpoints.read_latest(tmp_path).step == 1
    checkpoints.write(tmp_path, checkpoint(2))  # in the damaged one's place
    assert checkpoints.read_latest(tmp_path).values["list"] == [2]


def test_a_run_that_goes_on_removes_damaged_checkpoints(tmp_path):
    """They would count as the newest otherwise, and the whole ones before them would go first."""
    for step in (1, 2):
        checkpoints.write(tmp_path, checkpoint(step))
    (tmp_path / "000000002" / "tensors.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.read_latest(tmp_path, remove_damaged=True).step == 1
    assert checkpoints.steps(tmp_path) == [1]


def test_what_was_being_written_when_the_process_died_does_not_count(tmp_path):
    checkpoints.write(tmp_path, checkpoint(1))
    shutil.copytree(tmp_path / "000000001", tmp_path / ".partial-000000002")
    (tmp_path / ".partial-000000002" / "values.json").unlink()
    assert checkpoints.read_latest(tmp_path).step == 1
    checkpoints.write(tmp_path, checkpoint(2))
    assert checkpoints.read_latest(tmp_path).values["list"] == [2]


def test_a_full_disk_costs_the_new_checkpoint_only(tmp_path):
    """A real refusal of the operating system: files may not become longer than 4 kB."""
    folder = tmp_path / "run" / "checkpoints"
    checkpoints.write(folder, checkpoint(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(checkpoints.CheckpointNotWritten) as failure:
            checkpoints.write(folder, Checkpoint(2, {"w": torch.zeros(500_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = str(failure.value)
    assert "step 2 could not be written" in said and "about 2.0 MB" in said and "step 1 is whole" in said
    assert f"pr2l train --resume {tmp_path / 'run'}" in said.splitlines()
    assert [path.name for path in folder.iterdir()] == ["000000001"]


def test_a_full_disk_costs_the_new_config_only(tmp_path, monkeypatch):
    CONFIG.save(tmp_path / "config.yaml")
    before = (tmp_path / "config.yaml").read_bytes()

    def half(path, text, **how):
        path.write_bytes(text.encode()[:20])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        CONFIG.save(tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_no_checkpoint_is_an_error_that_says_so(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint in .*stopped before its first one"):
        checkpoints.read_latest(tmp_path)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
    paths = {Run.create(CONFIG, tmp_path).path for _ in range(3)}
    assert len(paths) == 3


def test_a_run_says_where_it_comes_from(tmp_path):
    facts = json.loads((Run.create(CONFIG, tmp_path).path / "run.json").read_text())
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["seed"] == 0 and facts["command"] and facts["python"].count(".") == 2
    assert facts["commit"] is None or len(facts["commit"]) == 40
    assert f"{os.cpu_count()} cores, {processor()}" in facts["machine"]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("processor\t: 0\nmodel name\t: A Chip: 9R14\nflags\t: fpu\n\nmodel name\t: another\n", "A Chip: 9R14"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", platform.processor() or platform.machine()),  # as ARM has it
        (None, platform.processor() or platform.machine()),
    ],
)
def test_the_processor_is_named_with_its_instructions(said, named, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    assert processor() == f"{named} ({torch.backends.cpu.get_cpu_capability()})"


def test_a_run_may_be_named_by_text_as_in_the_notebooks(tmp_path):
    made = Run.create(CONFIG, tmp_path)
    assert Run.load(str(made.path)).path == made.path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """checkout(message): a commit of a project in whose folder runs are made; its hash."""
    place = tmp_path / "project"
    (place / "pr2l").mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(place / "pr2l" / "runs.py"))
    git = ["git", "-C", str(place), "-c", "user.name=me", "-c", "user.email=me@here"]
    subprocess.run([*git, "init", "-q"], check=True)

    def commit(message):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    return commit


def origin(run):
    facts = json.loads((run.path / "run.json").read_text())
    return facts["commit"], facts["uncommitted"], facts.get("went_on_at")


def test_a_plug_in_that_is_not_committed_is_told(checkout, tmp_path):
    first, place = checkout("first"), tmp_path / "project"
    (place / "notes.txt").write_text("mine")
    assert origin(Run.create(CONFIG, tmp_path)) == (first, False, None)
    (place / "environments").mkdir()
    (place / "environments" / "mine.py").write_text("")
    assert origin(Run.create(CONFIG, tmp_path)) == (first, True, None)


def test_a_run_that_goes_on_with_other_code_is_of_no_one_commit(checkout, tmp_path):
    first, run = checkout("first"), Run.create(CONFIG, tmp_path)
    config = Run.load(run.path).config
    config.save(run.path / "config.yaml")
    assert origin(Run.reopen(run.path, config)) == (first, False, None)
    second = checkout("second")
    assert origin(Run.reopen(run.path, config)) == (first, True, second)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="it has no config.yaml"):
        Run.load(tmp_path)


def test_json_is_replaced_whole(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_a_column_that_comes_late_is_not_lost(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1, "a": 0.1})
    table.append({"step": 2, "late": np.float32(0.5), "a": None})
    Table(tmp_path / "t.csv").append({"step": 3})
    assert table.rows() == [
        {"step": "1", "a": "0.1", "late": ""},
        {"step": "2", "a": "", "late": "0.5"},
        {"step": "3", "a": "", "late": ""},
    ]


def test_a_resumed_run_drops_the_rows_that_will_come_again(tmp_path):
    first = Metrics(tmp_path, CONFIG)
    for step in (64, 128, 192):
        first.write({"step": step, "return": 1.0})
    second = Metrics(tmp_path, CONFIG, after=128)
    second.write({"step": 192, "return": 2.0})
    first.close(), second.close()
    rows = Table(tmp_path / "metrics.csv").rows()
    assert [(row["step"], row["return"]) for row in rows] == [("64", "1.0"), ("128", "1.0"), ("192", "2.0")]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Metrics(tmp_path, CONFIG)
    log.write({"step": 64, "return": 1.5, "success": None, "train/loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["rollout/return", "train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("rollout/return")] == [(64, 1.5)]


def test_wandb_that_is_asked_for_but_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb=offline needs .*pip install 'pr2l\\[wandb\\]', or wandb=off"):
        Metrics(tmp_path, CONFIG.model_copy(update={"wandb": "offline"}))


def test_smoothing_averages_over_the_last_episodes():
    values, episodes = np.array([0.0, 1.0, 2.0, 10.0]), np.array([1.0, 1.0, 2.0, 1.0])
    assert smooth(values, episodes, 3).tolist() == [0, 0.5, 5 / 3, 14 / 3]
    assert smooth(values, episodes, 1).tolist() == [0, 1, 2, 10]
    assert smooth(values, episodes, 99).tolist() == pytest.approx([0, 0.5, 1.25, 3])


def test_a_video_shows_the_first_episode_of_each_environment():
    recorder = video.EpisodeVideo(2)
    black, white = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 255, np.uint8)
    contexts = [{"target": "imp"}, {"target": "armor"}]
    recorder.show(black, contexts, ["left", "right"])
    recorder.step([0, np.array([0.5, -1])], np.array([1, -0.25], np.float32))
    recorder.end(0, white[0], contexts[0], True)
    recorder.show(white, contexts, [])
    recorder.end(2, white[0], contexts[0], True)  # of an environment that is not recorded
    pictures = recorder.pictures()
    assert len(pictures) == (1 + video.REPEATS) + 2
    height = 4 * (video.WIDTH // 4)
    bright = [one[:height].mean() for one in pictures]
    assert bright == [0] + [255] * video.REPEATS + [0, 255]
    assert all(one.shape[0] % 2 == one.shape[1] % 2 == 0 for one in pictures)
    assert pictures[0][height:].max() == 255  # something is written below


PICTURES = [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 128, 255)]


@pytest.mark.pictures
def test_a_video_on_disk(tmp_path):
    path = video.write_video(tmp_path / "video", PICTURES, fps=5)
    assert path.name == "video.mp4"
    shades = [frame.mean() for frame in imageio.get_reader(path)]
    assert shades == pytest.approx([0, 128, 255], abs=4)


@pytest.mark.pictures
def test_without_a_codec_a_video_is_a_gif(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-ffmpeg"))
    path = video.write_video(tmp_path / "video", PICTURES, fps=5)
    assert path.name == "video.gif" and [file.name for file in tmp_path.iterdir()] == ["video.gif"]
    assert math.isclose(np.mean([frame.mean() for frame in imageio.mimread(path)]), 127.7, abs_tol=2)


@pytest.mark.parametrize("known", [True, False])
def test_curves_show_what_random_actions_reach(known):
    rows = [{"step": str(64 * n), "return": "1", "success": "0.5", "episodes": str(9 * n)} for n in (1, 2, 3)]
    panels = curves(rows, {"return": -0.25, "success": 0.125} if known else {}).axes
    for panel, level in zip(panels, (-0.25, 0.125), strict=True):
        random = [line for line in panel.lines if line.get_label().startswith("random")]
        assert [set(line.get_ydata()) for line in random] == ([{level}] if known else [])
        assert len(panel.get_legend().get_texts()) == 2 + known
