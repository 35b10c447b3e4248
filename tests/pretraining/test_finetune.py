"""Fine-tuning against the unmodified Hugging Face models and peft, on every family's small random-weight checkpoint."""

import builtins
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_families import CASES, folder, unmodified
from tiny_parts import Case, frames

from pr2l.core.errors import UserError
from pr2l.data.labelled_frames import LabelledFrames
from pr2l.data.questions import Question
from pr2l.pretraining import finetune
from pr2l.pretraining.finetune import (
    FinetuneConfig,
    TrainedVLM,
    answer_loss,
    draw_examples,
    export,
    load_for_training,
    train,
)
from pr2l.pretraining.pretrain import pretrain
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

# Prompts and answers of different lengths, so that rows are padded.
ASKED = [
    Question("direction", "medikit", "where is the medikit ?", "far left"),
    Question("presence", "demon", "is it near ?", "no"),
    Question("seen", "", "what do you see ?", "a wall and a clip and a stimpack"),
]
TRAINED = ("llava", "paligemma1", "instructblip-vicuna", "instructblip-t5", "florence2", "qwen2_5_vl", "prismatic")

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
trained_cases = pytest.mark.parametrize("case", [c for c in CASES if c.name in TRAINED], ids=lambda case: case.name)


def config(case: Case, **changes) -> FinetuneConfig:
    options = {"image_size": case.image_size, "device": "cpu"}
    given = {"why": "test", "vlm": str(folder(case)), "vlm_options": options, "train": (), "test": (), "steps": 6}
    return FinetuneConfig(**{**given, "batch_size": 4, **changes})


def examples(case: Case) -> list[finetune.Example]:
    return list(zip(frames(len(ASKED), case.size, case.size), ASKED, strict=True))


def reference(case: Case, frame: np.ndarray, asked: Question) -> tuple[float, int]:
    """The unmodified model's own loss of one question and answer, and the number of tokens that it is a mean of."""
    vlm = load(case)
    inputs = case.inputs(folder(case), frame, asked.text, "image_first")
    answer = [*vlm.tokenizer(asked.answer, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]
    told, count = torch.tensor([answer]), len(answer)
    if case.encoder_decoder:
        return unmodified(case)(**inputs, labels=told).loss.item(), count
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), told], dim=1)
    behind = {"input_ids": told, "attention_mask": torch.ones_like(told)}
    behind |= dict.fromkeys(("token_type_ids", "mm_token_type_ids"), torch.full_like(told, case.answer_types))
    inputs |= {key: torch.cat([inputs[key], more], dim=1) for key, more in behind.items() if key in inputs}
    return unmodified(case)(**inputs, labels=labels).loss.item(), count


@cache
def load(case: Case):
    return load_vlm(str(folder(case)), Defaults(image_size=case.image_size, device="cpu"))


@torch.no_grad()
def loss(vlm, asked) -> float:
    return answer_loss(vlm, asked)[0].item()


def learn(trained: TrainedVLM, asked, steps: int = 12, rate: float = 0.03) -> list[float]:
    """Train on one batch again and again; the losses."""
    optimizer = torch.optim.Adam(trained.trained_parameters().values(), lr=rate)
    losses = []
    for _ in range(steps):
        value, _ = answer_loss(trained.vlm, asked)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def answers(vlm, case: Case) -> list[str]:
    return vlm.answer(frames(len(ASKED), case.size, case.size), [asked.text for asked in ASKED], 6)


def weights(path: Path, case: Case) -> dict[str, torch.Tensor]:
    return dict(load_vlm(str(path), Defaults(image_size=case.image_size)).model.named_parameters())


@all_cases
@torch.no_grad()
def test_the_loss_is_that_of_the_unmodified_model(case):
    """Row by row, without padding; the mean over the batch is one over tokens."""
    parts = [reference(case, frame, asked) for frame, asked in examples(case)]
    expected = sum(value * count for value, count in parts) / sum(count for _, count in parts)
    assert loss(load(case), examples(case)) == pytest.approx(expected, abs=1e-5)


@trained_cases
def test_padding_of_prompts_and_answers_changes_nothing(case):
    short = examples(case)[1:2]
    vlm = load(case)
    alone, with_longer = (
        vlm.training_inputs(
            np.stack([frame for frame, _ in rows]), [a.text for _, a in rows], [a.answer for _, a in rows]
        )
        for rows in (short, [*short, examples(case)[2]])
    )
    with torch.no_grad():
        first, second = (vlm.model(**inputs).logits[0][targets[0] != -100] for inputs, targets in (alone, with_longer))
    assert len(first) == len(ids := alone[1][0][alone[1][0] != -100]) and len(ids) >= 2
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    assert torch.equal(ids, with_longer[1][0][with_longer[1][0] != -100])


@trained_cases
def test_lora_learns_beside_frozen_weights_and_merges_into_them(case, tmp_path):
    settings = config(case, method="lora", lora={"r": 4, "alpha": 8})
    trained = load_for_training(settings)
    losses = learn(trained, examples(case))
    assert losses[0] == pytest.approx(loss(load(case), examples(case)), abs=1e-5)  # an adapter begins as nothing
    assert losses[-1] < 0.95 * losses[0]
    kept = {
        name.replace("base_layer.", ""): w for name, w in trained.vlm.model.named_parameters() if "lora_" not in name
    }
    before = dict(load(case).model.named_parameters())
    assert kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in before)

    adapted_loss, adapted_answers = loss(trained.vlm, examples(case)), answers(trained.vlm, case)
    export(trained, settings, tmp_path)
    merged = load_vlm(str(tmp_path / "model"), settings.vlm_options)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert loss(merged, examples(case)) == pytest.approx(adapted_loss, abs=1e-4)
    assert answers(merged, case) == adapted_answers

    alone = load_vlm(str(folder(case)), settings.vlm_options)
    PeftModel.from_pretrained(alone.model, tmp_path / "adapter")
    assert loss(alone, examples(case)) == pytest.approx(adapted_loss, abs=1e-5)


@trained_cases
def test_full_fine_tuning_changes_the_weights_and_exports_a_checkpoint(case, tmp_path):
    settings = config(case, method="full")
    trained = load_for_training(settings)
    losses = learn(trained, examples(case), steps=8, rate=0.01)
    assert losses[-1] < 0.95 * losses[0]
    trained_loss, trained_answers = loss(trained.vlm, examples(case)), answers(trained.vlm, case)
    export(trained, settings, tmp_path)
    assert not (tmp_path / "adapter").exists()
    saved = load_vlm(str(tmp_path / "model"), settings.vlm_options)
    assert loss(saved, examples(case)) == pytest.approx(trained_loss, abs=1e-5)
    assert answers(saved, case) == trained_answers
    before, after = dict(load(case).model.named_parameters()), dict(saved.model.named_parameters())
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("vis" in name for name in changed) and any("language" in name for name in changed)
    beside = {path.relative_to(folder(case)) for path in folder(case).rglob("*.json")}
    assert beside == {path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*.json")}


def test_weights_are_saved_in_the_type_of_the_checkpoint(tmp_path):
    case = next(case for case in CASES if case.name == "florence2")
    half = shutil.copytree(folder(case), tmp_path / "half")
    load_vlm(str(half), Defaults(dtype="float16")).model.save_pretrained(half)
    settings = config(case, method="full", vlm=str(half))
    trained = load_for_training(settings)
    assert {weight.dtype for weight in trained.trained_parameters().values()} == {torch.float32}
    export(trained, settings, tmp_path)
    again = weights(tmp_path / "model", case)
    assert (tmp_path / "model/model.safetensors").stat().st_size < 1.1 * (half / "model.safetensors").stat().st_size
    assert all(torch.equal(weight, again[name]) for name, weight in weights(half, case).items())


def world(case: Case) -> LabelledFrames:
    label = {"name": "imp", "box": (4, 4, 20, 20), "distance": 100.0}
    return LabelledFrames(frames(8, case.size, case.size), [[label], []] * 4, ("imp", "medikit"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_interrupted_training_resumes_bit_for_bit(method, tmp_path):
    case = next(case for case in CASES if case.name == "llava")
    settings = config(case, method=method, lora={"r": 2, "dropout": 0.1}, learning_rate=1e-3)

    def training_inputs(place, report):
        place.mkdir(exist_ok=True)
        train(trained := load_for_training(settings), [world(case)], settings, place, report)
        return trained.trained_parameters()

    def cut(course, step, metrics):
        if step == 3:
            raise KeyboardInterrupt

    whole = training_inputs(tmp_path / "whole", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        training_inputs(tmp_path / "cut", cut)
    resumed = []
    second = training_inputs(tmp_path / "cut", lambda course, step, metrics: resumed.append(step))
    assert resumed == [4, 5, 6]
    untrained = load_for_training(settings).trained_parameters()
    assert all(torch.equal(second[name], whole[name]) for name in whole)
    assert any(not torch.equal(untrained[name], whole[name]) for name in whole)


def test_frames_without_a_fair_question_are_passed_over():
    case = next(case for case in CASES if case.name == "llava")
    speck = [{"name": name, "box": (0, 0, 0.1, 0.1), "distance": 1.0} for name in ("imp", "medikit")]
    imp = [{"name": "imp", "box": (4, 4, 20, 20), "distance": 100.0}]
    sets = LabelledFrames(frames(2, case.size, case.size), [speck, imp], ("imp", "medikit"))
    asked = draw_examples([sets], 20, np.random.default_rng(0))
    assert len(asked) == 20
    clear = sets.frames[1]
    assert all((frame == clear).all() or (frame == clear[:, ::-1]).all() for frame, _ in asked)


def test_a_layer_that_is_not_there_is_answered_with_those_that_are(monkeypatch):
    case = next(case for case in CASES if case.name == "llava")
    with pytest.raises(UserError, match=r"Did you mean 'q_proj'\?.*linear layers end in.*v_proj.*all-linear"):
        load_for_training(config(case, lora={"target_modules": ["q_prj"]}))
    only = load_for_training(config(case, lora={"target_modules": ["q_proj"]}))
    assert all(".q_proj.lora_" in name for name in only.trained_parameters())


def test_without_peft_the_way_out_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *more):
        if name == "peft":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install peft.*method=full"):
        load_for_training(config(CASES[0], method="lora"))


ORACLE = "\n\ndef oracle(task):\n    return None\n"


def test_the_command_fine_tunes_evaluates_and_refuses_other_settings(write_plugin, tmp_path, capsys):
    case = next(case for case in CASES if case.name == "llava")
    write_plugin("environments", "toy", (Path(__file__).parents[1] / "toy_world.py").read_text() + ORACLE)
    source = "[{environment: toy, tasks: [colours], frames: 12"
    file = tmp_path / "adapt.yaml"
    file.write_text(
        f"why: a test\nvlm: {folder(case)}\nmethod: full\nsteps: 60\nbatch_size: 8\nlearning_rate: 0.02\nthreads: 1\n"
        f"train: {source}}}]\ntest: {source}, split: evaluation, seed: 1}}]\n"
    )
    path = pretrain(file, folder=tmp_path / "run")
    assert path == tmp_path / "run" / "model"
    files = (tmp_path / "run" / f"{name}.json" for name in ("evaluation_before", "evaluation"))
    before, after = (json.loads(file.read_text()) for file in files)
    assert before.keys() == after.keys() and len(before) == 1
    first, last = (next(iter(reports.values()))["questions"]["presence"] for reports in (before, after))
    assert first["asked"] == last["asked"] and first["accuracy"] == 0.0 and last["accuracy"] > 0.9
    assert "before" in (shown := capsys.readouterr().out) and "after" in shown
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6

    again = pretrain(file, ["threads=2"], folder=tmp_path / "run")  # training is done: it is only evaluated again
    assert again == path and len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
    with pytest.raises(UserError, match=r"another training \(other learning_rate\)"):
        pretrain(file, ["rate=0.01"], folder=tmp_path / "run")
