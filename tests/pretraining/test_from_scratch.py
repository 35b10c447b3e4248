"""Training of a very small VLM on frames with coloured squares: it learns, and resumes after interruptions."""

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


def coloured_squares(count: int, seed: int) -> LabelledFrames:
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
    defaults = {"warmup_steps": 20, "language_steps": 20, "batch_frames": 16, "bfloat16": False}
    return TrainingOptions(**defaults | changes)


def train_in(folder, options: TrainingOptions, on_step=lambda *_: None) -> ScratchModel:
    folder.mkdir(exist_ok=True)
    scratch = new_model(SMALL, NAMES, folder / "model", seed=0)
    train(scratch, [coloured_squares(400, seed=1)], options, folder, on_step)
    return scratch


def test_training_learns_presence_and_names(tmp_path):
    mix = QuestionMix(presence=1, direction=0, distance=0, count=0)
    scratch = train_in(tmp_path, options(warmup_steps=60, language_steps=120, language_learning_rate=4e-3, mix=mix))
    scratch.model.eval()
    scores = evaluate_answers(scratch.vlm, coloured_squares(40, seed=2))["questions"]
    assert scores["presence"]["accuracy"] > 0.9  # chance level: 0.5
    assert scores["seen"]["accuracy"] > 0.8  # chance level: 0.33


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> ScratchModel:
    """Train without interruption; tests only compare the weights."""
    return train_in(tmp_path_factory.mktemp("uninterrupted"), options())


def test_resume_after_interrupt_equals_uninterrupted_training(tmp_path, uninterrupted):
    def interrupt(stage, step, metrics):
        if stage.name == "language" and step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "interrupted", options(), interrupt)
    steps = []
    resumed = train_in(tmp_path / "interrupted", options(), lambda stage, step, _: steps.append((stage.name, step)))
    assert steps == [("language", step) for step in range(8, 21)]
    assert_equal_weights(resumed, uninterrupted)


def assert_equal_weights(first: ScratchModel, second: ScratchModel) -> None:
    weights, expected = first.model.state_dict(), second.model.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


@pytest.mark.parametrize("moment", ["before", "halfway", "after"])
def test_interrupt_during_the_optimizer_step_is_not_saved(tmp_path, monkeypatch, uninterrupted, moment):
    """KeyboardInterrupt before, during and after the 13th step of the optimizer."""
    monkeypatch.setattr(stages, "CHECKPOINT_EVERY", 5)
    step, calls = torch.optim.AdamW.step, []

    def interrupted_step(optimizer, *args):
        calls.append(1)
        if len(calls) < 13:
            return step(optimizer, *args)
        if moment == "after":
            step(optimizer, *args)
        if moment == "halfway":
            for parameter in optimizer.param_groups[0]["params"][::2]:
                parameter.data.add_(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", interrupted_step)
        train_in(tmp_path / "interrupted", options())
    steps = []
    resumed = train_in(tmp_path / "interrupted", options(), lambda stage, step, _: steps.append((stage.name, step)))
    assert steps[0] == ("warm-up", 11)
    assert_equal_weights(resumed, uninterrupted)


def test_sigint_saves_after_the_current_step(tmp_path, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def step_with_signal(optimizer, *args):
        calls.append(1)
        if len(calls) == 13:
            signal.raise_signal(signal.SIGINT)
        return step(optimizer, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", step_with_signal)
        train_in(tmp_path, options())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000013"]


def test_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(UserError, match="--output"):
        train_in(tmp_path, options())


def test_start_copies_weights_and_embeddings_of_shared_words(tmp_path):
    first = new_model(SMALL, ("blue", "red", "zinc"), tmp_path / "first", seed=0).vlm
    second = new_model(SMALL, NAMES, tmp_path / "second", seed=1, rooms=("hall",), start=str(tmp_path / "first")).vlm
    weights, expected = (vlm.model.state_dict() for vlm in (second, first))
    tower = "model.vision_tower.convs.0.conv.weight"
    assert torch.equal(weights[tower], expected[tower])
    embeddings = [vlm.model.get_input_embeddings().weight[vlm.tokenizer.get_vocab()["red"]] for vlm in (second, first)]
    assert torch.equal(*embeddings) and first.tokenizer.get_vocab()["red"] != second.tokenizer.get_vocab()["red"]
    wide = SMALL.model_copy(update={"width": 64})
    with pytest.raises(UserError, match="another architecture: it has no weight .* of shape"):
        new_model(wide, NAMES, tmp_path / "third", seed=0, start=str(tmp_path / "first"))


def test_questions_about_rooms_need_a_scene():
    scene = {"room": "hall", "kept": {"red": True}}
    without_scene, with_scene = (View.of([], 160, 120, scene) for scene in ({}, scene))
    kinds = [
        {question.kind for question in draw_questions(view, NAMES, 80, np.random.default_rng(0))}
        for view in (without_scene, with_scene)
    ]
    assert kinds[1] - kinds[0] == {"room", "found"}


def test_mirrored_flips_frame_and_boxes():
    frame = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    labels = [{"name": "red", "box": (0, 0, 1, 2), "distance": 1.0}]
    flipped, flipped_labels = mirrored(frame, labels)
    assert flipped_labels[0]["box"] == (3, 0, 4, 2)
    np.testing.assert_array_equal(flipped[:, 3], frame[:, 0])
    restored, restored_labels = mirrored(flipped, flipped_labels)
    np.testing.assert_array_equal(restored, frame)
    assert restored_labels == labels


def test_no_questions_about_objects_that_are_too_small():
    tiny_label = {"name": "red", "box": (0, 0, 1, 1), "distance": 1.0}
    view = View.of([tiny_label], 160, 120)
    questions = draw_questions(view, NAMES, 50, np.random.default_rng(0))
    assert questions and {question.target for question in questions} == {"blue"}


def test_learning_rate_warms_up_and_decays_to_zero():
    stage = Stage("any", 100, 1.0)
    rates = [stage.rate_at(step) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.001


def test_question_mix_sets_the_kinds_of_questions():
    labels = [{"name": "red", "box": (x, 0, x + 30, 30), "distance": 1.0} for x in (0, 60)]
    view, rng = View.of(labels, 160, 120), np.random.default_rng(0)

    def kinds(**mix):
        return {
            (question.kind, question.target) for question in draw_questions(view, NAMES, 60, rng, QuestionMix(**mix))
        }

    assert kinds(whole=1.0) == {("seen", ""), ("left", "")}
    assert kinds(whole=0.0, repeats=1.0) == {("count", "red")}
    distance_only = {"whole": 0.0, "repeats": 0.0, "absent": 0.0, "presence": 0.0, "direction": 0.0, "count": 0.0}
    assert kinds(**distance_only) == {("distance", "red")}
    assert kinds(**distance_only | {"absent": 1.0}) == {("distance", "blue")}
