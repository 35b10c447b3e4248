"""Teaching a very small VLM: one picture world whose answers it must learn, and a run that is cut and goes on."""

import numpy as np
import pytest
import torch

from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import View
from pr2l.pretraining import from_scratch as student
from pr2l.pretraining.architecture import Architecture
from pr2l.pretraining.evaluation import examine
from pr2l.pretraining.from_scratch import Lessons, new_student, train
from pr2l.pretraining.shared import Mix, mirrored, pick_questions

SMALL = Architecture(
    image_size=32, patch=8, tower_widths=(32,), tower_depths=(1,), width=32, encoder_layers=1, decoder_layers=1, heads=2
)
NAMES = ("blue", "red")
COLOUR = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def world(count: int, seed: int) -> LabelledFrames:
    """Black 32 x 32 frames with one red or blue square of 8 pixels, or nothing."""
    rng = np.random.default_rng(seed)
    frames, labels = np.zeros((count, 32, 32, 3), np.uint8), []
    for frame in frames:
        name = rng.choice([*NAMES, ""])
        x, y = (int(corner) for corner in rng.integers(0, 24, size=2))
        labels.append([{"name": name, "box": (x, y, x + 8, y + 8), "distance": 100.0}] if name else [])
        if name:
            frame[y : y + 8, x : x + 8] = COLOUR[name]
    return LabelledFrames(frames, labels, NAMES)


def lessons(**changes) -> Lessons:
    return Lessons(**{"warmup_steps": 20, "language_steps": 20, "batch_frames": 16, "bfloat16": False} | changes)


def taught(folder, *, steps: Lessons, report=lambda *_: None) -> student.Student:
    folder.mkdir(exist_ok=True)
    pupil = new_student(SMALL, NAMES, folder / "model", seed=0)
    train(pupil, [world(400, seed=1)], steps, folder, report)
    return pupil


def test_it_learns_what_is_there(tmp_path):
    pupil = taught(tmp_path, steps=lessons(warmup_steps=100, language_steps=400, language_rate=3e-3))
    pupil.model.eval()
    score = examine(pupil.vlm, world(40, seed=2))["questions"]
    assert score["presence"]["accuracy"] > 0.9  # 0.5 without looking
    assert score["seen"]["accuracy"] > 0.8  # 0.33 without looking


def test_a_cut_run_goes_on_bit_for_bit(tmp_path):
    whole = taught(tmp_path / "whole", steps=lessons())

    def cut(stage, step, metrics):
        if stage.name == "language" and step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path / "cut", steps=lessons(), report=cut)
    resumed = []
    second = taught(tmp_path / "cut", steps=lessons(), report=lambda stage, step, _: resumed.append((stage.name, step)))
    assert resumed == [("language", step) for step in range(8, 21)]
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_it_begins_with_another_ones_weights_and_words(tmp_path):
    first = new_student(SMALL, ("blue", "red", "zinc"), tmp_path / "first", seed=0).vlm
    second = new_student(SMALL, NAMES, tmp_path / "second", seed=1, rooms=("hall",), start=str(tmp_path / "first")).vlm
    ours, theirs = (vlm.model.state_dict() for vlm in (second, first))
    tower = "model.vision_tower.convs.0.conv.weight"
    assert torch.equal(ours[tower], theirs[tower])
    embedded = [vlm.model.get_input_embeddings().weight[vlm.tokenizer.get_vocab()["red"]] for vlm in (second, first)]
    assert torch.equal(*embedded) and first.tokenizer.get_vocab()["red"] != second.tokenizer.get_vocab()["red"]
    wide = SMALL.model_copy(update={"width": 64})
    with pytest.raises(UserError, match="has another architecture: no .* of the shape"):
        new_student(wide, NAMES, tmp_path / "third", seed=0, start=str(tmp_path / "first"))


def test_a_room_is_asked_about_where_it_is_known():
    scene = {"room": "hall", "kept": {"red": True}}
    plain, known = (View.of([], 160, 120, scene) for scene in ({}, scene))
    kinds = [{one.kind for one in pick_questions(view, NAMES, 80, np.random.default_rng(0))} for view in (plain, known)]
    assert kinds[1] - kinds[0] == {"room", "found"}


def test_a_mirror_turns_left_into_right():
    frame = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    labels = [{"name": "red", "box": (0, 0, 1, 2), "distance": 1.0}]
    there, there_labels = mirrored(frame, labels)
    assert there_labels[0]["box"] == (3, 0, 4, 2)
    np.testing.assert_array_equal(there[:, 3], frame[:, 0])
    back, back_labels = mirrored(there, there_labels)
    np.testing.assert_array_equal(back, frame)
    assert back_labels == labels


def test_questions_avoid_what_is_too_small():
    speck = {"name": "red", "box": (0, 0, 1, 1), "distance": 1.0}
    view = View.of([speck], 160, 120)
    asked = pick_questions(view, NAMES, 50, np.random.default_rng(0))
    assert asked and {question.target for question in asked} == {"blue"}


def test_the_rate_rises_then_falls_to_nothing():
    stage = student.Stage("any", 100, 1.0, student.cells_loss)
    rates = [stage.rate_at(step) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.001


def test_the_mix_says_what_is_asked():
    things = [{"name": "red", "box": (x, 0, x + 30, 30), "distance": 1.0} for x in (0, 60)]
    view, rng = View.of(things, 160, 120), np.random.default_rng(0)

    def kinds(**mix):
        return {(one.kind, one.target) for one in pick_questions(view, NAMES, 60, rng, Mix(**mix))}

    assert kinds(whole=1.0) == {("seen", ""), ("left", "")}
    assert kinds(whole=0.0, repeats=1.0) == {("count", "red")}
    only = {"whole": 0.0, "repeats": 0.0, "absent": 0.0, "presence": 0.0, "direction": 0.0, "count": 0.0}
    assert kinds(**only) == {("distance", "red")}
    assert kinds(**only | {"absent": 1.0}) == {("distance", "blue")}
