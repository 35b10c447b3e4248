"""Fine-tuning of each family's small random-weight checkpoint, compared with unmodified models and peft."""

import builtins
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from small_vlms import CASE, CASES, all_cases, folder, unmodified
from small_vlms import load as load_shared
from tiny_parts import Case, frames

from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json
from pr2l.core.lock import locked
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

# Prompts and answers have different lengths, so that rows are padded.
QUESTIONS = [
    Question("direction", "medikit", "where is the medikit ?", "far left"),
    Question("presence", "demon", "is it near ?", "no"),
    Question("seen", "", "what do you see ?", "a wall and a clip and a stimpack"),
]
TRAINED = ("llava", "paligemma1", "instructblip-vicuna", "instructblip-t5", "florence2", "qwen2_5_vl", "prismatic")

trained_cases = pytest.mark.parametrize("case", [CASE[name] for name in TRAINED], ids=lambda case: case.name)


def config(case: Case, **changes) -> FinetuneConfig:
    options = {"image_size": case.image_size, "device": "cpu"}
    source = {"environment": "doom", "tasks": ["fetch"], "frames": 1}  # not used: the tests make their frames
    defaults = {"why": "test", "vlm": str(folder(case)), "vlm_options": options, "train": [source], "test": [source]}
    return FinetuneConfig(**{**defaults, "steps": 6, "batch_size": 4, **changes})


def examples(case: Case) -> list[finetune.Example]:
    return list(zip(frames(len(QUESTIONS), case.size, case.size), QUESTIONS, strict=True))


def reference(case: Case, frame: np.ndarray, question: Question) -> tuple[float, int]:
    """Return the unmodified model's own loss, a mean over the tokens of the answer, and their number."""
    tokenizer = load(case).tokenizer
    inputs = case.inputs(folder(case), frame, question.text, "image_first")
    ids = [*tokenizer(question.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    answer, count = torch.tensor([ids]), len(ids)
    if case.encoder_decoder:
        return unmodified(case)(**inputs, labels=answer).loss.item(), count
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
    added = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
    added |= dict.fromkeys(("token_type_ids", "mm_token_type_ids"), torch.full_like(answer, case.answer_types))
    inputs |= {key: torch.cat([inputs[key], more], dim=1) for key, more in added.items() if key in inputs}
    return unmodified(case)(**inputs, labels=labels).loss.item(), count


def load(case: Case):
    return load_shared(case, device="cpu")


@torch.no_grad()
def loss(vlm, examples) -> float:
    return answer_loss(vlm, examples)[0].item()


def learn(trained: TrainedVLM, examples, steps: int = 12, rate: float = 0.03) -> list[float]:
    """Train on the same batch in each step; return the losses."""
    optimizer = torch.optim.Adam(trained.trained_parameters().values(), lr=rate)
    losses = []
    for _ in range(steps):
        value, _ = answer_loss(trained.vlm, examples)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def answers(vlm, case: Case) -> list[str]:
    return vlm.answer(frames(len(QUESTIONS), case.size, case.size), [question.text for question in QUESTIONS], 6)


def weights(path: Path, case: Case) -> dict[str, torch.Tensor]:
    return dict(load_vlm(str(path), Defaults(image_size=case.image_size)).model.named_parameters())


@all_cases
@torch.no_grad()
def test_loss_equals_the_unmodified_model(case):
    """The unmodified model reads row by row, without padding; the loss of a batch is the mean over its tokens."""
    losses = [reference(case, frame, question) for frame, question in examples(case)]
    expected = sum(value * count for value, count in losses) / sum(count for _, count in losses)
    assert loss(load(case), examples(case)) == pytest.approx(expected, abs=1e-5)


@trained_cases
def test_logits_do_not_depend_on_padding(case):
    short = examples(case)[1:2]
    vlm = load(case)
    single, batched = (
        vlm.training_inputs(
            np.stack([frame for frame, _ in rows]), [q.text for _, q in rows], [q.answer for _, q in rows]
        )
        for rows in (short, [*short, examples(case)[2]])
    )
    with torch.no_grad():
        first, second = (vlm.model(**inputs).logits[0][targets[0] != -100] for inputs, targets in (single, batched))
    assert len(first) == len(ids := single[1][0][single[1][0] != -100]) and len(ids) >= 2
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)
    assert torch.equal(ids, batched[1][0][batched[1][0] != -100])


@trained_cases
def test_lora_trains_the_adapter_only_and_merges(case, tmp_path):
    settings = config(case, method="lora", lora={"r": 4, "alpha": 8})
    trained = load_for_training(settings)
    losses = learn(trained, examples(case))
    assert losses[0] == pytest.approx(loss(load(case), examples(case)), abs=1e-5)  # a new adapter has no effect
    assert losses[-1] < 0.95 * losses[0]
    frozen = {
        name.replace("base_layer.", ""): w for name, w in trained.vlm.model.named_parameters() if "lora_" not in name
    }
    before = dict(load(case).model.named_parameters())
    assert frozen.keys() == before.keys() and all(torch.equal(frozen[name], before[name]) for name in before)

    adapted_loss, adapted_answers = loss(trained.vlm, examples(case)), answers(trained.vlm, case)
    export(trained, settings, tmp_path)
    merged = load_vlm(str(tmp_path / "model"), settings.vlm_options)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert loss(merged, examples(case)) == pytest.approx(adapted_loss, abs=1e-4)
    assert answers(merged, case) == adapted_answers

    with_adapter = load_vlm(str(folder(case)), settings.vlm_options)
    PeftModel.from_pretrained(with_adapter.model, tmp_path / "adapter")
    assert loss(with_adapter, examples(case)) == pytest.approx(adapted_loss, abs=1e-5)


@trained_cases
def test_full_finetuning_trains_all_weights_and_exports_a_checkpoint(case, tmp_path):
    settings = config(case, method="full")
    trained = load_for_training(settings)
    losses = learn(trained, examples(case), steps=6, rate=0.02)
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
    json_files = {path.relative_to(folder(case)) for path in folder(case).rglob("*.json")}
    assert json_files == {path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*.json")}


def test_weights_are_saved_in_the_dtype_of_the_checkpoint(tmp_path):
    case = CASE["florence2"]
    half = shutil.copytree(folder(case), tmp_path / "half")
    load_vlm(str(half), Defaults(dtype="float16")).model.save_pretrained(half)
    settings = config(case, method="full", vlm=str(half))
    trained = load_for_training(settings)
    assert {weight.dtype for weight in trained.trained_parameters().values()} == {torch.float32}
    export(trained, settings, tmp_path)
    exported = weights(tmp_path / "model", case)
    assert (tmp_path / "model/model.safetensors").stat().st_size < 1.1 * (half / "model.safetensors").stat().st_size
    assert all(torch.equal(weight, exported[name]) for name, weight in weights(half, case).items())


def labelled_frames(case: Case) -> LabelledFrames:
    label = {"name": "imp", "box": (4, 4, 20, 20), "distance": 100.0}
    return LabelledFrames(frames(8, case.size, case.size), [[label], []] * 4, ("imp", "medikit"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resume_after_interrupt_equals_uninterrupted_training(method, tmp_path):
    case = CASE["llava"]
    settings = config(case, method=method, lora={"r": 2, "dropout": 0.1}, learning_rate=1e-3)

    def train_in(folder, on_step):
        folder.mkdir(exist_ok=True)
        draw = partial(draw_examples, [labelled_frames(case)])
        train(trained := load_for_training(settings), draw, settings, folder, on_step)
        return trained.trained_parameters()

    def interrupt(course, step, metrics):
        if step == 3:
            raise KeyboardInterrupt

    uninterrupted = train_in(tmp_path / "uninterrupted", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path / "interrupted", interrupt)
    steps = []
    resumed = train_in(tmp_path / "interrupted", lambda course, step, metrics: steps.append(step))
    assert steps == [4, 5, 6]
    untrained = load_for_training(settings).trained_parameters()
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    assert any(not torch.equal(untrained[name], uninterrupted[name]) for name in uninterrupted)


def test_frames_without_questions_are_skipped():
    case = CASE["llava"]
    too_small = [{"name": name, "box": (0, 0, 0.1, 0.1), "distance": 1.0} for name in ("imp", "medikit")]
    imp = [{"name": "imp", "box": (4, 4, 20, 20), "distance": 100.0}]
    sets = LabelledFrames(frames(2, case.size, case.size), [too_small, imp], ("imp", "medikit"))
    examples = draw_examples([sets], 20, np.random.default_rng(0))
    assert len(examples) == 20
    clear = sets.frames[1]
    assert all((frame == clear).all() or (frame == clear[:, ::-1]).all() for frame, _ in examples)


def test_unknown_target_module_lists_the_linear_layers():
    case = CASE["llava"]
    with pytest.raises(UserError, match="'q_proj'.*v_proj.*all-linear"):
        load_for_training(config(case, lora={"target_modules": ["q_prj"]}))
    trained = load_for_training(config(case, lora={"target_modules": ["q_proj"]}))
    assert all(".q_proj.lora_" in name for name in trained.trained_parameters())


def test_without_peft_the_error_names_two_solutions(monkeypatch):
    import_module = builtins.__import__

    def import_without_peft(name, *args):
        if name == "peft":
            raise ImportError(name)
        return import_module(name, *args)

    monkeypatch.setattr(builtins, "__import__", import_without_peft)
    with pytest.raises(UserError, match="pip install peft.*method=full"):
        load_for_training(config(CASES[0], method="lora"))


@pytest.mark.parametrize("name", ["pretrain/tiny", "pretrain/finetune"])
def test_two_pretrainings_cannot_write_to_one_folder(name, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(UserError, match=f"{tmp_path / 'run'} is in use by process"):
        pretrain(name, folder=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_training_from_scratch_with_other_settings_is_refused(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pr2l.pretraining.pretrain.load_or_play", interrupt)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain("pretrain/tiny", folder=tmp_path)
    with pytest.raises(UserError, match=r"other settings \(other training\)"):
        pretrain("pretrain/tiny", ["training.batch_frames=8"], folder=tmp_path)


ORACLE = "\n\ndef oracle(task):\n    return None\n"


@pytest.mark.slow
def test_pretrain_finetunes_evaluates_and_refuses_other_settings(write_plugin, tmp_path, capsys):
    case = CASE["llava"]
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
    before, after = map(read_json, files)
    assert before.keys() == after.keys() and len(before) == 1
    first, last = (next(iter(reports.values()))["questions"]["presence"] for reports in (before, after))
    assert first["asked"] == last["asked"] and first["accuracy"] == 0.0 and last["accuracy"] > 0.9
    assert "before" in (output := capsys.readouterr().out) and "after" in output
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6

    # The training is complete, so it is only evaluated again.
    assert (
        pretrain(file, ["threads=2"], folder=tmp_path / "run") == path
        and len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
    )
    with pytest.raises(UserError, match="other learning_rate"):
        pretrain(file, ["rate=0.01"], folder=tmp_path / "run")
    stored = tmp_path / "run" / "settings.json"
    stored.write_text(stored.read_text()[:-9])  # as after a full disk in an earlier version
    with pytest.raises(DamagedFile, match="settings.json is damaged"):
        pretrain(file, folder=tmp_path / "run")
