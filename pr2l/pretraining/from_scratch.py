"""A VLM under training from scratch: its lessons, its losses, its checkpoints.

    warm-up: the vision tower learns which names each cell of the frame shows
    language: the whole model learns to answer questions, the tower's lesson kept on the side

Every step draws its batch from its own number, so a run that was killed goes on exactly where its last checkpoint was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pr2l.core.errors import UserError
from pr2l.data import questions
from pr2l.data.labelled_frames import LabelledFrames, cells
from pr2l.data.questions import Question
from pr2l.pretraining import architecture as scratch
from pr2l.pretraining import shared
from pr2l.pretraining.shared import Batch, Course, Mix, Report, draw, pick_questions
from pr2l.vlms.base import IGNORE_INDEX, VLM
from pr2l.vlms.loading import load_vlm


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
    mix: Mix = Field(default_factory=Mix)  # what they are
    cells_weight: NonNegativeFloat = 0.02  # of the tower's lesson in the language stage
    bfloat16: bool = True  # mixed precision; pays on CPUs with AVX512-BF16 or AMX and on GPUs
    seed: int = 0


@dataclass
class Student:
    """The model under training, and a linear read-out that is thrown away: what each cell of the tower shows."""

    vlm: VLM
    read_out: nn.Linear
    names: tuple[str, ...]
    grid: int

    @property
    def model(self) -> Any:
        return self.vlm.model

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.read_out.parameters()]


Loss = Callable[[Student, Batch], tuple[Tensor, dict[str, float]]]


# Losses.


def cells_loss(student: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of what each cell shows (labelled.cells), summed over cells, averaged over frames."""
    return _cells_loss(student, batch, _tower(student, batch))


def _cells_loss(student: Student, batch: Batch, tower: Tensor) -> tuple[Tensor, dict[str, float]]:
    logits = student.read_out(tower.permute(0, 2, 3, 1)).float()  # [B, grid, grid, K]
    shown = torch.from_numpy(cells(batch.labels, student.names, batch.size, student.grid)).to(logits)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, shown.permute(0, 2, 3, 1), reduction="sum")
    loss = loss / len(batch.frames)
    return loss, {"cells_loss": loss.item()}


def language_loss(student: Student, batch: Batch, lessons: Lessons) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of the answers' tokens, plus the tower's lesson; one pass through the tower for all questions."""
    model, tower = student.model, _tower(student, batch)
    count, mix = lessons.questions_per_frame, lessons.mix
    asked = [pick_questions(view, student.names, count, batch.rng, mix) for view in batch.views()]
    flat = [question for frame_questions in asked for question in frame_questions]
    row = torch.tensor([index for index, frame_questions in enumerate(asked) for _ in frame_questions])
    ids, mask = _padded([student.vlm.layout(question.text) for question in flat], model.config.pad_token_id)
    answers, real = _padded([_answer_ids(student.vlm, question) for question in flat], IGNORE_INDEX)
    embedded = model.get_input_embeddings()(ids)
    pictures = model.model.multi_modal_projector(tower)[row].to(embedded.dtype)
    embedded = embedded.masked_scatter((ids == model.config.image_token_id)[..., None], pictures)
    logits = model(inputs_embeds=embedded, attention_mask=mask, labels=answers).logits.float()
    language = nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORE_INDEX)
    right = ((logits.argmax(-1) == answers) | (real == 0)).all(1).float().mean().item()
    dense, parts = _cells_loss(student, batch, tower)
    return language + lessons.cells_weight * dense, parts | {"language_loss": language.item(), "right": right}


def _tower(student: Student, batch: Batch) -> Tensor:
    """[B, C, grid, grid]: the last stage of the vision tower."""
    states: Tensor = student.model.model.vision_tower(student.vlm.preprocess(batch.frames)).last_hidden_state
    return states


def _answer_ids(vlm: VLM, question: Question) -> list[int]:
    return [*vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"], vlm.tokenizer.eos_token_id]


def _padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """int64 ids [B, T] padded on the right with `fill`, and 1 where they are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


# Stages.


@dataclass(frozen=True)
class Stage(Course):
    """A course with one loss."""

    loss: Loss


def stages(lessons: Lessons) -> tuple[Stage, Stage]:
    def language(student: Student, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return language_loss(student, batch, lessons)

    return (
        Stage("warm-up", lessons.warmup_steps, lessons.warmup_rate, cells_loss),
        Stage("language", lessons.language_steps, lessons.language_rate, language),
    )


def train(student: Student, sets: Sequence[LabelledFrames], lessons: Lessons, folder: Path, report: Report) -> None:
    """Run both stages, from the last checkpoint in `folder` if there is one; Ctrl-C saves one more and passes on."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=lessons.warmup_rate, weight_decay=lessons.weight_decay)
    at_stage, at_step = _restore(student, optimizer, folder)
    for number, stage in enumerate(stages(lessons)):
        first = at_step if number == at_stage else 0 if number > at_stage else stage.steps
        one_step = partial(_one_step, student, optimizer, stage, number, lessons, sets)
        shared.run(stage, first, one_step, partial(_save, student, optimizer, folder, number), report)


def _one_step(
    student: Student,
    optimizer: torch.optim.Optimizer,
    stage: Stage,
    number: int,
    lessons: Lessons,
    sets: Sequence[LabelledFrames],
    step: int,
) -> dict[str, float]:
    batch = draw(sets, lessons.batch_frames, np.random.default_rng((lessons.seed, number, step)))
    with torch.autocast(student.model.device.type, torch.bfloat16, enabled=lessons.bfloat16):
        loss, metrics = stage.loss(student, batch)
    shared.update(optimizer, student.parameters(), loss, stage.rate_at(step))
    return metrics


def _save(student: Student, optimizer: torch.optim.Optimizer, folder: Path, stage: int, step: int) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in student.model.state_dict().items()}
    tensors |= {f"read_out/{name}": tensor for name, tensor in student.read_out.state_dict().items()}
    shared.save(folder, tensors, optimizer, (stage, step))


def _restore(student: Student, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, int]:
    """(stage, steps done in it); (0, 0) without a checkpoint."""
    if (found := shared.restore(folder, optimizer)) is None:
        return 0, 0
    (stage, step), tensors = found
    student.model.load_state_dict(shared.below(tensors, "model"))
    student.read_out.load_state_dict(shared.below(tensors, "read_out"))
    return stage, step


def new_student(
    architecture: scratch.Architecture,
    names: Sequence[str],
    folder: Path,
    seed: int,
    rooms: Sequence[str] = (),
    start: str | None = None,
) -> Student:
    """A student with random weights, as the checkpoint in `folder` that this writes.

    rooms: as of questions.vocabulary. start: a VLM of the same architecture whose weights it begins with, and the
    embeddings of the words that both know; None = random ones. Raises UserError for one of another architecture.
    """
    scratch.build(architecture, questions.vocabulary(names, rooms), folder, seed)
    vlm = load_vlm(str(folder))
    if start is not None:
        _begin_with(start, vlm)
    vlm.model.train()
    # torch's fused attention is twice as slow as the plain one in a backward pass on a CPU.
    vlm.model.set_attn_implementation("eager")
    read_out = nn.Linear(architecture.tower_widths[-1], 2 * len(names) + len(questions.DISTANCES)).to(vlm.model.device)
    nn.init.constant_(read_out.bias, -3.5)  # a cell shows a given name about 2 % of the time
    return Student(vlm, read_out, tuple(names), architecture.grid)


@torch.no_grad()
def _begin_with(start: str, vlm: VLM) -> None:
    """Copies its weights, and the embeddings word by word: the vocabularies differ."""
    other = load_vlm(start)
    theirs, words = other.model.state_dict(), other.tokenizer.get_vocab()
    embeddings = vlm.model.get_input_embeddings().weight
    for name, weight in vlm.model.state_dict().items():
        if weight.data_ptr() == embeddings.data_ptr():
            continue
        if name in theirs and theirs[name].shape == weight.shape:
            weight.copy_(theirs[name])
        elif embeddings.shape[0] not in weight.shape:
            raise UserError(f"start={start!r} has another architecture: no {name} of the shape {list(weight.shape)}")
    for word, row in vlm.tokenizer.get_vocab().items():
        if word in words:
            embeddings[row] = other.model.get_input_embeddings().weight[words[word]]
