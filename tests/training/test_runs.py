"""Files of a run: checkpoints, config, metrics, videos, curves."""

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
from pr2l.core.io import read_json, write_json
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


def test_checkpoint_is_read_as_written(tmp_path):
    checkpoints.write(tmp_path, checkpoint(7))
    read = checkpoints.read_latest(tmp_path)
    assert (read.step, read.values) == (7, {"big": 2**100, "third": 1 / 3, "list": [7]})
    for name, tensor in checkpoint(7).tensors.items():
        assert torch.equal(read.tensors[name], tensor) and read.tensors[name].dtype == tensor.dtype
    assert read.below("model").keys() == {"a", "policy/b"}


def test_latest_two_checkpoints_are_kept(tmp_path):
    for step in (5, 100, 20, 3000):
        checkpoints.write(tmp_path, checkpoint(step))
    assert checkpoints.steps(tmp_path) == [100, 3000]


@pytest.mark.parametrize("damage", ["tensors.safetensors", "values.json"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    for step in (1, 2):
        checkpoints.write(tmp_path, checkpoint(step))
    (tmp_path / "000000002" / damage).write_bytes(b"{")
    with pytest.warns(UserWarning, match="step 2 in .* is damaged .*step 1"):
        assert checkpoints.read_latest(tmp_path).step == 1
    checkpoints.write(tmp_path, checkpoint(2))  # replaces the damaged one
    assert checkpoints.read_latest(tmp_path).values["list"] == [2]


def test_damaged_checkpoints_are_removed_on_resume(tmp_path):
    """Otherwise they would count among the latest two, and intact ones would be deleted."""
    for step in (1, 2):
        checkpoints.write(tmp_path, checkpoint(step))
    (tmp_path / "000000002" / "tensors.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoints.read_latest(tmp_path, remove_damaged=True).step == 1
    assert checkpoints.steps(tmp_path) == [1]


def test_partially_written_checkpoint_is_ignored(tmp_path):
    checkpoints.write(tmp_path, checkpoint(1))
    shutil.copytree(tmp_path / "000000001", tmp_path / ".partial-000000002")
    (tmp_path / ".partial-000000002" / "values.json").unlink()
    assert checkpoints.read_latest(tmp_path).step == 1
    checkpoints.write(tmp_path, checkpoint(2))
    assert checkpoints.read_latest(tmp_path).values["list"] == [2]


def test_full_disk_keeps_the_previous_checkpoint(tmp_path):
    """The operating system limits files to 4 kB."""
    folder = tmp_path / "run" / "checkpoints"
    checkpoints.write(folder, checkpoint(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(checkpoints.CheckpointNotWritten) as error:
            checkpoints.write(folder, Checkpoint(2, {"w": torch.zeros(500_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(error.value)
    assert "step 2 could not be written" in message and "about 2.0 MB" in message and "step 1 is complete" in message
    assert f"pr2l train --resume {tmp_path / 'run'}" in message.splitlines()
    assert [path.name for path in folder.iterdir()] == ["000000001"]


def test_full_disk_keeps_the_previous_config(tmp_path, monkeypatch):
    CONFIG.save(tmp_path / "config.yaml")
    before = (tmp_path / "config.yaml").read_bytes()

    def write_first_bytes(path, text, **options):
        path.write_bytes(text.encode()[:20])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", write_first_bytes)
    with pytest.raises(OSError, match="no space"):
        CONFIG.save(tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_folder_without_checkpoint_raises(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.read_latest(tmp_path)


def test_runs_of_the_same_second_have_separate_folders(tmp_path):
    paths = {Run.create(CONFIG, tmp_path).path for _ in range(3)}
    assert len(paths) == 3


def test_run_json_has_packages_seed_command_commit_and_machine(tmp_path):
    facts = json.loads((Run.create(CONFIG, tmp_path).path / "run.json").read_text())
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["seed"] == 0 and facts["command"] and facts["python"].count(".") == 2
    assert facts["commit"] is None or len(facts["commit"]) == 40
    assert f"{os.cpu_count()} cores, {processor()}" in facts["machine"]


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: A Chip: 9R14\nflags\t: fpu\n\nmodel name\t: another\n", "A Chip: 9R14"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", platform.processor() or platform.machine()),  # ARM
        (None, platform.processor() or platform.machine()),
    ],
)
def test_processor_has_name_and_instruction_set(cpuinfo, name, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor() == f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def test_run_is_loaded_from_a_path_or_a_string(tmp_path):
    run = Run.create(CONFIG, tmp_path)
    assert Run.load(str(run.path)).path == Run.load(run.path).path == run.path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """checkout(message) -> hash of a new commit of the repository that contains pr2l."""
    project = tmp_path / "project"
    (project / "pr2l").mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(project / "pr2l" / "runs.py"))
    git = ["git", "-C", str(project), "-c", "user.name=me", "-c", "user.email=me@here"]
    subprocess.run([*git, "init", "-q"], check=True)

    def commit(message):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", message], check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    return commit


def origin(run):
    facts = json.loads((run.path / "run.json").read_text())
    return facts["commit"], facts["uncommitted"], facts.get("went_on_at")


def test_uncommitted_plugin_is_recorded(checkout, tmp_path):
    first, project = checkout("first"), tmp_path / "project"
    (project / "notes.txt").write_text("text")
    assert origin(Run.create(CONFIG, tmp_path)) == (first, False, None)
    (project / "environments").mkdir()
    (project / "environments" / "new.py").write_text("")
    assert origin(Run.create(CONFIG, tmp_path)) == (first, True, None)


def test_resume_with_another_commit_is_recorded(checkout, tmp_path):
    first, run = checkout("first"), Run.create(CONFIG, tmp_path)
    config = Run.load(run.path).config
    config.save(run.path / "config.yaml")
    assert origin(Run.reopen(run.path, config)) == (first, False, None)
    second = checkout("second")
    assert origin(Run.reopen(run.path, config)) == (first, True, second)


def test_folder_without_config_raises(tmp_path):
    with pytest.raises(UserError, match="no config.yaml"):
        Run.load(tmp_path)


def test_failed_write_json_keeps_the_file(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file) == {"a": 1}


def test_table_adds_new_columns_to_earlier_rows(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1, "a": 0.1})
    table.append({"step": 2, "late": np.float32(0.5), "a": None})
    Table(tmp_path / "t.csv").append({"step": 3})
    assert table.rows() == [
        {"step": "1", "a": "0.1", "late": ""},
        {"step": "2", "a": "", "late": "0.5"},
        {"step": "3", "a": "", "late": ""},
    ]


def test_new_columns_may_be_in_the_middle_of_a_row(tmp_path):
    table = Table(tmp_path / "t.csv")
    table.append({"step": 1, "last": 0.1})
    table.append({"step": 2, "new": 0.2, "last": 0.3})
    table.append({"last": 0.4, "step": 3})
    assert [row["last"] for row in table.rows()] == ["0.1", "0.3", "0.4"]


def test_resumed_metrics_drop_rows_after_the_checkpoint(tmp_path):
    first = Metrics(tmp_path, CONFIG)
    for step in (64, 128, 192):
        first.write({"step": step, "return": 1.0})
    second = Metrics(tmp_path, CONFIG, after=128)
    second.write({"step": 192, "return": 2.0})
    first.close(), second.close()
    rows = Table(tmp_path / "metrics.csv").rows()
    assert [(row["step"], row["return"]) for row in rows] == [("64", "1.0"), ("128", "1.0"), ("192", "2.0")]


def test_tensorboard_has_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Metrics(tmp_path, CONFIG)
    log.write({"step": 64, "return": 1.5, "success": None, "train/loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["rollout/return", "train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("rollout/return")] == [(64, 1.5)]


def test_missing_wandb_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb=offline .*pr2l\\[wandb\\].*wandb=off"):
        Metrics(tmp_path, CONFIG.model_copy(update={"wandb": "offline"}))


def test_smooth_averages_over_the_last_episodes():
    values, episodes = np.array([0.0, 1.0, 2.0, 10.0]), np.array([1.0, 1.0, 2.0, 1.0])
    assert smooth(values, episodes, 3).tolist() == [0, 0.5, 5 / 3, 14 / 3]
    assert smooth(values, episodes, 1).tolist() == [0, 1, 2, 10]
    assert smooth(values, episodes, 99).tolist() == pytest.approx([0, 0.5, 1.25, 3])


def test_video_shows_the_first_episode_of_each_environment():
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
    brightness = [picture[:height].mean() for picture in pictures]
    assert brightness == [0] + [255] * video.REPEATS + [0, 255]
    assert all(picture.shape[0] % 2 == picture.shape[1] % 2 == 0 for picture in pictures)
    assert pictures[0][height:].max() == 255  # text below the frame


def test_video_shows_question_answer_action_and_reward(monkeypatch):
    monkeypatch.setattr(video, "picture", lambda frame, lines: lines)
    recorder = video.EpisodeVideo(1, "where is the {target} ?".format_map)
    frames, contexts = np.zeros((1, 4, 4, 3), np.uint8), [{"target": "imp"}]
    recorder.show(frames, contexts, ["left"])
    recorder.step([2], np.array([-0.25], np.float32))
    recorder.show(frames, contexts, ["right"])
    recorder.step([1], np.array([1], np.float32))
    recorder.end(0, frames[0], contexts[0], True)
    first, second, *last = recorder.pictures()
    assert first == ["where is the imp ?", "VLM: left", ""]
    assert second == ["where is the imp ?", "VLM: right", "action 2, reward -0.25"]
    assert last == [["where is the imp ?", "success", "action 1, reward 1.00"]] * video.REPEATS


def test_video_shows_the_text_of_an_action_if_the_environment_gives_one(monkeypatch):
    """The second action is malformed, so it has no text."""
    monkeypatch.setattr(video, "picture", lambda frame, lines: lines[-1])
    recorder = video.EpisodeVideo(1)
    for text in ("back()", ""):
        recorder.step([np.array([4, 0])], np.array([0], np.float32), [{"action": text}])
        recorder.show(np.zeros((1, 4, 4, 3), np.uint8), [{}], [])
    assert recorder.pictures() == ["action back(), reward 0.00", "action [4 0], reward 0.00"]


def test_long_line_of_a_video_is_drawn_smaller():
    """It ends before the right border; a line that fits has its full height."""
    frame = np.zeros((2, video.WIDTH, 3), np.uint8)
    texts = ("Is there a spider in this image? " * 3, "Is there a spider in this image?")
    long, short = (video.picture(frame, [text])[2:].any(axis=2) for text in texts)
    assert video.WIDTH / 2 < np.flatnonzero(long.any(axis=0)).max() < video.WIDTH - 4
    assert long.any(axis=1).sum() < short.any(axis=1).sum()


PICTURES = [np.full((32, 48, 3), shade, np.uint8) for shade in (0, 128, 255)]


@pytest.mark.pictures
def test_video_on_disk(tmp_path):
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


@pytest.mark.parametrize("has_chance", [True, False])
def test_curves_show_the_level_of_the_random_policy(has_chance):
    rows = [{"step": str(64 * n), "return": "1", "success": "0.5", "episodes": str(9 * n)} for n in (1, 2, 3)]
    panels = curves(rows, {"return": -0.25, "success": 0.125} if has_chance else {}).axes
    for panel, level in zip(panels, (-0.25, 0.125), strict=True):
        random = [line for line in panel.lines if line.get_label().startswith("random")]
        assert [set(line.get_ydata()) for line in random] == ([{level}] if has_chance else [])
        assert len(panel.get_legend().get_texts()) == 2 + has_chance


@pytest.mark.parametrize(
    ("metrics", "losses", "shares"),
    [
        (("train/loss", "train/accuracy"), ["loss"], ["agreement with the expert's actions"]),
        (("train/loss", "train/kept"), ["loss"], ["kept trajectories"]),
        (("train/value_loss", "train/policy_loss", "train/weight"), ["value_loss", "policy_loss"], []),
    ],
)
def test_curves_of_recorded_data_show_what_the_algorithm_logs(metrics, losses, shares):
    rows = [{"step": str(10 * n), **dict.fromkeys(metrics, str(n / 4))} for n in (1, 2, 3)]
    rows.insert(1, {"step": "15", **dict.fromkeys(metrics, "")})  # a row of other metrics
    left, right = curves(rows, {}).axes
    assert [line.get_label() for line in left.lines] == losses and [line.get_label() for line in right.lines] == shares
    for line in (*left.lines, *right.lines):
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 20, 30], [0.25, 0.5, 0.75])


def test_run_without_its_facts_is_not_resumed(tmp_path):
    run = Run.create(CONFIG, tmp_path)
    content = (run.path / "config.yaml").read_bytes()
    (run.path / "run.json").unlink()
    with pytest.raises(UserError, match=r"has no run\.json, .* copy the whole run folder"):
        Run.reopen(run.path, CONFIG.model_copy(update={"steps": 2}))
    assert (run.path / "config.yaml").read_bytes() == content


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, "steps, evaluation, played"),
        ({"steps": 5, "evaluation": {}}, "played"),
        ({"steps": "5", "evaluation": 3, "played": {}}, "steps, evaluation"),
    ],
)
def test_results_without_their_values_are_refused(tmp_path, values, wrong):
    """Such a file has no digest: pr2l has not written it."""
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"results\.json is damaged: it has no valid {wrong}\. `pr2l evaluate"):
        Run(tmp_path, CONFIG).results()
