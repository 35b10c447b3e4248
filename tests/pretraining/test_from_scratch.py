"""Training of a very small VLM in a world of coloured squares, to the end and with interruptions."""

import signal

import numpy as np
import pytest
import torch

from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import View
from pr2l.pretraining import stages
from pr2l.pretraining.architecture import Architecture
from pr2l.pretraining.evaluation import evaluate_answers
from pr2l.pretraining.examples import QuestionMix, draw_questions, mirrored
from pr2l.pretraining.from_scratch import ScratchModel, TrainingOptions, new_model, train
from pr2l.pretraining.stages import Stage

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


def options(**changes) -> TrainingOptions:
    few = {"warmup_steps": 20, "language_steps": 20, "batch_frames": 16, "bfloat16": False}
    return TrainingOptions(**few | changes)


def trained(folder, options: TrainingOptions, on_step=lambda *_: None) -> ScratchModel:
    folder.mkdir(exist_ok=True)
    scratch = new_model(SMALL, NAMES, folder / "model", seed=0)
    train(scratch, [world(400, seed=1)], options, folder, on_step)
    return scratch


def test_it_learns_what_is_there(tmp_path):
    scratch = trained(tmp_path, options(warmup_steps=100, language_steps=400, language_learning_rate=3e-3))
    scratch.model.eval()
    score = evaluate_answers(scratch.vlm, world(40, seed=2))["questions"]
    assert score["presence"]["accuracy"] > 0.9  # 0.5 without looking
    assert score["seen"]["accuracy"] > 0.8  # 0.33 without looking


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> ScratchModel:
    """Of a training that was never interrupted."""
    return trained(tmp_path_factory.mktemp("whole"), options())


def test_an_interrupted_training_resumes_bit_for_bit(tmp_path, whole):

    def cut(stage, step, metrics):
        if stage.name == "language" and step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", options(), cut)
    resumed = []
    second = trained(tmp_path / "cut", options(), lambda stage, step, _: resumed.append((stage.name, step)))
    assert resumed == [("language", step) for step in range(8, 21)]
    assert_equal_weights(second, whole)


def assert_equal_weights(one: ScratchModel, other: ScratchModel) -> None:
    theirs = other.model.state_dict()
    assert [name for name, tensor in one.model.state_dict().items() if not torch.equal(tensor, theirs[name])] == []


@pytest.mark.parametrize("place", ["before", "half", "after"])
def test_an_interrupt_inside_the_optimizers_step_saves_no_half_updated_weights(tmp_path, monkeypatch, whole, place):
    """KeyboardInterrupt before, in the midst of, and after the optimizer's work in step 13 of the training."""
    monkeypatch.setattr(stages, "CHECKPOINT_EVERY", 5)
    step, calls = torch.optim.AdamW.step, []

    def interrupted(optimizer, *args):
        calls.append(place)
        if len(calls) < 13:
            return step(optimizer, *args)
        if place == "after":
            step(optimizer, *args)
        if place == "half":
            for parameter in optimizer.param_groups[0]["params"][::2]:
                parameter.data.add_(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        trained(tmp_path / "cut", options())
    resumed = []
    second = trained(tmp_path / "cut", options(), lambda stage, step, _: resumed.append((stage.name, step)))
    assert resumed[0] == ("warm-up", 11)
    assert_equal_weights(second, whole)


def test_ctrl_c_waits_for_the_step_under_way(tmp_path, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def signalled(optimizer, *args):
        calls.append(1)
        if len(calls) == 13:
            signal.raise_signal(signal.SIGINT)
        return step(optimizer, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", signalled)
        trained(tmp_path, options())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000013"]


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(UserError, match="earlier version.*--output"):
        trained(tmp_path, options())


def test_it_starts_from_the_weights_and_words_of_another(tmp_path):
    first = new_model(SMALL, ("blue", "red", "zinc"), tmp_path / "first", seed=0).vlm
    second = new_model(SMALL, NAMES, tmp_path / "second", seed=1, rooms=("hall",), start=str(tmp_path / "first")).vlm
    ours, theirs = (vlm.model.state_dict() for vlm in (second, first))
    tower = "model.vision_tower.convs.0.conv.weight"
    assert torch.equal(ours[tower], theirs[tower])
    embedded = [vlm.model.get_input_embeddings().weight[vlm.tokenizer.get_vocab()["red"]] for vlm in (second, first)]
    assert torch.equal(*embedded) and first.tokenizer.get_vocab()["red"] != second.tokenizer.get_vocab()["red"]
    wide = SMALL.model_copy(update={"width": 64})
    with pytest.raises(UserError, match="has another architecture: no .* of the shape"):
        new_model(wide, NAMES, tmp_path / "third", seed=0, start=str(tmp_path / "first"))


def test_a_room_is_asked_about_where_it_is_known():
    scene = {"room": "hall", "kept": {"red": True}}
    plain, known = (View.of([], 160, 120, scene) for scene in ({}, scene))
    kinds = [{one.kind for one in draw_questions(view, NAMES, 80, np.random.default_rng(0))} for view in (plain, known)]
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
    asked = draw_questions(view, NAMES, 50, np.random.default_rng(0))
    assert asked and {question.target for question in asked} == {"blue"}


def test_the_learning_rate_rises_and_then_falls_to_zero():
    stage = Stage("any", 100, 1.0)
    rates = [stage.rate_at(step) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.001


def test_the_mix_decides_what_is_asked():
    things = [{"name": "red", "box": (x, 0, x + 30, 30), "distance": 1.0} for x in (0, 60)]
    view, rng = View.of(things, 160, 120), np.random.default_rng(0)

    def kinds(**mix):
        return {(one.kind, one.target) for one in draw_questions(view, NAMES, 60, rng, QuestionMix(**mix))}

    assert kinds(whole=1.0) == {("seen", ""), ("left", "")}
    assert kinds(whole=0.0, repeats=1.0) == {("count", "red")}
    only = {"whole": 0.0, "repeats": 0.0, "absent": 0.0, "presence": 0.0, "direction": 0.0, "count": 0.0}
    assert kinds(**only) == {("distance", "red")}
    assert kinds(**only | {"absent": 1.0}) == {("distance", "blue")}
