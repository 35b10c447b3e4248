"""A VLM under training from scratch: its lessons, its losses, its checkpoints.

    warm-up: the vision tower learns which names each cell of the frame shows
    language: the whole model learns to answer questions, the tower's lesson kept on the side

Every step draws its batch from its own number, so a run that was killed goes on exactly where its last checkpoint was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pr2l import questions, scratch
from pr2l.labelled import LabelledFrames, cells
from pr2l.questions import Question, View
from pr2l.types import Frames, Labels
from pr2l.vlms._base import VLM
from pr2l.vlms._loading import load_vlm

CHECKPOINT_EVERY = 100  # steps
ABSENT = -100  # a target that the loss passes over, as in transformers


class Lessons(BaseModel):
    """How long, how fast and on what batches the student learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_steps: PositiveInt  # of the tower alone
    language_steps: PositiveInt  # of everything
    warmup_rate: PositiveFloat = 2e-3  # peak learning rate
    language_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.02
    batch_frames: PositiveInt = 64
    questions_per_frame: PositiveInt = 4  # they share the frame's pass through the tower
    cells_weight: NonNegativeFloat = 0.02  # of the tower's lesson in the language stage
    bfloat16: bool = True  # mixed precision; pays on CPUs with AVX512-BF16 or AMX and on GPUs
    seed: int = 0


@dataclass
class Student:
    """The model under training, and a linear read-out that is thrown away: which names each cell of the tower shows."""

    vlm: VLM
    read_out: nn.Linear
    names: tuple[str, ...]
    grid: int

    @property
    def model(self) -> Any:
        return self.vlm.model

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.read_out.parameters()]


@dataclass(frozen=True)
class Batch:
    frames: Frames  # uint8 [B, H, W, 3]
    labels: list[Labels]
    rng: np.random.Generator

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.frames.shape[1], self.frames.shape[2]


Loss = Callable[[Student, Batch], tuple[Tensor, dict[str, float]]]


# Losses.


def cells_loss(student: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the names that each cell shows, summed over cells and names, averaged over frames."""
    return _cells_loss(student, batch, _tower(student, batch))


def _cells_loss(student: Student, batch: Batch, tower: Tensor) -> tuple[Tensor, dict[str, float]]:
    logits = student.read_out(tower.permute(0, 2, 3, 1)).float()  # [B, grid, grid, names]
    shown = torch.from_numpy(cells(batch.labels, student.names, batch.size, student.grid)).to(logits)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, shown.permute(0, 2, 3, 1), reduction="sum")
    loss = loss / len(batch.frames)
    return loss, {"cells_loss": loss.item()}


def language_loss(
    student: Student, batch: Batch, per_frame: int, cells_weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers' tokens, plus the tower's lesson; one pass through the tower for all questions."""
    model, tower = student.model, _tower(student, batch)
    asked = [pick_questions(view, student.names, per_frame, batch.rng) for view in _views(batch)]
    flat = [question for frame_questions in asked for question in frame_questions]
    row = torch.tensor([index for index, frame_questions in enumerate(asked) for _ in frame_questions])
    ids, mask = _padded([student.vlm.layout(question.text) for question in flat], model.config.pad_token_id)
    answers, real = _padded([_answer_ids(student.vlm, question) for question in flat], ABSENT)
    embedded = model.get_input_embeddings()(ids)
    pictures = model.model.multi_modal_projector(tower)[row].to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], pictures)
    logits = model(inputs_embeds=embedded, attention_mask=mask, labels=answers).logits.float()
    language = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=ABSENT)
    right = ((logits.argmax(-1) == answers) | (real == 0)).all(1).float().mean().item()
    dense, parts = _cells_loss(student, batch, tower)
    return language + cells_weight * dense, parts | {"language_loss": language.item(), "right": right}


def _tower(student: Student, batch: Batch) -> Tensor:
    """[B, C, grid, grid]: the last stage of the vision tower."""
    states: Tensor = student.model.model.vision_tower(student.vlm.squares(batch.frames)).last_hidden_state
    return states


def _answer_ids(vlm: VLM, question: Question) -> list[int]:
    return [*vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """int64 ids [B, T] padded on the right with `fill`, and 1 where they are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


# What is asked.


def pick_questions(view: View, names: Sequence[str], count: int, rng: np.random.Generator) -> list[Question]:
    """Up to `count` questions: a quarter about the whole frame, two thirds of the rest about things that are there.

    Direction is learned last (late and suddenly), so it is asked most.
    """
    weights = {"presence": 0.15, "direction": 0.45, "distance": 0.2, "count": 0.2}
    whole = questions.overall(view)
    seen = sorted({label["name"] for label in view.things} - view.unclear)
    absent = [name for name in names if name not in seen and name not in view.unclear]
    picked = []
    for _ in range(count):
        if whole and rng.random() < 0.25:
            picked.append(whole[rng.integers(len(whole))])
            continue
        pool = seen if seen and (rng.random() < 0.65 or not absent) else absent
        if pool:
            options = questions.about(view, pool[rng.integers(len(pool))])
            picked.append(options[rng.choice(len(options), p=[weights[option.kind] for option in options])])
    return picked


def _views(batch: Batch) -> list[View]:
    height, width = batch.size
    return [View.of(labels, width, height) for labels in batch.labels]


def draw(sets: Sequence[LabelledFrames], size: int, rng: np.random.Generator) -> Batch:
    """Random frames of all sets, half of them mirrored: then left is right, and every sprite counts twice."""
    lengths = np.array([len(part) for part in sets])
    chosen = rng.choice(len(sets), size=size, p=lengths / lengths.sum())
    frames, labels = [], []
    for part in chosen:
        row = int(rng.integers(lengths[part]))
        frame, frame_labels = sets[part].frames[row], sets[part].labels[row]
        if rng.random() < 0.5:
            frame, frame_labels = mirrored(frame, frame_labels)
        frames.append(frame)
        labels.append(frame_labels)
    return Batch(np.stack(frames), labels, rng)


def mirrored(frame: Frames, labels: Labels) -> tuple[Frames, Labels]:
    """The frame [H, W, 3] seen in a mirror, and its labels' boxes with it."""
    width = frame.shape[1]
    boxes = [(width - x1, y0, width - x0, y1) for x0, y0, x1, y1 in (label["box"] for label in labels)]
    return frame[:, ::-1], [{**label, "box": box} for label, box in zip(labels, boxes, strict=True)]


# Stages.


@dataclass(frozen=True)
class Stage:
    """Some steps with one loss; the learning rate rises for a tenth of them, then falls along a cosine to zero."""

    name: str
    steps: int
    rate: float
    loss: Loss

    def rate_at(self, step: int) -> float:
        rise = max(1, self.steps // 10)
        if step < rise:
            return self.rate * (step + 1) / rise
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, self.steps - rise)))


def stages(lessons: Lessons) -> tuple[Stage, Stage]:
    def language(student: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return language_loss(student, batch, lessons.questions_per_frame, lessons.cells_weight)

    return (
        Stage("warm-up", lessons.warmup_steps, lessons.warmup_rate, cells_loss),
        Stage("language", lessons.language_steps, lessons.language_rate, language),
    )


Report = Callable[[Stage, int, dict[str, float]], None]  # (stage, steps done, metrics)


def train(
    student: Student, sets: Sequence[LabelledFrames], lessons: Lessons, folder: Path, report: Report
) -> None:
    """Run both stages, from the last checkpoint in `folder` if there is one; Ctrl-C saves one more and passes on."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=lessons.warmup_rate, weight_decay=lessons.weight_decay)
    at_stage, at_step = _restore(student, optimizer, folder)
    for number, stage in enumerate(stages(lessons)):
        first = at_step if number == at_stage else 0 if number > at_stage else stage.steps
        done = first
        try:
            for step in range(first, stage.steps):
                metrics = _one_step(student, optimizer, stage, step, lessons, sets, (lessons.seed, number, step))
                done = step + 1
                report(stage, done, metrics)
                if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
                    _save(student, optimizer, folder, number, done)
        except KeyboardInterrupt:
            _save(student, optimizer, folder, number, done)
            raise


def _one_step(
    student: Student,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    step: int,
    lessons: Lessons,
    sets: Sequence[LabelledFrames],
    seed: tuple[int, int, int],
) -> dict[str, float]:
    batch = draw(sets, lessons.batch_frames, np.random.default_rng(seed))
    with torch.autocast(student.model.device.type, torch.bfloat16, enabled=lessons.bfloat16):
        loss, metrics = stage.loss(student, batch)
    for group in optimizer.param_groups:
        group["lr"] = stage.rate_at(step)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return metrics


# Checkpoints: safetensors and JSON.


def _save(student: Student, optimizer: torch.optim.Optimizer, folder: Path, stage: int, step: int) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in student.model.state_dict().items()}
    tensors |= {f"read_out/{name}": tensor for name, tensor in student.read_out.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": entry for name, entry in entries.items()}
    unfinished = folder / "checkpoint.part"
    # Copies: tied weights share memory, which safetensors refuses.
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
        unfinished,
        metadata={"at": json.dumps([stage, step])},
    )
    os.replace(unfinished, folder / "checkpoint.safetensors")


def _restore(student: Student, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, int]:
    """(stage, steps done in it); (0, 0) without a checkpoint."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0
    tensors = load_file(path)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, entry = name.split("/")
            state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for part, module in (("model", student.model), ("read_out", student.read_out)):
        start = f"{part}/"
        module.load_state_dict({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)})
    with safe_open(path, framework="pt") as opened:
        stage, step = json.loads(opened.metadata()["at"])
    return stage, step


def new_student(architecture: scratch.Architecture, names: Sequence[str], folder: Path, seed: int) -> Student:
    """A student with random weights, as the checkpoint in `folder` that this writes."""
    scratch.build(architecture, questions.vocabulary(names), folder, seed)
    vlm = load_vlm(str(folder))
    vlm.model.train()
    # torch's fused attention is twice as slow as the plain one in a backward pass on a CPU.
    vlm.model.set_attn_implementation("eager")
    read_out = nn.Linear(architecture.tower_widths[-1], len(names)).to(vlm.model.device)
    nn.init.constant_(read_out.bias, -3.5)  # a cell shows a given name about 2 % of the time
    return Student(vlm, read_out, tuple(names), architecture.grid)
